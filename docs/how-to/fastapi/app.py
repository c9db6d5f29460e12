"""A web service that logs in for its users, and uses the token of each of them."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, StreamingResponse

from deviceflow import AsyncClient, Login, LoginPending, OAuth
from deviceflow.errors import UnknownLoginError
from deviceflow.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

ISSUER = os.environ.get("ISSUER", "http://127.0.0.1:8628")
API = os.environ.get("REPORT_API", "http://127.0.0.1:8628/oauth/resource")
PROVIDER = OAuth(issuer=ISSUER, client_id="robot", scopes="read offline_access")


class Listeners:
    """The streams that are open, by the login that each of them shows."""

    def __init__(self) -> None:
        self._queues: dict[str, set[asyncio.Queue[str]]] = {}

    def publish(self, event: dict[str, Any]) -> None:
        """Pass a transition's new state on: the client's `on_transition`."""
        for queue in self._queues.get(event["flow_id"], ()):
            queue.put_nowait(event["to"])

    @contextmanager
    def listen(self, login_id: str) -> Iterator[asyncio.Queue[str]]:
        """Give a queue of the login's states, from now on."""
        queue: asyncio.Queue[str] = asyncio.Queue()
        queues = self._queues.setdefault(login_id, set())
        queues.add(queue)
        try:
            yield queue
        finally:
            queues.remove(queue)
            if not queues:
                self._queues.pop(login_id, None)


listeners = Listeners()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Drive all logins of the store while the service runs."""
    store = os.environ["DEVICEFLOW_STORE"]
    async with (
        AsyncClient(store, on_transition=listeners.publish) as client,
        httpx.AsyncClient() as api,
    ):
        worker = Worker(client)
        driving = asyncio.create_task(worker.run())
        app.state.client, app.state.api = client, api
        yield
        worker.stop()
        await driving


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def page() -> FileResponse:
    """Serve the page that logs a user in."""
    return FileResponse(Path(__file__).with_name("index.html"))


# A real service takes the user from its own session, and not from the path.


@app.post("/users/{user}/login")
async def log_in(user: str) -> dict[str, str | None]:
    """Start the user's login, or show the one that is open; empty if the user is logged in."""
    try:
        await app.state.client.get_token(user, PROVIDER, purpose=f"reports of {user}", mint="now")
    except LoginPending as pending:
        login = pending.login
        if login is None:
            raise HTTPException(503) from None
        return {
            "id": login.id,
            "page": login.verification_uri_complete or login.verification_uri,
            "code": login.user_code,
        }
    return {}


@app.get("/users/{user}/report")
async def report(user: str) -> dict[str, str | int]:
    """Make the user's report. The first one collects the token of the user's login."""
    try:
        token = await app.state.client.get_token(user, PROVIDER)
    except LoginPending:
        raise HTTPException(409, f"Log in first: POST /users/{user}/login") from None
    bearer = {"Authorization": f"Bearer {token.access_token.reveal()}"}
    answer = await app.state.api.get(API, headers=bearer)
    if answer.status_code == 401:
        await app.state.client.invalidate(user, token)  # the next report has a fresh one
        raise HTTPException(503, "Ask again.")
    answer.raise_for_status()
    return {"report": f"of {user}", "generation": token.generation}


@app.get("/logins/{login_id}/events")
async def events(login_id: str) -> StreamingResponse:
    """Stream the login's states to its end, as server-sent events."""
    try:
        await app.state.client.get(login_id)
    except UnknownLoginError:
        raise HTTPException(404) from None
    return StreamingResponse(states(login_id), media_type="text/event-stream")


async def states(login_id: str) -> AsyncIterator[str]:
    """Yield the login's state as it is, and each later one."""
    with listeners.listen(login_id) as queue:  # before the state is read, so that none is missed
        login: Login = await app.state.client.get(login_id)
        state: str = login.state
        yield message(state)
        while state not in ("authorized", "expired", "failed"):
            state = await queue.get()
            yield message(state)


def message(state: str) -> str:
    """Return a state as a server-sent event."""
    return f"data: {json.dumps({'state': state})}\n\n"
