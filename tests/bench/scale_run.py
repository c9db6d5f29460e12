"""Runs of `tests.bench.scale`: a server and a store on one core, clients on another."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deviceflow.core.encryption import generate_key
from tests.bench.fast_server import INTERVAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SLOW: Final = 0.25
"""How many seconds the slow server takes for the answer to a poll."""

_FEWER: Final = 2000
"""By how many logins a curve begins lower, if its first load was too much."""


@dataclass(frozen=True)
class Run:
    """What is measured.

    Attributes:
        driver: Who drives the logins: `bare`, `tasks` or `worker`.
        logins: How many wait.
        store: `memory`, `sqlite` or `postgresql`.
        synchronous: SQLite's setting.
        transport: The HTTP client.
        trail: What the trail stores: `each` or `summary`.
        uvloop: Whether the client's event loop is uvloop's.
        seconds: How long to measure.
        approvals: How many logins are approved afterwards.
        concurrency: That of the worker.
    """

    driver: str = "worker"
    logins: int = 10_000
    store: str = "memory"
    synchronous: str = "NORMAL"
    transport: str = "httptools"
    trail: str = "each"
    uvloop: bool = False
    seconds: float = 60.0
    approvals: int = 0
    concurrency: int = 256

    def row(self, got: dict[str, Any]) -> dict[str, Any]:
        """Return the figures of a run, with all that makes a difference."""
        stored = self.driver != "bare" and self.store != "memory"
        return {
            "driver": self.driver,
            "store": "-" if self.driver == "bare" else self.store,
            "sync": self.synchronous if stored and self.store == "sqlite" else "-",
            "trail": self.trail if stored else "-",
            "client": "aiohttp" if self.driver == "bare" else self.transport,
            "loop": "uvloop" if self.uvloop else "asyncio",
            "logins": got["logins"],
            "polls/s": got["polls"] / got["seconds"],
            "due/s": got["logins"] / INTERVAL,
            "early": got["early"],
            "p50 ms": 1e3 * got["late"]["50"],
            "p99 ms": 1e3 * got["late"]["99"],
            "us/poll": 1e6 * got["cpu"] / max(1, got["polls"]),
            "busy": got["cpu"] / got["seconds"],
            "lag ms": 1e3 * got["lag"],
            "B/login": got["bytes"],
            "token ms": got.get("latency"),
            "wal B": got["wal"],
        }


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


class _Client:
    """A client process, and what it says."""

    def __init__(self, run: Run, core: set[int], **where: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.scale_client"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=pinned(core),
            text=True,
        )
        self.tell(json.dumps(asdict(run) | where))

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)

    def told(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"The client process ended with {self.process.wait()}.")
        told: dict[str, Any] = json.loads(line)
        return told

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with self.process.stdin, self.process.stdout, contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
            try:
                self.process.wait(60)
            finally:
                self.process.kill()
                self.process.wait()


@contextlib.contextmanager
def _clients(count: int, run: Run) -> Iterator[tuple[list[_Client], dict[str, str]]]:
    """Start client processes on one core, and return them with where they are sent."""
    mine, others = cores()
    with server(others) as ports, _place(run.store, others) as place:
        url = f"http://127.0.0.1:{ports['http']}"
        where = {"url": url, "place": place, "key": generate_key().reveal()}
        clients = [_Client(run, mine, **where) for _ in range(count)]
        try:
            yield clients, where
        finally:
            for client in clients:
                client.end()


def measure(run: Run) -> dict[str, Any]:
    """Make one run, and return its figures."""
    with _clients(1, run) as ((client,), _):
        return run.row(client.told())


def climb(run: Run, limit: float, most: float) -> Iterator[dict[str, Any]]:
    """Measure with more and more logins, until their lateness passes a limit; one row each.

    Args:
        run: What is measured, with the number of logins to begin with.
        limit: The lateness in milliseconds, at the 99th percentile.
        most: How many seconds to take at the most.
    """
    until = time.monotonic() + most
    while True:
        logins = run.logins
        with _clients(1, run) as ((client,), _):
            while True:
                row = run.row(client.told())
                yield row
                late = row["p99 ms"]
                if row["early"] or late > limit or time.monotonic() > until:
                    break
                # Far from the knee, the steps are longer.
                logins += 1000 * (2 if late < limit / 5 else 1)
                client.tell(str(logins))
        if logins > run.logins or logins <= _FEWER or time.monotonic() > until:
            return
        run = replace(run, logins=logins - _FEWER)  # the first load was too much already


def waiting_polls(run: Run, workers: int) -> float:
    """Return how many polls a second so many workers send, where waiting is all that limits them.

    Their server is slow, and each of them makes few steps at a time.
    """
    with _clients(workers, replace(run, logins=0)) as (clients, where):
        for client in clients:
            client.told()
        _ask(f"{where['url']}/delay?seconds={_SLOW}")
        mine, _ = cores()
        starter = _Client(replace(run, driver="nobody"), mine, **where)
        try:
            got = starter.told()
        finally:
            starter.end()
    polls: float = got["polls"] / got["seconds"]
    return polls


def _ask(url: str) -> None:
    urllib.request.urlopen(url, timeout=60).close()


def machine() -> str:
    """Return what the figures were measured on."""
    import platform

    processor = platform.machine()
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open() as lines:
        processor = next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
            processor,
        )
    parts = [
        processor,
        f"{os.cpu_count()} cores",
        platform.platform(),
        f"{platform.python_implementation()} {platform.python_version()}",
        f"load {os.getloadavg()[0]:.1f}",
    ]
    return ", ".join(parts)
