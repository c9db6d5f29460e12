"""What the trail costs: verifying it, writing it to a file, and chaining each event.

`DEVICEFLOW_BENCH_ROWS` says how many rows to verify; by default 100,000.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, Literal
from unittest import mock

import orjson
import structlog

from deviceflow import Client, Secret, Studio
from deviceflow.audit import chain
from deviceflow.audit.chain import STORED, decode, encode_slowly, link, row_of
from deviceflow.audit.events import render
from deviceflow.audit.jsonl import JSONLinesAudit
from deviceflow.audit.reading import event_of
from deviceflow.core.encryption import generate_key
from deviceflow.core.flow import Flow
from deviceflow.core.ports import Origin
from deviceflow.stores.sql.rows import LOGINS, AsStored
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from deviceflow.trail.verify import Verification
from tests.bench.size import size
from tests.bench.table import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deviceflow.core.flow import Transition
    from deviceflow.core.wire import Response

    Synchronous = Literal["FULL", "NORMAL"]

ROUNDS: Final = size(5)
ROWS: Final = size(int(os.environ.get("DEVICEFLOW_BENCH_ROWS", "100000")), 3_000)
LINES: Final = size(10_000, 500)
STEPS: Final = size(1_000, 50)

_CODE: Final = answer(
    200,
    {
        "device_code": "x" * 43,
        "user_code": "ABCD-EFGH",
        "verification_uri": "https://studio.example.com/page",
        "token_uri": "https://studio.example.com/token",
        "token_name": "bench",
        "expires_in": 2_000_000,
    },
)
_PENDING: Final = answer(400, {"detail": "authorization_pending"})
_GRANTED: Final = answer(200, {"access_token": "t" * 40})
_STUDIO: Final = Studio("https://studio.example.com").with_request(
    client_name="nightly", scopes=["EXPERIMENTS"]
)
_ORIGIN: Final = Origin(
    "0123456789ab.4242.17", "worker-1", 4242, "celery", "report", "t" * 36, "robot"
)


def _login(number: int) -> Iterator[tuple[Flow, Transition]]:
    """Yield what happens in a login of 15 events."""
    flow = Flow(f"flow-{number:09}", _STUDIO, 1.8e9 + number)
    yield flow, flow.receive(_CODE, flow.created_at, duration=0.1234)
    for result in (*[_PENDING] * 5, _GRANTED):
        at = flow.due_at
        yield flow, flow.poll(at, 10.0)
        yield flow, flow.receive(result, at + 0.1, duration=0.1234)
    yield flow, flow.collect(at + 1)
    yield flow, flow.acknowledge(at + 2)


def _fill(path: Path, rows: int) -> int:
    """Put so many events into a store, or a few less, and return how many."""
    with SQLiteStore(path, synchronous="NORMAL") as store:
        connection = store._connection.connected()
        connection.execute("BEGIN")
        for number in range(rows // 15):
            noted = []
            for flow, transition in _login(number):
                flow.as_stored = flow.as_stored or _unsealed()
                event = render(flow, transition, _ORIGIN)
                event["row_digest"], row = store.inner._rows.columns(flow, seal=False)
                noted.append(row_of(event, link(event, flow.head, store.inner.audit_key, flow)))
                flow.head = event["hash"]
            store.inner._rows.sign(row, event["row_digest"], flow.head)
            add, note = (
                store._connection.statements["flows.add"],
                store._connection.statements["add_event"],
            )
            connection.execute(add.text, add.values_of(row.reveal()))
            connection.executemany(note.text, map(note.values_of, noted))
        connection.execute("COMMIT")
    return rows // 15 * 15


def _unsealed() -> AsStored:
    """Return a row's part without secrets, which no verification looks at."""
    return AsStored(None, dict.fromkeys(LOGINS.secrets) | {"provider": "{}"})


# Verifying.


_TEXT: Final = STORED.index("text")


def _decoded(row: Any) -> object:
    return decode(row[_TEXT])


def _read_seconds(path: Path, read: Callable[[Any], object]) -> float:
    """Return how long it takes to go through the same rows, and to read each."""
    with SQLiteStore(path) as store, store.snapshot() as snapshot:
        begun = time.process_time()
        for row in snapshot.events:
            read(row)
        return time.process_time() - begun


def _verify_seconds(path: Path, rows: int) -> float:
    with SQLiteStore(path) as store, store.snapshot() as snapshot:
        begun = time.process_time()
        verification = Verification(*snapshot)
        assert list(verification.findings()) == []
        assert verification.events == rows
        return time.process_time() - begun


_PEAK: Final = """
import resource, sys
from pathlib import Path
from tempfile import TemporaryDirectory
from deviceflow import Secret
from deviceflow.credentials.keys.signing import generate_signing_key
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.credentials.keys.signing import generate_signing_key
from deviceflow.trail.digest import Signer
from deviceflow.trail.verify import Verification
from deviceflow.trail.maintenance import take_digest
with SQLiteStore(sys.argv[1]) as store, TemporaryDirectory() as digests:
    assert take_digest(store, Path(digests), Signer(Secret(generate_signing_key())), begin=True)
    with store.snapshot() as snapshot:
        assert list(Verification(*snapshot, digests=Path(digests)).findings()) == []
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def _peak(path: Path) -> float:
    """Return how much memory signing a trail and verifying it takes at the most, in MB."""
    command = [sys.executable, "-c", _PEAK, str(path)]
    return int(subprocess.check_output(command, text=True)) / 1024


def _verified() -> Iterator[Row]:
    with TemporaryDirectory() as folder:
        few, many = Path(folder, "few.db"), Path(folder, "many.db")
        _fill(few, ROWS // 10)
        rows = _fill(many, ROWS)
        rounds: list[tuple[float, ...]] = []
        for _ in range(ROUNDS):
            with (
                mock.patch.object(chain, "encode", encode_slowly),
                mock.patch.object(chain, "decode", json.loads),
            ):
                slowly = _verify_seconds(many, rows), _read_seconds(many, event_of)
            bare = [_read_seconds(many, by) for by in (event_of, _decoded, len)]
            rounds.append((_verify_seconds(many, rows), *bare, *slowly))
        fast, read, decoded, fetched, slow, slowly_read = (
            1e6 * statistics.median(spent) / rows for spent in zip(*rounds, strict=True)
        )
        # A reader needs an event: its fields, each of its type, whatever a row has in it.
        what = f"verifying one of {rows:,} rows / reading its event"
        yield Row(what, fast, read, 2.0, "us")
        yield Row("  the same without orjson", slow, slowly_read, 2.0, "us")
        yield Row("  with orjson / fetching and decoding only", fast, decoded, 4.0, "us")
        yield Row("  with orjson / fetching only", fast, fetched, 10.0, "us")
        yield Row("  peak memory / of a tenth of the rows", _peak(many), _peak(few), 1.1, "MB")


# Writing to a file.


def _events() -> list[tuple[Flow, dict[str, Any]]]:
    logins = (happened for number in range(LINES // 15 + 1) for happened in _login(number))
    return [(flow, render(flow, moved, _ORIGIN)) for flow, moved in islice(logins, LINES)]


def _lines_rate(path: Path) -> float:
    audit = JSONLinesAudit(path, key=Secret("an audit key"), fsync=False)
    events = _events()
    begun = time.perf_counter()
    for flow, event in events:
        audit.write(event, flow)
    return LINES / (time.perf_counter() - begun)


def _structlog_rate(path: Path) -> float:
    events = _events()
    with path.open("wb") as file:
        logger = structlog.wrap_logger(
            structlog.BytesLogger(file),
            processors=[structlog.processors.JSONRenderer(serializer=orjson.dumps)],
            wrapper_class=structlog.make_filtering_bound_logger(0),
        )
        begun = time.perf_counter()
        for _, event in events:
            logger.info("deviceflow.transition", **event)
        return LINES / (time.perf_counter() - begun)


def _written() -> Iterator[Row]:
    with TemporaryDirectory() as folder:
        paths = Path(folder, "audit.jsonl"), Path(folder, "log.jsonl")
        rates = [(_lines_rate(paths[0]), _structlog_rate(paths[1])) for _ in range(ROUNDS)]
    ours, bare = map(statistics.median, zip(*rates, strict=True))
    what = "chained events to a file, more is better / structlog + orjson"
    yield Row(what, ours, bare, 1.0, "/s")


# Chaining.


def _unlinked(event: dict[str, Any], *_: object) -> str:
    event |= {"prev_hash": "", "hash": "", "mac": "", "key_id": ""}
    return ""


def _answers() -> Iterator[Response]:
    yield _CODE
    while True:
        yield _PENDING


def _step_seconds(folder: str, synchronous: Synchronous) -> float:
    """Return how long whole steps take, without the network: core, store, log and all."""
    path = Path(folder, "flows.db")
    with SQLiteStore(path, keys=[generate_key()], synchronous=synchronous) as store:
        clock = VirtualClock()
        client = Client(store, transport=ScriptedTransport(_answers()), clock=clock)
        flow = client.start(_STUDIO)
        begun = time.perf_counter()
        for _ in range(STEPS):
            clock.advance(client.step(flow.id).wait_seconds)
        return time.perf_counter() - begun


def _chained() -> Iterator[Row]:
    modes: tuple[Synchronous, ...] = ("NORMAL", "FULL")
    for synchronous in modes:
        rounds = []
        for _ in range(ROUNDS):
            with TemporaryDirectory() as folder:
                chained = _step_seconds(folder, synchronous)
            unlinked = mock.patch("deviceflow.stores.sql.store.link", _unlinked)
            with TemporaryDirectory() as folder, unlinked:
                rounds.append((chained, _step_seconds(folder, synchronous)))
        ours, bare = (1e6 * statistics.median(spent) / STEPS for spent in zip(*rounds, strict=True))
        yield Row(f"a step with the chain, {synchronous} / without it", ours, bare, 1.15, "us")


def rows() -> Iterator[Row]:
    for part in (_verified, _written, _chained):
        yield from part()
