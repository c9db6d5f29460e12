"""A worker in this process: it survives outages of its store, and clocks that are set."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import AsyncClient
from deviceflow.client.clock import AsyncSystemClock
from deviceflow.errors import StoreError
from deviceflow.stores.async_memory import AsyncMemoryStore
from deviceflow.stores.url import open_async_store
from deviceflow.testing import AsyncScriptedTransport, answer
from deviceflow.worker import Worker, _drive, _worker
from deviceflow.worker._drive import Driven
from deviceflow.worker._schedule import Due
from tests.unit.worker.test_drive import OAUTH

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deviceflow.core.wire import Request, Response

PATIENCE: Final = 60.0  # seconds, for what takes a fraction of one


async def until(so: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not so():  # noqa: ASYNC110  # nobody could set an event
            await asyncio.sleep(0.005)


class Failing(AsyncMemoryStore):
    """Fails to look for logins while it is told to."""

    broken = False
    looks = 0

    async def select(self, query: Any, client_now: float) -> Any:
        self.looks += query.name == "upcoming"
        if self.broken and query.name == "upcoming":
            raise StoreError("The database cannot be reached.")
        return await super().select(query, client_now)


def test_an_idle_worker_waits_no_longer_because_of_a_former_outage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = 0.02
    monkeypatch.setattr(_worker, "_FIRST_PAUSE", first)
    monkeypatch.setattr(_worker, "_LOOK_AGAIN", 0.0)
    monkeypatch.setattr(_worker, "LOOK_EACH", 0.01)
    store, problems = Failing(), list[Exception]()

    async def main() -> None:
        async with AsyncClient(store, transport=AsyncScriptedTransport([])) as client:
            worker = Worker(client, on_problem=problems.append)
            running = asyncio.create_task(worker.run())
            store.broken = True
            await until(lambda: len(problems) >= 3)
            assert worker._pause >= 4 * first
            store.broken = False
            await until(lambda: not worker.counts.store_failed)
            looks = store.looks
            await until(lambda: store.looks >= looks + 3)
            store.broken, known = True, len(problems)
            await until(lambda: len(problems) > known)
            assert worker._pause == first
            worker.stop()
            await running

    asyncio.run(main())


class Set(AsyncSystemClock):
    """A wall clock that somebody sets."""

    by = 0.0

    def time(self) -> float:
        return super().time() + self.by


@pytest.mark.parametrize(
    ("kind", "by"), [("memory", -3600.0), ("sqlite", -3600.0), ("sqlite", 3600.0)]
)
def test_a_worker_goes_on_where_the_clock_is_set(kind: str, by: float, tmp_path: Path) -> None:
    clock, came = Set(), list[float]()

    def pending(_: Request) -> Response:
        came.append(time.monotonic())
        return answer(400, {"error": "authorization_pending"})

    code = answer(
        200,
        {
            "device_code": "DEVICE-CANARY",
            "user_code": "USER-CODE",
            "verification_uri": "https://as.example.com/device",
            "expires_in": 86_400,
            "interval": 1,
        },
    )
    url = "memory:" if kind == "memory" else f"sqlite:///{tmp_path}/flows.db"
    options: dict[str, Any] = {} if kind == "memory" else {"plaintext": True}
    problems = list[Exception]()

    async def main() -> None:
        store = open_async_store(url, **options)
        transport = AsyncScriptedTransport([code, *100 * [pending]])
        async with AsyncClient(store, clock=clock, transport=transport) as client:
            worker = Worker(client, on_problem=problems.append)
            running = asyncio.create_task(worker.run())
            await client.start(OAUTH)
            await until(lambda: came)
            clock.by = by
            await until(lambda: len(came) >= 3)
            worker.stop()
            await running
        await store.close()

    asyncio.run(main())

    assert problems == []
    if by < 0:  # else the wall clock is right: time may have passed while the machine slept
        assert all(later - one >= 1.0 for one, later in pairwise(came))


def test_no_login_is_forgotten_that_is_due_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Counter[str]()

    async def drive(_: Any, flow_id: str, seq: int) -> Driven:
        steps[flow_id] += 1
        return Driven(Due(0.0, flow_id, seq + 1, "here") if steps[flow_id] < 20 else None)

    monkeypatch.setattr(_drive, "drive", drive)

    async def main() -> None:
        async with AsyncClient(AsyncMemoryStore(), transport=AsyncScriptedTransport([])) as client:
            worker = Worker(client)
            for number in range(20):
                worker._schedule.put(Due(0.0, f"f{number}", 1, "here"))
            await worker.run(until_idle=True)

    asyncio.run(main())

    assert set(steps.values()) == {20}
