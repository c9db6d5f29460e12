"""Whatever stands in a trail: the commands on it end, with findings and without a raw error.

Each example puts junk into one event or one flow of a trail of three logins, as whoever writes to
the file or the database can, and makes the hashes anew behind it. `DEVICEFLOW_FUZZ` sets how many
examples there are; in CI they are the same ones each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import shutil
import sqlite3
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deviceflow import Secret
from deviceflow.audit.chain import HASHED, START, STORED
from deviceflow.audit.events import FIELDS, STORE, schema
from deviceflow.cli import exits, main
from deviceflow.core.actions import PLAIN_HTTP
from deviceflow.core.ports import StoreEvent
from deviceflow.credentials.keys.signing import generate_signing_key
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.trail.digest import Signer
from deviceflow.trail.maintenance import take_digest
from tests.examples import examples
from tests.logins import ALICE, BEGIN, BOB, ROBOT, Scribe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FUZZ: Final = examples(40)
FEWER: Final = examples(10, of=4)

DENIED: Final = "login00000000002"
FLOWS: Final = ("id", "seq", "state", "record", "progress")
HUGE: Final = 10**400


class Trail:
    """A store of three logins that nobody touches, and its events."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "flows.db"
        self.digests = folder / "digests"
        self.digests.mkdir()
        with SQLiteStore(self.path, plaintext=True, synchronous="NORMAL", trail="each") as store:
            scribe = Scribe(store)
            scribe.login("code", "pending", "token", "collect")
            scribe.login("code", "denied", at=BEGIN + 1000, provider=ROBOT, origin=BOB)
            scribe.login("code", "slow_down", at=BEGIN + 90_000)
            store.append(StoreEvent(PLAIN_HTTP, BEGIN, "somewhere", ALICE))
            take_digest(store, self.digests, Signer(Secret(generate_signing_key())), begin=True)
        self.lines = [
            json.loads(line)
            for line in run("export", "--format", "jsonl", "--store", f"sqlite:///{self.path}")[1]
            .strip()
            .splitlines()
        ]


@pytest.fixture(scope="module")
def trail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trail]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("DEVICEFLOW_")]:
            patch.delenv(name)
        yield Trail(tmp_path_factory.mktemp("junk"))


def run(*args: str) -> tuple[int, str]:
    """Run the command here, where what it raises can be seen."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        plain = [] if "--file" in args else ["--plaintext"]
        code = main(["audit", *args, *plain])
    return code, out.getvalue()


def findings(*args: str) -> list[dict[str, Any]]:
    code, out = run("verify", "--json", *args)
    assert code in (0, 1)
    said = json.loads(out)["findings"]
    assert bool(said) == (code == 1)
    return list(said)


# What stands in a file.

PLAIN: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, 1, 5, 2**53, 2**63, 2**64, HUGE, -1, 1e308, -1e308, 1e22, 0.5, -0.0]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=12),
    st.sampled_from(["", "x", "5", "[]", '["a"]', "null", "\0", "9" * 400, "0" * 64, "login"]),
)
JSON: Final = st.recursive(
    PLAIN, lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=4), some)
)


def types_of(name: str) -> set[type]:
    """Return of which Python types a field may be, by the published schema."""
    published = schema()
    rule = published["properties"][name]
    if "$ref" in rule:
        rule = published["$defs"][rule["$ref"].rpartition("/")[2]]
    if values := rule.get("enum", [rule["const"]] if "const" in rule else []):
        return {type(value) for value in values}
    names = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
    python: dict[str, set[type]] = {
        "string": {str},
        "integer": {int},
        "number": {int, float},
        "boolean": {bool},
        "array": {list},
        "null": {type(None)},
        "object": {dict},
    }
    return set().union(*(python[name] for name in names))


def is_typed(name: str, value: Any) -> bool:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)  # JSON knows no difference
    if isinstance(value, list) and not all(isinstance(item, str) for item in value):
        return False
    if isinstance(value, dict):
        return False  # none of those here has the right names
    return type(value) in types_of(name)


def canonical(event: dict[str, Any]) -> bytes:
    """Write an event as RFC 8785 has it, as far as that goes."""
    kept = {name: event[name] for name in HASHED}
    for name, value in kept.items():
        if isinstance(value, float) and value.is_integer():
            kept[name] = int(value)
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def rechained(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Make the hashes of a login anew, without any key."""
    before = START
    for event in events:
        event |= {"prev_hash": before, "key_id": None, "mac": None}
        before = event["hash"] = hashlib.sha256(canonical(event)).hexdigest()
    return events


@pytest.mark.parametrize("alone", [True, False])
@FUZZ
@given(at=st.integers(0, 5), name=st.sampled_from(FIELDS), value=JSON)
@example(at=0, name="time", value=5)
@example(at=2, name="time", value=None)
@example(at=2, name="attempt", value="x")
@example(at=2, name="attempt", value=1.5)
@example(at=2, name="wait", value=1e308)
@example(at=2, name="interval", value=HUGE)
@example(at=2, name="duration", value="x")
@example(at=2, name="scopes", value=5)
@example(at=2, name="scopes", value=[5])
@example(at=2, name="pid", value=True)
@example(at=2, name="outcome", value=None)
@example(at=2, name="event_id", value=5)
def test_a_file_with_any_value_in_any_field(
    trail: Trail, alone: bool, at: int, name: str, value: Any
) -> None:
    events = [dict(event) for event in trail.lines]
    first = [event for event in events if event["flow_id"] == events[0]["flow_id"]]
    first[at][name] = value
    if name not in ("prev_hash", "hash", "mac", "key_id"):
        rechained(first)
    others = [event for event in events if event["flow_id"] == DENIED]
    others[1]["actor"] = "mallory"  # which must be found, whatever the other one does
    file = trail.folder / "junk.jsonl"
    shown = [first[at]] if alone else [*first, *others]
    file.write_text("\n".join(json.dumps(event) for event in shown))

    found = findings("--file", str(file))

    elsewhere = {(f["kind"], f["flow_id"], f["seq"]) for f in found} & {("edited", DENIED, 2)}
    assert bool(elsewhere) != alone
    if not is_typed(name, value):
        assert len(found) > len(elsewhere)


# What stands in a database, whose columns need have no types.


class _Text(bytes):
    """Bytes that are put in as a text, whatever they are."""


STORED_VALUES: Final = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.binary(max_size=12),
    st.sampled_from([0, 1, 2**62, 1e308, math.inf, -math.inf, b"\xff", STORE, "", "{}", "[]"]),
    st.sampled_from(["[" * 5000, "9999-12-31T23:59:59.999+00:00", "0001-01-01", '{"seq":"x"}']),
    st.binary(max_size=6).map(_Text),
)


def put(database: sqlite3.Connection, table: str, column: str, value: Any, where: str) -> None:
    marks = "CAST(? AS TEXT)" if isinstance(value, _Text) else "?"
    database.execute(f'UPDATE {table} SET "{column}" = {marks} WHERE {where}', (value,))


def untyped(trail: Trail) -> sqlite3.Connection:
    """Copy the store, and take the types and constraints from its tables, as its writer can."""
    path = trail.folder / "copy.db"
    for name in ("copy.db", "copy.db-wal", "copy.db-shm"):
        (trail.folder / name).unlink(missing_ok=True)
    shutil.copy(trail.path, path)
    database = sqlite3.connect(path, isolation_level=None)
    for table in ("audit", "flows"):
        database.execute(f"CREATE TABLE other AS SELECT * FROM {table}")
        columns = ", ".join(f'"{row[1]}"' for row in database.execute("PRAGMA table_info(other)"))
        database.execute(f"DROP TABLE {table}")
        database.execute(f"CREATE TABLE {table} ({columns})")
        database.execute(f"INSERT INTO {table} SELECT * FROM other")
        database.execute("DROP TABLE other")
    return database


def rehash(database: sqlite3.Connection, flow_id: str) -> None:
    """Make the hashes of a login anew, where its events can be hashed at all."""
    rows = database.execute(
        "SELECT text, rowid FROM audit WHERE text LIKE ? ORDER BY rowid",
        [f'%"event_id":"{flow_id}.%'],
    ).fetchall()
    events = [json.loads(text) | {"rowid": rowid} for text, rowid in rows]
    for event in rechained(events):
        values = [canonical(event).decode(), *(event[name] for name in ("hash", "mac", "rowid"))]
        database.execute("UPDATE audit SET text = ?, hash = ?, mac = ? WHERE rowid = ?", values)


@FEWER
@given(
    at=st.integers(1, 3), name=st.sampled_from(STORED), value=STORED_VALUES, hashed=st.booleans()
)
@example(at=2, name="flow_id", value=_Text(b"\xff"), hashed=False)
@example(at=2, name="seq", value=None, hashed=False)
@example(at=2, name="time", value=5, hashed=True)
@example(at=2, name="text", value="[" * 100_000, hashed=False)
@example(at=2, name="text", value='{"a":' * 5000, hashed=False)
@example(at=2, name="text", value=_Text(b'{"detail":"\xff"}'), hashed=False)
@example(at=2, name="text", value=b"{}", hashed=False)
@example(at=2, name="text", value="null", hashed=False)
@example(at=2, name="text", value='{"detail":"\\ud800","seq":1e400}', hashed=False)
def test_a_store_with_any_value_in_any_column_of_an_event(
    trail: Trail, at: int, name: str, value: Any, hashed: bool
) -> None:
    with contextlib.closing(untyped(trail)) as database:
        put(database, "audit", name, value, f"flow_id = '{DENIED}' AND seq = {at}")
        if hashed:
            with contextlib.suppress(TypeError, ValueError, RecursionError, sqlite3.Error):
                rehash(database, DENIED)
    _try_all(trail)


@FEWER
@given(at=st.integers(1, 3), name=st.sampled_from(FIELDS), value=JSON, hashed=st.booleans())
@example(at=2, name="duration", value=1e308, hashed=True)
@example(at=2, name="interval", value=HUGE, hashed=False)
@example(at=2, name="flow_id", value="\0", hashed=True)
@example(at=2, name="seq", value=None, hashed=False)
@example(at=2, name="time", value=5, hashed=True)
@example(at=2, name="scopes", value=5, hashed=False)
@example(at=2, name="granted_scopes", value=[["a"], {"b": 5}], hashed=True)
@example(at=2, name="detail", value={"a": ["b"]}, hashed=True)
@example(at=2, name="hash", value="f", hashed=True)
def test_a_store_with_any_value_in_any_field_of_the_text_of_an_event(
    trail: Trail, at: int, name: str, value: Any, hashed: bool
) -> None:
    where = f"flow_id = '{DENIED}' AND seq = {at}"
    with contextlib.closing(untyped(trail)) as database:
        ((text,),) = database.execute(f"SELECT text FROM audit WHERE {where}").fetchall()
        edited = json.dumps(json.loads(text) | {name: value}, separators=(",", ":"))
        put(database, "audit", "text", edited, where)
        if hashed:
            with contextlib.suppress(TypeError, ValueError, RecursionError, sqlite3.Error):
                rehash(database, DENIED)
    _try_all(trail)
    assert findings("--store", f"sqlite:///{trail.folder / 'copy.db'}") or edited == text


@FEWER
@given(name=st.sampled_from(FLOWS), value=STORED_VALUES)
@example(name="seq", value="x")
@example(name="record", value=5)
@example(name="progress", value=5)
@example(name="record", value="[" * 100_000)
@example(name="progress", value="[" * 100_000)
def test_a_store_with_any_value_in_any_column_of_a_flow(
    trail: Trail, name: str, value: Any
) -> None:
    with contextlib.closing(untyped(trail)) as database:
        rehash(database, DENIED)
        put(database, "flows", name, value, f"id = '{DENIED}'")
    _try_all(trail)


def _try_all(trail: Trail) -> None:
    store = ("--store", f"sqlite:///{trail.folder / 'copy.db'}")
    page = str(trail.folder / "r.html")
    digests = ("--digests", str(trail.digests))
    unknown = {0, exits.USAGE}  # a login whose id is another one now
    findings(*store)
    findings(*store, *digests, "--no-key")
    assert run("show", DENIED, *store)[0] in unknown
    assert run("show", DENIED, "--json", *store)[0] in unknown
    assert run("show", "--all", *store)[0] in unknown
    for args in (
        ("list",),
        ("list", "--json"),
        ("stats",),
        ("stats", "--json"),
        ("export", "--format", "csv"),
        ("export", "--format", "ecs"),
        ("report", "-o", page, *digests),
    ):
        assert run(*args, *store)[0] == 0, args
    code, out = run("export", "--format", "jsonl", *store)
    assert code == 0
    file = trail.folder / "exported.jsonl"
    file.write_text(out)
    findings("--file", str(file), *digests)
