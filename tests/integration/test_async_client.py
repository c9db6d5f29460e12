"""The async client over real HTTP and a real database, and in a process that Ctrl-C ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from blockbuster import blockbuster_ctx

from deviceflow import AsyncClient, Client, OAuth, State
from deviceflow.stores.async_sqlite import AsyncSQLiteStore
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.transports.requests import RequestsTransport
from deviceflow.transports.threaded import ThreadedTransport
from tests.stored import flows as all_flows

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.core.ports import AsyncTransport
    from deviceflow.core.provider import Token
    from tests.integration.conftest import Remote

ROOT: Final = Path(__file__).parents[2]
MANY: Final = 50

PROGRAM: Final = """
import asyncio, sys
from deviceflow import AsyncClient, OAuth
from deviceflow.stores.async_sqlite import AsyncSQLiteStore
from deviceflow.testing import answer

OAUTH = OAuth(
    client_id="robot",
    device_authorization_endpoint="https://as.example.com/code",
    token_endpoint="https://as.example.com/token",
)
PAGE = {"user_code": "U", "verification_uri": "https://as.example.com/device", "interval": 1}

class Server:
    codes = polls = 0

    async def send(self, request, timeout):
        if request.purpose == "code":
            self.codes += 1
            return answer(200, PAGE | {"device_code": f"code {self.codes}", "expires_in": 900})
        self.polls += 1
        if self.polls == MANY + MANY // 2:
            print("polling", flush=True)  # the other half of the second polls is under way
        if self.polls > MANY:
            await asyncio.sleep(60)
        return answer(400, {"error": "authorization_pending"})

    async def close(self):
        pass

async def main():
    store = AsyncSQLiteStore(sys.argv[1], plaintext=True, synchronous="NORMAL")
    async with store, AsyncClient(store, transport=Server()) as client:
        async with asyncio.TaskGroup() as group:
            for _ in range(MANY):
                group.create_task(client.login(OAUTH, open_browser=False))

asyncio.run(main())
"""


@pytest.mark.parametrize("threaded", [False, True])
def test_logins_of_a_task_group_over_http(
    serve: Callable[..., Remote], tmp_path: Path, threaded: bool
) -> None:
    server = serve(interval=1.0)
    provider = OAuth(issuer=server.url, client_id="robot")
    person = asyncio.Lock()

    async def approved(client: AsyncClient) -> Token:
        login = await client.start(provider)
        assert login.user_code
        async with person:
            await asyncio.to_thread(server.person.approve, login.user_code)
        return await client.wait_for_token(login.id)

    async def main() -> list[Token]:
        transport: AsyncTransport | None = None
        if threaded:
            transport = ThreadedTransport(RequestsTransport())
        store = AsyncSQLiteStore(tmp_path / "flows.db", plaintext=True)
        async with store, AsyncClient(store, transport=transport) as client:
            with blockbuster_ctx("deviceflow"):
                return await asyncio.gather(*(approved(client) for _ in range(3)))

    tokens = {token.access_token.reveal() for token in asyncio.run(main())}

    assert len(tokens) == 3


@pytest.mark.skipif(os.name != "posix", reason="it sends a signal")
def test_ctrl_c_leaves_each_login_open_and_no_lease(tmp_path: Path) -> None:
    path = tmp_path / "flows.db"
    running = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", f"MANY = {MANY}\n{PROGRAM}", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "polling\n"
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=30)

    assert running.returncode in (130, -signal.SIGINT)
    assert said.rstrip().endswith("KeyboardInterrupt")
    for trouble in ("never awaited", "was destroyed", "unclosed", "never retrieved", "Warning"):
        assert trouble not in said
    with SQLiteStore(path, plaintext=True) as store:
        flows = list(all_flows(store))
        assert {flow.state for flow in flows} == {State.AWAITING_USER}
        assert len(flows) == MANY
        assert sum(flow.in_doubt for flow in flows) >= MANY // 2
        client = Client(store)
        assert {client.cancel(flow.id).state for flow in flows} == {State.FAILED}
        histories = [store.events(flow.id) for flow in flows]
    logged = {event["action"] for history in histories for event in history}
    assert logged == {"issue_code", "poll", "retry", "let_go", "cancel"}
