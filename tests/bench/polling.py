"""The CPU time of one poll: the whole client with its logging, against a bare `requests` loop."""

from __future__ import annotations

import gc
import itertools
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import requests
import structlog

from deviceflow import Client, Studio
from tests.bench.size import size
from tests.bench.table import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROUNDS = size(9)
POLLS = size(300, 30)

_SERVER = Path(__file__).with_name("pending_server.py")


class FastClock:
    """The system's clock, on which waiting takes no time."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def time(self) -> float:
        return time.time() + self._ahead

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead

    def sleep(self, seconds: float) -> None:
        self._ahead += seconds


@contextmanager
def pending_server() -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, str(_SERVER)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


def bare_seconds(session: requests.Session, url: str) -> float:
    begun = time.process_time()
    for _ in range(POLLS):
        session.post(f"{url}/api/device-login/token", json={"code": "x" * 43}, timeout=5).json()
    return time.process_time() - begun


def step_seconds(
    client: Client, clock: FastClock, flow_id: str, before: Callable[[], object] = lambda: None
) -> float:
    begun = time.process_time()
    for _ in range(POLLS):
        before()
        wait = client.step(flow_id).wait_seconds
        clock._ahead += wait
    return time.process_time() - begun


def rows() -> Iterator[Row]:
    with pending_server() as url, Path("/dev/null").open("wb") as sink:
        clock = FastClock()
        client = Client(clock=clock)
        flow = client.start(Studio(url), client_name="bench")
        session = requests.Session()
        structured, plain, bare, log = [], [], [], itertools.cycle((True, False))
        for _ in range(2 * ROUNDS):
            gc.collect()
            if next(log):
                structlog.configure(
                    processors=[structlog.processors.JSONRenderer(orjson.dumps)],
                    logger_factory=structlog.BytesLoggerFactory(sink),
                    cache_logger_on_first_use=True,
                )
                structured.append(step_seconds(client, clock, flow.id))
            else:
                structlog.reset_defaults()
                plain.append(step_seconds(client, clock, flow.id))
            bare.append(bare_seconds(session, url))
    us = [1e6 * statistics.median(times) / POLLS for times in (structured, plain, bare)]
    yield Row("CPU of a poll, logged by structlog / bare Session.post", us[0], us[2], 0.75, "us")
    yield Row("  the same with nobody listening to the log", us[1], us[2], 0.75, "us")
