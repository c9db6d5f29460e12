"""Servers and webhooks that hang, many of them: nobody else waits for them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceflow import AsyncClient, Client, OAuth
from deviceflow.client.turns import Turns
from deviceflow.errors import LoginPending
from deviceflow.stores.async_memory import AsyncMemoryStore
from deviceflow.testing import answer
from deviceflow.worker import Worker

if TYPE_CHECKING:
    from deviceflow.core.wire import Request, Response

MANY: Final = 100
PATIENCE: Final = 20.0  # seconds, for what takes a fraction of one
GOOD: Final = "good.example.com"


@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=200))
def test_an_origin_never_has_more_under_way_than_there_were_places_free(
    places: int, moves: list[tuple[int, bool]]
) -> None:
    turns, under_way, begun = Turns[int](places), list[Any](), Counter[str]()
    for number, (origin, puts) in enumerate(moves):
        if puts:
            turns.put(str(origin), str(number), number)
            turns.put(str(origin), str(number), number)  # once is enough
        elif under_way:
            begun[under_way[0].origin] -= 1
            turns.end(under_way.pop(0))
        waiting = len(turns)
        while (turn := turns.take()) is not None:
            assert begun[turn.origin] < places - len(under_way)
            begun[turn.origin] += 1
            under_way.append(turn)
            waiting -= 1
        assert len(turns) == waiting
        assert turns.free == places - len(under_way) >= 0
        assert not turns.free or all(begun[str(one)] >= turns.free for one in _waiting(turns))


def _waiting(turns: Turns[int]) -> list[str]:
    return [origin for origin, _ in turns._waiting.items()]


class Hanging:
    """Servers of which one answers. The others, and the webhook, do not, until they are let go."""

    def __init__(self) -> None:
        self.go_on, self.hanging = threading.Event(), Counter[str]()
        self.refreshed = threading.Event()
        self._numbers = count(2)

    def send(self, request: Request, timeout: float) -> Response:
        host = urlsplit(request.url).netloc
        if host != GOOD:
            self.hanging["servers"] += 1
            self.go_on.wait(PATIENCE)
            return answer(503, "")
        self.refreshed.set()
        token = {"access_token": f"ACCESS-{next(self._numbers)}", "token_type": "Bearer"}
        return answer(200, token | {"expires_in": 3600, "refresh_token": "REFRESH-2"})

    def close(self) -> None:
        pass

    def notify(self, _: object) -> None:
        self.hanging["webhooks"] += 1
        self.go_on.wait(PATIENCE)
        raise ConnectionError


class AsyncHanging(Hanging):
    """The same for asyncio."""

    async def send(self, request: Request, timeout: float) -> Response:  # type: ignore[override]
        if urlsplit(request.url).netloc == GOOD:
            return super().send(request, timeout)
        self.hanging["servers"] += 1
        while not self.go_on.is_set():  # noqa: ASYNC110  # it is of threads
            await asyncio.sleep(0.05)
        return answer(503, "")

    async def close(self) -> None:  # type: ignore[override]
        pass


def provider(host: str) -> OAuth:
    return OAuth(
        client_id="robot",
        device_authorization_endpoint=f"https://{host}/device_authorization",
        token_endpoint=f"https://{host}/token",
    )


def store_of(hosts: list[str]) -> AsyncMemoryStore:
    """Return a store with a grant at each host, all due, the good one last, and many needs."""
    store = AsyncMemoryStore()
    with Client(store._store) as client:
        for number, host in enumerate([*hosts, GOOD]):
            name = f"grant {number}"
            view = client.adopt_grant(name, provider(host), refresh_token=f"REFRESH {number}")
            store._store.use(view.id, time.time(), ())
            with pytest.raises(LoginPending):
                client.get_token(f"need {number}", provider(host))
    return store


SAME: Final = [*["slow.example.com"] * MANY]
EACH: Final = [f"slow{number}.example.com" for number in range(MANY)]


@pytest.mark.parametrize("hosts", [SAME, EACH], ids=["one server", "many servers"])
def test_sweep_refreshes_the_good_one_while_the_others_hang(hosts: list[str]) -> None:
    net, store = Hanging(), store_of(hosts)
    with Client(store._store, transport=net, notify=net.notify) as client:
        sweeping = threading.Thread(target=client.sweep_grants, kwargs={"limit": 2 * MANY})
        sweeping.start()
        refreshed = net.refreshed.wait(PATIENCE)
        told = net.hanging["webhooks"]
        net.go_on.set()
        sweeping.join()

    assert refreshed
    assert not told, "somebody was notified before the refreshes were done"
    assert net.hanging["servers"] == MANY
    assert net.hanging["webhooks"] > 1


@pytest.mark.parametrize("hosts", [SAME, EACH], ids=["one server", "many servers"])
@pytest.mark.parametrize("by", ["sweep", "worker"])
def test_a_loop_refreshes_the_good_one_while_the_others_hang(hosts: list[str], by: str) -> None:
    net, store = AsyncHanging(), store_of(hosts)

    async def main() -> None:
        async with AsyncClient(store, transport=net, notify=net.notify) as client:
            worker = Worker(client)
            run = worker.run if by == "worker" else partial(client.sweep_grants, limit=2 * MANY)
            running = asyncio.create_task(run())
            try:
                async with asyncio.timeout(PATIENCE):
                    while not net.refreshed.is_set() or net.hanging["servers"] < MANY / 2:  # noqa: ASYNC110  # likewise
                        await asyncio.sleep(0.01)
            finally:
                net.go_on.set()
            worker.stop()
            await running

    asyncio.run(main())

    assert net.refreshed.is_set()
