"""What a stored trail takes: rows, bytes and CPU of a poll, with each event and summarized.

`python -m tests.bench.volume` prints a table for SQLite and PostgreSQL, and what follows for 10,000
logins that are polled every 5 seconds. The CPU is that of the store and the trail: the two
transactions of a poll, its events rendered, linked and logged. No request is sent.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson
import psycopg
import structlog

from deviceflow import Studio
from deviceflow.audit import log
from deviceflow.audit.events import render
from deviceflow.audit.mode import MODES
from deviceflow.core.encryption import generate_key
from deviceflow.core.flow import Flow
from deviceflow.core.ports import Claim, Origin
from deviceflow.stores.postgres import PostgresStore
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import answer
from tests.bench.size import size
from tests.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.audit.mode import TrailMode
    from deviceflow.stores.sql import SQLStore

ROUNDS: Final = size(7)
POLLS: Final = size(200, 10)
LOGINS: Final = size(10, 2)
POLLS_A_DAY: Final = 10_000 * 86_400 // 5
LOGINS_A_DAY: Final = 10_000 * 86_400 // 900
"""Those of 10,000 that wait at any time, if each takes 15 minutes."""
ROWS_OF_A_LOGIN: Final = 4
"""With a summary: issue_code, issue_token, collect, acknowledge."""

_CODE: Final = {
    "device_code": "x" * 43,
    "user_code": "ABCD-EFGH",
    "verification_uri": "https://studio.example.com/page",
    "token_uri": "https://studio.example.com/token",
    "token_name": "bench",
    "expires_in": 2_000_000,
}
_STUDIO: Final = Studio("https://studio.example.com")


class Measured(NamedTuple):
    """What polls took.

    Attributes:
        micros: The CPU of a poll in microseconds.
        server: The same of the database's server, if there is one.
        rows: How many rows a poll writes to the trail.
        size: How many bytes of the trail, with its index, a poll takes.
        flow: How many bytes a waiting login's row has.
    """

    micros: float
    server: float
    rows: float
    size: float
    flow: float


_PENDING: Final = answer(400, {"error": "authorization_pending"})
_WORKER: Final = Origin("a client.7.1", "host", 7, actor="robot")


def _bytes_of_trail(store: SQLStore) -> int:
    if isinstance(store, SQLiteStore):
        connection: Any = store._connection.connected()
        statement = "SELECT SUM(pgsize) FROM dbstat WHERE name LIKE '%audit%'"
        try:
            return int(connection.execute(statement).fetchone()[0])
        except Exception:  # noqa: BLE001  # a build without dbstat: what the rows themselves take
            values = "LENGTH(flow_id) + LENGTH(time) + LENGTH(hash) + LENGTH(mac) + LENGTH(text)"
            found = connection.execute(f"SELECT SUM({values} + 16) FROM audit").fetchone()
            return int(found[0])
    return int(_ask(store, "SELECT pg_total_relation_size('deviceflow.audit')"))


def _ask(store: SQLStore, statement: str) -> Any:
    if isinstance(store, SQLiteStore):
        return store._connection.connected().execute(statement).fetchone()[0]
    assert isinstance(store, PostgresStore)
    with psycopg.connect(store._connection._url.reveal(), autocommit=True) as connection:
        found: Any = connection.execute(statement).fetchone()
        return found[0]


def _rows(store: SQLStore) -> int:
    return int(_ask(store, f"SELECT COUNT(*) FROM {store._connection.statements.table('audit')}"))


class _Polled:
    def __init__(self, store: SQLStore, server: int | None) -> None:
        self.store = store
        self._server = server
        self._flows = [self._started(f"f{number}") for number in range(LOGINS)]
        self._before = _rows(store), _bytes_of_trail(store)
        self.times: list[float] = []
        self.server_times: list[float] = []

    def _started(self, flow_id: str) -> str:
        flow = Flow(flow_id, _STUDIO, time.time())
        self.store.add(flow)
        transition = flow.receive(answer(200, _CODE), time.time())
        assert self.store.commit(flow, render(flow, transition, _WORKER))
        return flow_id

    def run(self) -> None:
        """Poll, and note the CPU of a poll."""
        begun, server = time.process_time(), _cpu_of(self._server)
        for _ in range(POLLS // LOGINS):
            for flow_id in self._flows:
                self._poll(flow_id)
        polls = POLLS // LOGINS * LOGINS
        self.times.append((time.process_time() - begun) / polls)
        self.server_times.append((_cpu_of(self._server) - server) / polls)

    def _poll(self, flow_id: str) -> None:
        claim = self.store.claim(flow_id, "w", time.time(), 30.0, _announced)
        assert isinstance(claim, Claim)
        assert claim.event is not None
        log.emit(log.TRANSITION, claim.event)
        transition = claim.flow.receive(_PENDING, claim.now, duration=0.01)
        event = render(claim.flow, transition, _WORKER)
        assert self.store.commit(claim.flow, event, release="w")
        log.emit(log.TRANSITION, event)

    def measured(self) -> Measured:
        polls = len(self.times) * (POLLS // LOGINS * LOGINS)
        rows, taken = _rows(self.store), _bytes_of_trail(self.store)
        progress = (
            f"SELECT AVG(LENGTH(progress)) FROM {self.store._connection.statements.table('flows')}"
        )
        return Measured(
            1e6 * statistics.median(self.times),
            1e6 * statistics.mean(self.server_times),
            (rows - self._before[0]) / polls,
            (taken - self._before[1]) / polls,
            float(_ask(self.store, progress)),
        )


def _announced(claim: Claim) -> dict[str, Any]:
    return render(claim.flow, claim.flow.poll(claim.now, 10.0), _WORKER)


def _cpu_of(server: int | None) -> float:
    """Return the CPU seconds that a server and its children have taken so far."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat") if server else ():
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if server in (int(fields[1]), int(path.parent.name)):
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def measure() -> Iterator[tuple[str, TrailMode, Measured]]:
    """Yield what a poll takes, by kind of store and mode of the trail."""
    with ExitStack() as stack:
        sink = stack.enter_context(Path("/dev/null").open("wb"))
        structlog.configure(
            processors=[structlog.processors.JSONRenderer(orjson.dumps)],
            logger_factory=structlog.BytesLoggerFactory(sink),
            cache_logger_on_first_use=True,
        )
        stack.callback(structlog.reset_defaults)
        server = stack.enter_context(PostgresServer())
        for kind in ("SQLite, NORMAL", "SQLite, FULL", "PostgreSQL"):
            polled: dict[TrailMode, _Polled] = {}
            for mode in MODES:
                store: SQLStore
                if kind == "PostgreSQL":
                    store = PostgresStore(server.database(), keys=[generate_key()], trail=mode)
                else:
                    path = Path(stack.enter_context(TemporaryDirectory()), "flows.db")
                    synchronous: Any = kind.rpartition(" ")[2]
                    store = SQLiteStore(path, synchronous=synchronous, trail=mode)
                pid = server._process.pid if server._process and kind == "PostgreSQL" else None
                polled[mode] = _Polled(stack.enter_context(store), pid)
            for _ in range(ROUNDS):
                for one in polled.values():
                    one.run()
            for mode, one in polled.items():
                yield kind, mode, one.measured()


def main() -> int:
    """Print what a poll takes, and what 10,000 logins take a day."""
    head = f"{'CPU us':>7} {'server':>7} {'rows':>5} {'bytes':>6} {'record':>7}"
    print(f"{'store':<16} {'trail':<8} {head}")
    each: dict[str, Measured] = {}
    for kind, mode, m in measure():
        figures = f"{m.micros:>7.0f} {m.server:>7.0f} {m.rows:>5.2f} {m.size:>6.0f} {m.flow:>7.0f}"
        print(f"{kind:<16} {mode:<8} {figures}")
        if mode == "each":
            each[kind] = m
    print(f"\n10,000 logins at 5 s, {LOGINS_A_DAY:,} a day that take 15 minutes:")
    for kind, m in each.items():
        a_row = m.size / max(m.rows, 1)
        rows, summed = POLLS_A_DAY * m.rows, LOGINS_A_DAY * ROWS_OF_A_LOGIN
        print(
            f"{kind:<16} each {rows / 1e6:,.0f} million rows, {rows * a_row / 1e9:,.0f} GB; summary"
            f" {summed / 1e6:,.1f} million rows, {summed * a_row / 1e9:,.1f} GB a day"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
