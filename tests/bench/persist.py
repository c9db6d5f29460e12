"""What it costs to keep flows in SQLite: writing steps, polling, and finding what is due."""

from __future__ import annotations

import sqlite3
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, Literal

import orjson
import requests
import structlog

from deviceflow import Client, Studio
from deviceflow.audit.chain import link, row_of
from deviceflow.audit.events import render
from deviceflow.core.encryption import generate_key
from deviceflow.core.flow import Flow
from deviceflow.core.ports import Origin
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from tests.bench.imports import COMMAND, compiled, wall
from tests.bench.polling import POLLS, FastClock, bare_seconds, pending_server, step_seconds
from tests.bench.size import size
from tests.bench.table import Row
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deviceflow.core.wire import Response

    Synchronous = Literal["FULL", "NORMAL"]

ROUNDS: Final = size(7)
WRITES: Final = size(1000, 100)
MANY: Final = size(100_000, 2_000)

_CODE: Final = {
    "device_code": "x" * 43,
    "user_code": "ABCD-EFGH",
    "verification_uri": "https://studio.example.com/page",
    "token_uri": "https://studio.example.com/token",
    "token_name": "bench",
    "expires_in": 2_000_000,
}
_STUDIO: Final = Studio("https://studio.example.com")


@contextmanager
def _store(synchronous: Synchronous = "FULL") -> Iterator[SQLiteStore]:
    with (
        TemporaryDirectory() as folder,
        SQLiteStore(
            Path(folder, "flows.db"), keys=[generate_key()], synchronous=synchronous
        ) as store,
    ):
        yield store


def _answers() -> Iterator[Response]:
    yield answer(200, _CODE)
    while True:
        yield answer(400, {"detail": "authorization_pending"})


def _raw_rate(path: Path, synchronous: Synchronous) -> float:
    """Return how many updates with an insert the bare module writes in a second."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.executescript(
        "CREATE TABLE IF NOT EXISTS flow (id TEXT PRIMARY KEY, state TEXT, seq INT, due REAL);"
        "CREATE TABLE IF NOT EXISTS event (id TEXT, seq INT, at REAL, action TEXT, detail TEXT);"
        "DELETE FROM flow; INSERT INTO flow VALUES ('f', 'init', 0, 0);"
    )
    update = "UPDATE flow SET state = ?, seq = ?, due = ? WHERE id = 'f'"
    begun = time.perf_counter()
    for seq in range(WRITES):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(update, ("polling", seq, 1.5))
        connection.execute("INSERT INTO event VALUES ('f', ?, 1.5, 'poll', NULL)", (seq,))
        connection.execute("COMMIT")
    took = time.perf_counter() - begun
    connection.close()
    return WRITES / took


def _same_rows_rate(store: SQLiteStore) -> float:
    """Return how many of the very rows that the store writes the bare module writes in a second."""
    client = Client(store, transport=ScriptedTransport(_answers()), clock=VirtualClock())
    flow = get(store, client.start(_STUDIO, client_name="bench").id)
    event = render(flow, flow.poll(time.time(), 10.0), Origin("bench"))
    event["row_digest"], row = store.inner._rows.columns(flow, seal=False)
    noted = row_of(event, link(event, flow.head, store.inner.audit_key, flow))
    store.inner._rows.sign(row, event["row_digest"], event["hash"])
    values = row.reveal() | {"release": None}
    move, note = (
        store._connection.statements["flows.move"],
        store._connection.statements["add_event"],
    )
    connection = store._connection.connected()
    begun = time.perf_counter()
    for seq in range(flow.seq, flow.seq + WRITES):
        connection.execute("BEGIN IMMEDIATE")
        moved = move.values_of(values | {"before": seq - 1, "seq": seq})
        connection.execute(move.text, moved)
        connection.execute(note.text, note.values_of(noted | {"seq": seq}))
        connection.execute("COMMIT")
    return WRITES / (time.perf_counter() - begun)


def _commit_rate(store: SQLiteStore) -> float:
    """Return how many transitions the store keeps in a second."""
    client = Client(store, transport=ScriptedTransport(_answers()), clock=VirtualClock())
    flow = get(store, client.start(_STUDIO, client_name="bench").id)
    event = render(flow, flow.poll(time.time(), 10.0), Origin("bench"))
    begun = time.perf_counter()
    for seq in range(flow.seq, flow.seq + WRITES):
        flow.seq = seq
        assert store.commit(flow, event | {"seq": seq})
    return WRITES / (time.perf_counter() - begun)


def _step_rate(store: SQLiteStore) -> float:
    """Return how many transitions whole steps write in a second: core, sealing, log and all."""
    clock = VirtualClock()
    client = Client(store, transport=ScriptedTransport(_answers()), clock=clock)
    flow = get(store, client.start(_STUDIO, client_name="bench").id)
    begun = time.perf_counter()
    for _ in range(WRITES // 2):
        clock.advance(client.step(flow.id).wait_seconds)
    return WRITES / (time.perf_counter() - begun)


def _written() -> Iterator[Row]:
    modes: tuple[Synchronous, ...] = ("NORMAL", "FULL")
    for synchronous in modes:
        rates: list[tuple[float, ...]] = []
        with TemporaryDirectory() as folder:
            for _ in range(ROUNDS):
                with _store(synchronous) as store:
                    _same_rows_rate(store)  # a log that still grows costs more to sync
                    ours = (_commit_rate(store), _step_rate(store), _same_rows_rate(store))
                rates.append((*ours, _raw_rate(Path(folder, "raw.db"), synchronous)))
        kept, stepped, same, raw = map(statistics.median, zip(*rates, strict=True))
        yield Row(f"transitions kept, {synchronous}, more is better / raw", kept, raw, 0.7, "/s")
        yield Row("  beside the same rows by raw sqlite3", kept, same, 0.8, "/s")
        yield Row("  by whole steps, without the network / raw", stepped, raw, 0.7, "/s")


def _polled() -> Iterator[Row]:
    """Time polls by a process that drives the login, and by one that has never seen it."""
    modes: tuple[tuple[Synchronous, float], ...] = (("NORMAL", 1.0), ("FULL", 1.2))
    with pending_server() as url, Path("/dev/null").open("wb") as sink:
        structlog.configure(
            processors=[structlog.processors.JSONRenderer(orjson.dumps)],
            logger_factory=structlog.BytesLoggerFactory(sink),
            cache_logger_on_first_use=True,
        )
        session, clock = requests.Session(), FastClock()
        for synchronous, goal in modes:
            with _store(synchronous) as store:
                client = Client(store, clock=clock)
                flow = client.start(Studio(url), client_name="bench")
                times = [
                    (step_seconds(client, clock, flow.id), bare_seconds(session, url))
                    for _ in range(ROUNDS)
                ]
            ours, bare = (
                1e6 * statistics.median(spent) / POLLS for spent in zip(*times, strict=True)
            )
            what = f"CPU of a poll in SQLite, {synchronous} / bare post"
            yield Row(what, ours, bare, goal, "us")
        structlog.reset_defaults()


def _fill(store: SQLiteStore) -> None:
    """Put many flows into the store: of ten one waits, and of a thousand one is due."""
    flow = Flow("f", _STUDIO, 0.0)
    flow.receive(answer(200, _CODE), 1000.0)
    rows, connection = store.inner._rows, store._connection.connected()
    add = store._connection.statements["flows.add"]
    connection.execute("BEGIN")
    for number in range(MANY):
        waits = number % 10 == 0
        flow.id, flow.created_at = f"f{number}", 1000.0 + number
        flow.due_at = 10.0 if number % 1000 == 0 else 9e9
        flow.ended_at = None if waits else 2000.0
        flow.as_stored = (
            flow.as_stored if number % 1000 else None
        )  # of the others no secret is read
        digest, columns = rows.columns(flow, seal=False)
        rows.sign(columns, digest, "")
        wake_at = flow.due_at if waits else None
        connection.execute(add.text, add.values_of(columns.reveal() | {"wake_at": wake_at}))
    connection.execute("COMMIT")


def _median(call: Callable[[], object]) -> float:
    times = []
    for _ in range(200):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return 1e6 * statistics.median(times)


_MORE: Final = ("skip", "ahead", "grace")


def _found() -> Iterator[Row]:
    """Time the same calls on stores of one flow and of very many: by an index they are alike."""
    with _store("NORMAL") as one, _store("NORMAL") as many:
        flow = Flow("f0", _STUDIO, 0.0)
        flow.receive(answer(200, _CODE), 1000.0)
        one.add(flow)
        _fill(many)
        calls: dict[str, Callable[[SQLiteStore], object]] = {
            "status of a flow": lambda store: get(store, "f0", secrets=False),
            "claim of one": lambda store: store.claim("f0", "w", 5e8, -1.0),
        }
        for what, call in calls.items():
            lots, few = _median(partial(call, many)), _median(partial(call, one))
            yield Row(f"{what}, of {MANY:,} / of 1", lots, few, 2.0, "us")
        names = ("id", "now", "steady", "clock", "owner", "created_at", "limit", "ended_before")
        for name in ("flows.get_by_id", "flows.unended_after", "upcoming", "with_token"):
            query = many._connection.statements[name]
            plan = many._connection.connected().execute(
                f"EXPLAIN QUERY PLAN {query.text}",
                query.values_of(dict.fromkeys((*names, *_MORE), 1)),
            )
            print(f"  plan of {name}:", "; ".join(row[3] for row in plan if "SEARCH" in row[3]))


def _process() -> Iterator[Row]:
    """Time the command: a step that polls, and one right after it, which has nothing to do."""
    rounds = []
    with TemporaryDirectory() as folder, pending_server() as url, compiled() as environ:
        environ |= {"XDG_STATE_HOME": folder}
        start = [sys.executable, COMMAND, "start", "studio", url]
        for _ in range(16):
            begun = subprocess.check_output(start, env=environ, stderr=subprocess.DEVNULL)
            step = [sys.executable, COMMAND, "step", begun.decode().strip()]
            bare = [sys.executable, "-c", "import requests"]
            rounds.append([wall(environ, *command) for command in (step, step, bare)])
    ms = [1000 * statistics.median(spent) for spent in zip(*rounds[1:], strict=True)]
    what = "deviceflow step ID that polls / python -c 'import requests'"
    yield Row(what, ms[0], ms[2], 1.4, "ms")
    yield Row("  that has nothing to do yet", ms[1], ms[2], 1.4, "ms")


def rows() -> Iterator[Row]:
    for part in (_written, _polled, _found, _process):
        yield from part()
