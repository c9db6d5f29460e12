"""A thousand readers of a grant while it is refreshed: one request."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import AsyncClient, Client, OAuth, open_store
from deviceflow.client import recorder
from deviceflow.core.encryption import generate_key
from deviceflow.core.grant import Grant
from deviceflow.core.provider import Token
from deviceflow.core.secret import Secret
from deviceflow.stores.url import open_async_store
from deviceflow.testing import answer

if TYPE_CHECKING:
    from pathlib import Path

    from deviceflow.core.wire import Request, Response

READERS: Final = 1000
CLIENTS: Final = 4
"""How many clients they share: a client stands for a process, since clients share nothing."""

PROVIDER: Final = OAuth(
    client_id="robot",
    device_authorization_endpoint="https://as.example.com/device",
    token_endpoint="https://as.example.com/token",
)
NEXT: Final = {"access_token": "ACCESS-2", "refresh_token": "REFRESH-2", "expires_in": 3600}


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/grants.db"
    given: str = request.getfixturevalue("postgres_url")
    return given


@pytest.fixture
def key(url: str) -> Secret:
    """Store a grant whose access token has ended; return the store's key."""
    key, now = generate_key(), time.time()
    with open_store(url, keys=[key]) as store:  # type: ignore[attr-defined]
        grant = Grant("g1", "nightly", PROVIDER, now - 7200)
        token = Token(Secret("ACCESS-1"), expires_at=now - 60, refresh_token=Secret("REFRESH-1"))
        given = grant.log_in(token, PROVIDER, now - 3660, flow_id="f1")
        event = recorder.render_grant(Client(store)._context, grant, given, "w0")
        assert store.commit(grant, event)
    return key


def patience(url: str) -> dict[str, Any]:
    """Return how a store is opened that may be slow: so many wait for few connections."""
    return {} if url.startswith("sqlite") else {"timeout": 300.0}


class Server:
    """A server that answers when all readers are there."""

    def __init__(self) -> None:
        self.here = self.asked = 0
        self._lock = threading.Lock()

    def arrive(self) -> None:
        with self._lock:
            self.here += 1

    def send(self, request: Request, timeout: float) -> Response:
        with self._lock:
            self.asked += 1
        while self.here < READERS:
            time.sleep(0.001)
        return answer(200, NEXT)

    def close(self) -> None:
        pass


class AsyncServer(Server):
    def __init__(self) -> None:
        super().__init__()
        self._all_here = asyncio.Event()

    def arrive(self) -> None:
        super().arrive()
        if self.here == READERS:
            self._all_here.set()

    async def send(self, request: Request, timeout: float) -> Response:  # type: ignore[override]  # noqa: ASYNC109
        self.asked += 1
        await self._all_here.wait()
        return answer(200, NEXT)

    async def close(self) -> None:  # type: ignore[override]
        pass


def test_thousand_threads_cause_one_request(url: str, key: Secret) -> None:
    server = Server()
    stores: list[Any] = [open_store(url, keys=[key], **patience(url)) for _ in range(CLIENTS)]
    clients = [Client(store, transport=server, deadline=300) for store in stores]

    def read(number: int) -> str:
        server.arrive()
        return clients[number % CLIENTS].get_token("nightly").access_token.reveal()

    with ThreadPoolExecutor(READERS) as pool:
        given = Counter(pool.map(read, range(READERS)))
    for store in stores:
        store.close()

    assert (given, server.asked) == ({"ACCESS-2": READERS}, 1)


def test_thousand_tasks_cause_one_request(url: str, key: Secret) -> None:
    server = AsyncServer()

    async def run() -> Counter[str]:
        stores: list[Any] = [
            open_async_store(url, keys=[key], **patience(url)) for _ in range(CLIENTS)
        ]
        clients = [AsyncClient(store, transport=server, deadline=300) for store in stores]

        async def read(number: int) -> str:
            server.arrive()
            return (await clients[number % CLIENTS].get_token("nightly")).access_token.reveal()

        given = Counter(await asyncio.gather(*(read(number) for number in range(READERS))))
        for client, store in zip(clients, stores, strict=True):
            await client.close()
            await store.close()
        return given

    assert (asyncio.run(run()), server.asked) == ({"ACCESS-2": READERS}, 1)
