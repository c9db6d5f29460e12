"""The client process of `tests.bench.scale`: it starts logins, and drives them.

Its options come as a line of JSON on stdin. For each load that it has measured, it prints a line of
JSON. It imports only what it measures.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import json
import os
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from tests.bench.fast_server import INTERVAL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from deviceflow.client._async import AsyncClient
    from deviceflow.core.ports import AsyncStore, AsyncTransport

_AT_ONCE: Final = 64
"""How many logins are started at a time."""

_SAMPLE: Final = 0.02
"""Seconds between two looks at how late the event loop is."""


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _transport(options: Any) -> AsyncTransport:
    from deviceflow.transports._limits import CONNECTIONS

    name = options.transport
    module = importlib.import_module(f"deviceflow.transports.{name}")
    kind = getattr(module, f"{name.capitalize()}Transport")
    made: AsyncTransport = kind(connections=max(CONNECTIONS, options.concurrency))
    return made


def _store(options: Any) -> AsyncStore:
    from deviceflow.stores.url import open_async_store

    if options.store == "memory":
        return open_async_store("memory:")
    how: dict[str, Any] = {"keys": [options.key], "trail": options.trail}
    if options.store == "sqlite":
        place = f"sqlite:///{options.place}/flows.db"
        return open_async_store(place, synchronous=options.synchronous, **how)
    return open_async_store(options.place, **how)


def _log_to_nowhere() -> None:
    import orjson
    import structlog

    structlog.configure(
        processors=[structlog.processors.JSONRenderer(orjson.dumps)],
        logger_factory=structlog.BytesLoggerFactory(Path("/dev/null").open("wb")),  # noqa: SIM115
        cache_logger_on_first_use=True,  # as `deviceflow.logs.configure` has it
    )


class Latencies:
    """From the moment at which an ideal poller has a token, in milliseconds."""

    def __init__(self) -> None:
        self.measured: list[float] = []

    def add(self, token: str) -> None:
        self.measured.append(1e3 * (time.monotonic() - float(token)))

    @property
    def mean(self) -> float | None:
        return sum(self.measured) / len(self.measured) if self.measured else None


# Drivers: each yields what starts a login, which is driven from then on.


@contextlib.asynccontextmanager
async def _bare(options: Any, latencies: Latencies) -> AsyncIterator[Any]:
    import aiohttp

    tasks: list[asyncio.Task[None]] = []
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    async with aiohttp.ClientSession() as session:

        async def start() -> None:
            async with session.post(f"{options.url}/code", json={}) as said:
                code = (await said.json())["device_code"]
            tasks.append(asyncio.create_task(poll(json.dumps({"code": code}).encode())))

        async def poll(body: bytes) -> None:
            while True:
                await asyncio.sleep(INTERVAL)
                async with session.post(f"{options.url}/token", data=body, headers=headers) as said:
                    if token := json.loads(await said.read()).get("access_token"):
                        latencies.add(token)
                        return

        yield start
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def _client(options: Any) -> AsyncIterator[AsyncClient]:
    from deviceflow import AsyncClient

    _log_to_nowhere()
    store = _store(options)
    client = AsyncClient(store, transport=_transport(options))
    yield client
    await client.close()
    await store.close()


@contextlib.asynccontextmanager
async def _tasks(options: Any, latencies: Latencies) -> AsyncIterator[Any]:
    from deviceflow import Studio

    studio, tasks = Studio(options.url), set[asyncio.Task[None]]()
    async with _client(options) as client:

        async def start() -> None:
            login = await client.start(studio, client_name="bench")
            tasks.add(asyncio.create_task(wait(login.id)))

        async def wait(flow_id: str) -> None:
            token = await client.wait_for_token(flow_id)
            latencies.add(token.access_token.reveal())

        yield start
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def _worker(options: Any, latencies: Latencies) -> AsyncIterator[Any]:
    from deviceflow import Studio
    from deviceflow.worker import Worker

    studio, taking = Studio(options.url), set[asyncio.Task[None]]()
    async with _client(options) as client:

        async def start() -> None:
            await client.start(studio, client_name="bench")

        async def take(flow_id: str) -> None:
            latencies.add((await client.collect_token(flow_id)).access_token.reveal())

        def stepped(step: Any) -> None:
            if step.login is not None and step.login.state == "authorized":
                taking.add(asyncio.create_task(take(step.login.id)))

        worker = Worker(client, concurrency=options.concurrency, on_step=stepped)
        running = asyncio.create_task(worker.run())
        yield start
        worker.stop()
        await running


@contextlib.asynccontextmanager
async def _nobody(options: Any, _: Latencies) -> AsyncIterator[Any]:
    from deviceflow import Studio

    studio = Studio(options.url)
    async with _client(options) as client:

        async def start() -> None:
            await client.start(studio, client_name="bench")

        yield start


_DRIVERS: Final[dict[str, Any]] = {
    "bare": _bare,
    "tasks": _tasks,
    "worker": _worker,
    "nobody": _nobody,
}


# What is measured.


class _Session:
    """Starts logins, and measures while they wait."""

    def __init__(self, options: Any, start: Callable[[], Awaitable[object]]) -> None:
        self._options = options
        self._start = start
        self._logins = 0

    async def measure(self, logins: int) -> dict[str, Any]:
        """Have so many logins wait, and return the figures of some seconds."""
        await self._have(logins // 2)
        gc.collect()
        before, fewer = _resident(), self._logins
        await self._have(logins)
        gc.collect()
        each = (_resident() - before) / (logins - fewer)
        gc.freeze()
        await asyncio.sleep(INTERVAL * 1.5)
        logged = await self._logged()
        await self.ask("/reset")
        lags: list[float] = []
        sampling = asyncio.create_task(_sample(lags))
        cpu = time.process_time()
        await asyncio.sleep(self._options.seconds)
        cpu = time.process_time() - cpu
        sampling.cancel()
        counts = await self.ask("/counts")
        if logged is not None:
            logged = ((await self._logged() or 0) - logged) / max(1, counts["polls"])
        return {
            "logins": logins,
            "cpu": cpu,
            "bytes": each,
            "lag": sorted(lags)[len(lags) * 99 // 100],
            "wal": logged,
            **counts,
        }

    async def _have(self, logins: int) -> None:
        """Start logins until there are so many, spread over at least one interval."""
        count, self._logins = logins - self._logins, max(logins, self._logins)
        if count <= 0:
            return
        numbers, began = iter(range(count)), time.monotonic()

        async def some() -> None:
            for number in numbers:
                await asyncio.sleep(began + INTERVAL * number / count - time.monotonic())
                await self._start()

        await asyncio.gather(*(some() for _ in range(_AT_ONCE)))

    async def approve(self, latencies: Latencies) -> float | None:
        """Have logins approved, and return the mean time until their tokens were there."""
        seconds = 2 * INTERVAL
        await self.ask(f"/approve?count={self._options.approvals}&seconds={seconds}")
        await asyncio.sleep(seconds + 2 * INTERVAL)
        return latencies.mean

    async def ask(self, path: str) -> Any:
        return await asyncio.to_thread(_ask, self._options.url + path)

    async def _logged(self) -> int | None:
        """Return how many bytes PostgreSQL has written ahead, if that is the store."""
        if self._options.driver == "bare" or self._options.store != "postgresql":
            return None
        return await asyncio.to_thread(_logged, self._options.place)


def _ask(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as said:
        return json.loads(said.read())


def _logged(place: str) -> int:
    import psycopg

    with psycopg.connect(place) as connection:
        found = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
    return int((found or (0,))[0])


async def _sample(lags: list[float]) -> None:
    while True:
        began = time.monotonic()
        await asyncio.sleep(_SAMPLE)
        lags.append(time.monotonic() - began - _SAMPLE)


def _show(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


async def _run(options: Any) -> None:
    gc.set_threshold(20_000, 20, 50)  # as `deviceflow worker` has it
    latencies = Latencies()
    async with _DRIVERS[options.driver](options, latencies) as start:
        if not options.logins:
            _show({})
            await asyncio.to_thread(sys.stdin.read)  # until it is closed
            return
        session = _Session(options, start)
        logins = options.logins
        while logins:
            measured = await session.measure(logins)
            if options.approvals:
                measured["latency"] = await session.approve(latencies)
            _show(measured)
            line = await asyncio.to_thread(sys.stdin.readline)  # how many next
            logins = int(line or 0)


def main() -> None:
    options = SimpleNamespace(**json.loads(sys.stdin.readline()))
    loop = importlib.import_module("uvloop" if options.uvloop else "asyncio")
    with asyncio.Runner(loop_factory=loop.new_event_loop) as runner:
        runner.run(_run(options))


if __name__ == "__main__":
    main()
