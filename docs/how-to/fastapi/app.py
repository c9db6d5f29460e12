"""A web service that logs in for its users, and streams the progress of each login."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse

from deviceflow import AsyncClient, Login, OAuth
from deviceflow.errors import UnknownLoginError
from deviceflow.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

PROVIDER = OAuth(issuer=os.environ.get("ISSUER", "https://login.example.com"), client_id="robot")


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
    async with AsyncClient(store, on_transition=listeners.publish) as client:
        worker = Worker(client)
        driving = asyncio.create_task(worker.run())
        app.state.client = client
        yield
        worker.stop()
        await driving


app = FastAPI(lifespan=lifespan)


@app.post("/users/{user}/login")
async def start(user: str) -> dict[str, str | None]:
    """Start the user's login, or show the one that is open."""
    login = await app.state.client.start(PROVIDER, name=user, purpose=f"reports of {user}")
    return {
        "id": login.id,
        "page": login.verification_uri_complete or login.verification_uri,
        "code": login.user_code,
    }


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
