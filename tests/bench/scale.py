"""How many logins one core drives: `python -m tests.bench.scale`.

A client process has a core of its own. A server, and PostgreSQL if that is the store, share another
one. Each login polls every five seconds. What is measured begins once all logins wait.

`--driver bare` is what the others are compared with: aiohttp, and one sleeping task for each login,
without deviceflow. `tasks` is `AsyncClient.wait_for_token` in one task for each login, and `worker`
is `deviceflow.worker.Worker`. The rows name everything that makes a difference. `--knee` makes one
run for each number of logins, until they are late, and draws the curve.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.bench.fast_server import INTERVAL
from tests.bench.plot import chart

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from deviceflow.client._async import AsyncClient
    from deviceflow.core.ports import AsyncStore, AsyncTransport

AT_ONCE: Final = 64
"""How many logins are started at a time."""

LATE: Final = 250.0
"""The lateness in milliseconds, at the 99th percentile, at which the knee is."""

_HERE: Final = Path(__file__)


# The client process.


def _ask(url: str, path: str) -> Any:
    with urllib.request.urlopen(f"{url}{path}", timeout=60) as said:
        return json.loads(said.read())


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _transport(name: str) -> AsyncTransport:
    module = importlib.import_module(f"deviceflow.transports.{name}")
    made: AsyncTransport = getattr(module, f"{name.capitalize()}Transport")()
    return made


def _store(options: argparse.Namespace) -> AsyncStore:
    from deviceflow.core.encryption import generate_key
    from deviceflow.stores.url import open_async_store

    if options.store == "memory":
        return open_async_store("memory:")
    how: dict[str, Any] = {"keys": [generate_key()], "trail": options.trail}
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


async def _each(count: int, work: Callable[[], Awaitable[object]]) -> None:
    """Do something so many times, spread over at least one interval."""
    numbers, began = iter(range(count)), time.monotonic()

    async def some() -> None:
        for number in numbers:
            await asyncio.sleep(began + INTERVAL * number / count - time.monotonic())
            await work()

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))


@contextlib.asynccontextmanager
async def _bare(options: argparse.Namespace, latencies: Latencies) -> Any:
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


def _client(options: argparse.Namespace) -> AsyncClient:
    from deviceflow import AsyncClient

    _log_to_nowhere()
    return AsyncClient(_store(options), transport=_transport(options.transport))


@contextlib.asynccontextmanager
async def _tasks(options: argparse.Namespace, latencies: Latencies) -> Any:
    from deviceflow import Studio

    client, studio, tasks = _client(options), Studio(options.url), set[asyncio.Task[None]]()

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
    await _closed(client)


@contextlib.asynccontextmanager
async def _worker(options: argparse.Namespace, latencies: Latencies) -> Any:
    from deviceflow import Studio

    worker_module: Any = importlib.import_module("deviceflow.worker")
    client, studio = _client(options), Studio(options.url)
    taking = set[asyncio.Task[None]]()

    async def take(flow_id: str) -> None:
        latencies.add((await client.collect_token(flow_id)).access_token.reveal())

    def stepped(step: Any) -> None:
        if step.login is not None and step.login.state == "authorized":
            taking.add(asyncio.create_task(take(step.login.id)))

    worker = worker_module.Worker(client, concurrency=options.concurrency, on_step=stepped)
    running = asyncio.create_task(worker.run())

    async def start() -> None:
        await client.start(studio, client_name="bench")

    yield start
    worker.stop()
    await running
    await _closed(client)


async def _closed(client: AsyncClient) -> None:
    await client.close()
    await client._store.close()


_DRIVERS: Final[dict[str, Any]] = {"bare": _bare, "tasks": _tasks, "worker": _worker}


async def _child(options: argparse.Namespace) -> None:
    latencies = Latencies()

    async def ask(path: str) -> Any:
        return await asyncio.to_thread(_ask, options.url, path)

    async with _DRIVERS[options.driver](options, latencies) as start:
        await _each(AT_ONCE, start)
        gc.collect()
        before = _resident()
        await _each(options.logins - AT_ONCE, start)
        gc.collect()
        each = (_resident() - before) / max(1, options.logins - AT_ONCE)
        gc.freeze()
        await asyncio.sleep(INTERVAL * 1.5)
        await ask("/reset")
        cpu = time.process_time()
        await asyncio.sleep(options.seconds)
        cpu = time.process_time() - cpu
        counts = await ask("/counts")
        if options.approvals:
            await ask(f"/approve?count={options.approvals}&seconds={options.seconds / 2}")
            await asyncio.sleep(options.seconds / 2 + 2 * INTERVAL)
        measured = latencies.measured
        print(
            json.dumps(
                counts
                | {
                    "cpu": cpu,
                    "bytes": each,
                    "tokens": len(measured),
                    "latency": sum(measured) / len(measured) if measured else None,
                }
            ),
            flush=True,
        )


def _run_child(options: argparse.Namespace) -> None:
    loop = importlib.import_module("uvloop" if options.uvloop else "asyncio")
    with asyncio.Runner(loop_factory=loop.new_event_loop) as runner:
        runner.run(_child(options))


# The process that starts the others.


def cores() -> tuple[set[int], set[int]]:
    """Return a core for the client, and one for what it talks to."""
    if not hasattr(os, "sched_getaffinity"):  # not on Linux
        return set(), set()
    first, *others = sorted(os.sched_getaffinity(0))
    return {first}, {others[0]} if others else {first}


def pinned(core: set[int]) -> Callable[[], None] | None:
    return (lambda: os.sched_setaffinity(0, core)) if core else None


@contextlib.contextmanager
def server(core: set[int], certificate: str | None = None) -> Iterator[dict[str, int]]:
    """Start a server on a core, and return its ports by scheme."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.fast_server", *([certificate] if certificate else [])],
        stdout=subprocess.PIPE,
        preexec_fn=pinned(core),
    ) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.kill()


@contextlib.contextmanager
def _place(store: str, core: set[int]) -> Iterator[str]:
    """Return a new folder, or the address of a new PostgreSQL on a core."""
    if store != "postgresql":
        with tempfile.TemporaryDirectory() as folder:
            yield folder
        return
    from tests.postgres import PostgresServer

    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, core)
    try:
        postgres = PostgresServer(durable=True)
    finally:
        os.sched_setaffinity(0, ours)
    with postgres:
        yield postgres.url


def measure(options: argparse.Namespace, **changed: Any) -> dict[str, Any]:
    """Make one run, and return its figures."""
    chosen = vars(options) | changed
    mine, others = cores()
    with server(others) as ports, _place(chosen["store"], others) as place:
        flags = [
            f"--{name.replace('_', '-')}={chosen[name]}"
            for name in (
                *("driver", "logins", "store", "synchronous", "transport", "seconds"),
                *("approvals", "concurrency", "trail"),
            )
        ]
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tests.bench.scale", "--child", *flags),
                *(f"--url=http://127.0.0.1:{ports['http']}", f"--place={place}"),
                *(["--uvloop"] if chosen["uvloop"] else []),
            ],
            stdout=subprocess.PIPE,
            preexec_fn=pinned(mine),
            check=True,
        )
    got: dict[str, Any] = json.loads(done.stdout)
    polls = max(1, got["polls"])
    stored = chosen["driver"] != "bare" and chosen["store"] != "memory"
    return {
        "driver": chosen["driver"],
        "store": "-" if chosen["driver"] == "bare" else chosen["store"],
        "sync": chosen["synchronous"] if chosen["store"] == "sqlite" else "-",
        "trail": chosen["trail"] if stored else "-",
        "client": "aiohttp" if chosen["driver"] == "bare" else chosen["transport"],
        "loop": "uvloop" if chosen["uvloop"] else "asyncio",
        "logins": chosen["logins"],
        "polls/s": got["polls"] / got["seconds"],
        "due/s": chosen["logins"] / INTERVAL,
        "early": got["early"],
        "p50 ms": 1e3 * got["late"]["50"],
        "p99 ms": 1e3 * got["late"]["99"],
        "us/poll": 1e6 * got["cpu"] / polls,
        "busy": got["cpu"] / got["seconds"],
        "B/login": got["bytes"],
        "token ms": got["latency"],
    }


_COLUMNS: Final = {
    "driver": 7,
    "store": 10,
    "sync": 6,
    "trail": 7,
    "client": 9,
    "loop": 7,
    "logins": 6,
    "polls/s": 7,
    "due/s": 6,
    "early": 5,
    "p50 ms": 7,
    "p99 ms": 7,
    "us/poll": 7,
    "ratio": 5,
    "busy": 5,
    "B/login": 7,
    "token ms": 8,
}


def _line(row: dict[str, Any]) -> str:
    def cell(name: str) -> str:
        value = row.get(name)
        if value is None:
            return "-"
        if isinstance(value, float):
            return f"{value:.2f}" if name in ("ratio", "busy") else f"{value:.1f}"
        return str(value)

    return "  ".join(f"{cell(name):>{width}}" for name, width in _COLUMNS.items())


def _knee(options: argparse.Namespace, path: Path) -> Iterator[dict[str, Any]]:
    line: list[tuple[float, float]] = []
    for logins in options.steps:
        row = measure(options, logins=logins, approvals=0)
        yield row
        line.append((logins, row["p99 ms"]))
        if row["p99 ms"] > LATE:
            break
    name = f"{options.driver}, {options.store}, {options.transport}"
    known = json.loads(path.with_suffix(".json").read_text()) if path.exists() else {}
    known[name] = line
    path.with_suffix(".json").write_text(json.dumps(known))
    path.write_text(
        chart(
            known,
            title="Lateness of polls on one core, by the number of waiting logins",
            x="logins that poll every 5 seconds",
            y="lateness in ms, 99th percentile",
            limit=LATE,
        )
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    parser.add_argument("--driver", choices=_DRIVERS, default="worker")
    parser.add_argument("--logins", type=int, default=10_000)
    parser.add_argument("--store", choices=("memory", "sqlite", "postgresql"), default="memory")
    parser.add_argument("--synchronous", choices=("NORMAL", "FULL"), default="NORMAL")
    parser.add_argument(
        "--transport", choices=("httptools", "aiohttp", "httpx"), default="httptools"
    )
    parser.add_argument("--trail", choices=("each", "summary"), default="each")
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to measure")
    parser.add_argument("--approvals", type=int, default=0, help="how many to approve afterwards")
    parser.add_argument("--concurrency", type=int, default=256, help="of a worker")
    parser.add_argument("--no-bare", action="store_true", help="compare with nothing")
    parser.add_argument("--knee", type=Path, metavar="SVG", help="add a curve to a plot")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[*range(4_000, 20_001, 2_000)], help="for --knee"
    )
    for hidden in ("--url", "--place"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.child:
        _run_child(options)
        return
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores")
    print(_line({name: name for name in _COLUMNS}))
    if options.knee:
        for row in _knee(options, options.knee):
            print(_line(row), flush=True)
        return
    bare = None if options.no_bare else measure(options, driver="bare")
    if bare is not None:
        print(_line(bare | {"ratio": 1.0}), flush=True)
    row = measure(options)
    if bare is not None:
        row["ratio"] = row["us/poll"] / bare["us/poll"]
    print(_line(row))


if __name__ == "__main__":
    main()
