"""What is done to a store behind its back, and what has to come of that."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import psycopg

from deviceflow import OAuth, Secret
from deviceflow.audit.chain import START, canonical
from deviceflow.audit.events import STORE, render
from deviceflow.core.flow import Flow
from deviceflow.core.ports import Origin
from deviceflow.core.provider import DeviceCode
from deviceflow.stores.sql.rows import LOGINS
from tests.fuzz_store.junk import KINDS, Cell, NothingError, evil_provider
from tests.fuzz_store.places import STAGES, TABLES
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

    from tests.fuzz_store.places import Place

DELAYS: Final = (
    *("wake_at", "snoozes", "lease_owner", "leased_at", "lease_until", "lease_clock"),
    "previous_owner",
)
"""The columns of `flows` that are not authenticated: they can only delay a login."""

AUTHENTICATED: Final = LOGINS.columns
GONE: Final = ("denied", "ancient", "expired", "cancelled", "acknowledged")
"""Logins that a purge may have dropped, so that their missing row means nothing."""

_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "flows": ("id",),
    "audit": ("flow_id", "seq"),
    "meta": ("name",),
}
REFUSED: Final = (sqlite3.Error, psycopg.Error, UnicodeError, OverflowError, NothingError)


@dataclass
class Attack:
    """What was done.

    Attributes:
        said: What was done, in words.
        logins: The logins that it was done to, by every id that they have now.
        found: Whether `verify` must find it; None where it may.
        signed: Whether it must be found by the signed digests.
        silent: Logins that nothing may be sent from.
        evil: Whether requests may go where the attacker wants, since he could write whole rows.
        shuts: Whether the store may be unusable as a whole.
        undo: Puts back what was there; None where that is not possible.
        same: Whether the logins are as before then.
        quiet: Whether what was put in holds no secret, so that none may be printed.
    """

    said: str
    logins: set[str] = field(default_factory=set)
    found: bool | None = True
    signed: bool = False
    silent: set[str] = field(default_factory=set)
    evil: bool = False
    shuts: bool = False
    undo: Callable[[], object] | None = None
    same: bool = True
    quiet: bool = True


class Case(NamedTuple):
    """What to do.

    Attributes:
        table: To which table.
        column: To which column; empty where it is about more than a cell.
        kind: What.
        signed: Whether the attacker has what the row is authenticated by, and uses that.
    """

    table: str
    column: str
    kind: str
    signed: bool = False

    def __str__(self) -> str:
        signed = ", signed" * self.signed
        return f"{self.table}.{self.column}: {self.kind}{signed}" if self.column else self.kind


def cases(place: Place) -> list[Case]:
    """Return all that can be done to a place."""
    found: list[Case] = []
    for table in TABLES:
        for column in place.saved[table][0]:
            found += [Case(table, column, kind) for kind in KINDS]
            if table == "flows" and column in AUTHENTICATED and column not in ("mac", "head"):
                found += [Case(table, column, kind, signed=True) for kind in KINDS]
    # There are fewer of these, and each can be done at many places.
    found += [Case("structure", "", kind) for kind in STRUCTURES] * 12
    return found


def done(case: Case, place: Place, random: Random) -> Attack | None:
    """Do it; None where the database refuses, or there is nothing of the kind to do."""
    try:
        if case.table == "structure":
            return STRUCTURES[case.kind](place, random)
        return _cell(case, place, random)
    except REFUSED:
        return None


def _cell(case: Case, place: Place, random: Random) -> Attack | None:
    table, column = case.table, case.column
    row = random.choice(place.saved[table])
    value = KINDS[case.kind](Cell(place, random, table, column, row))
    key = {name: row[name] for name in _KEYS[table]}
    place.put_back(table, key, {column: value})
    # As the database has it: some types become others.
    before = {_exactly(row) for row in place.saved[table]}
    changed = [row for row in place.rows(table) if _exactly(row) not in before]
    if len(changed) != 1:
        return None
    now = changed[0]
    if case.signed:
        now |= _signed(place, now)
        place.put_back(table, {"id": now["id"]}, {"mac": now["mac"]})
    said = f"{case} in {key}: {_shown(row[column])} -> {_shown(now[column])}"
    attack = Attack(said, quiet=not _has_secret(place, now[column]))
    new_key = {name: now[name] for name in key}
    attack.undo = lambda: place.put_back(table, new_key, row)
    if table == "flows":
        attack.logins = {str(row["id"]), *_names(now["id"])}
        if case.signed:
            attack.evil, attack.undo = True, None
        elif column in DELAYS:
            attack.found, attack.undo = False, None
        else:
            attack.silent = {row["id"]}
    elif table == "audit":
        attack.logins = {str(row["flow_id"]), *_names(now["flow_id"])}
        attack.same = False
        if row["flow_id"] == STORE:
            attack.undo = None  # what is noted meanwhile follows on what is there
    else:
        attack.logins, attack.shuts, attack.same = set(STAGES), True, False
        # Of the version nobody says more than which it is; the other key is not in use.
        if row["name"] == "version" or (row["name"] == "audit_key" and place.audited):
            attack.found = None
    return attack


def _exactly(row: Mapping[str, Any]) -> str:
    return repr(list(row.values()))


def _names(value: Any) -> set[str]:
    """Return how an id may be called in what is said of it."""
    if isinstance(value, str):
        return {value, value.encode(errors="surrogateescape").decode(errors="backslashreplace")}
    return {repr(value), str(value)}


def _has_secret(place: Place, value: Any) -> bool:
    return place.plaintext and isinstance(value, str | bytes) and len(value) > 5


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 120 else f"{text[:100]}… ({len(text)})"


def _signed(place: Place, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row's MAC as whoever has the sealing key can make it."""
    try:
        digest = place.rows_of_store.digest(LOGINS, [row[name] for name in LOGINS.columns])
    except (TypeError, ValueError, RecursionError):
        raise NothingError from None
    return {"mac": place.rows_of_store.sealer.mac(f"{digest} {row['head']}")}


# What is done to more than a cell.


def _login(place: Place, random: Random, *names: str) -> dict[str, Any]:
    name = random.choice(names or list(STAGES))
    return next(row for row in place.saved["flows"] if row["id"] == name)


def _events(place: Place, flow_id: str) -> list[dict[str, Any]]:
    return [row for row in place.saved["audit"] if row["flow_id"] == flow_id]


def deleted_row(place: Place, random: Random) -> Attack:
    row = _login(place, random)
    place.ask("DELETE FROM {flows} WHERE id = ?", row["id"])
    unknown = row["id"] in GONE or row["id"] == "created"
    return Attack(
        f"row of {row['id']} deleted",
        {row["id"]},
        found=not unknown,
        silent={row["id"]},
        undo=lambda: place.insert("flows", row),
    )


def duplicated_row(place: Place, random: Random) -> Attack:
    row = _login(place, random)
    place.insert("flows", row | {"id": "copy", "name": None})
    return Attack(
        f"row of {row['id']} copied",
        {row["id"], "copy"},
        undo=lambda: place.ask("DELETE FROM {flows} WHERE id = 'copy'"),
        same=False,
    )


def swapped_rows(place: Place, random: Random) -> Attack:
    one, other = random.sample(place.saved["flows"], 2)

    def swap() -> None:
        place.put_back("flows", {"id": one["id"]}, {"id": "between"})
        place.put_back("flows", {"id": other["id"]}, {"id": one["id"]})
        place.put_back("flows", {"id": "between"}, {"id": other["id"]})

    swap()
    names = {one["id"], other["id"]}
    return Attack(f"rows of {names} swapped", names, silent=names, undo=swap)


def spliced_row(place: Place, random: Random) -> Attack:
    one, other = random.sample(place.saved["flows"], 2)
    names = random.sample([name for name in LOGINS.columns if name not in ("id", "name")], 5)
    place.put_back("flows", {"id": one["id"]}, {name: other[name] for name in names})
    if all(one[name] == other[name] for name in names):
        raise NothingError
    return Attack(
        f"{names} of {other['id']} in {one['id']}",
        {one["id"]},
        silent={one["id"]},
        undo=lambda: place.put_back("flows", {"id": one["id"]}, one),
    )


def several_cells(place: Place, random: Random) -> Attack:
    row = _login(place, random)
    columns = random.sample([name for name in row if name != "id"], random.randint(2, 5))
    signed = random.random() < 0.5
    for column in columns:
        with contextlib.suppress(*REFUSED):
            value = random.choice([*KINDS.values()])(Cell(place, random, "flows", column, row))
            place.put_back("flows", {"id": row["id"]}, {column: value})
    now = next(one for one in place.rows("flows") if one["id"] == row["id"])
    columns = [name for name in columns if repr(row[name]) != repr(now[name])]
    authenticated = {*columns} - {*DELAYS}
    if signed and authenticated:
        place.put_back("flows", {"id": row["id"]}, _signed(place, now))
        authenticated.discard("mac")  # which is right again
    harmless = not authenticated
    return Attack(
        f"{columns} of {row['id']}: {_shown([now[name] for name in columns])}",
        {row["id"]},
        found=not harmless,
        silent=set() if signed or harmless else {row["id"]},
        evil=signed,
        undo=None
        if signed or harmless
        else lambda: place.put_back("flows", {"id": row["id"]}, row),
        quiet=not place.plaintext,
    )


def without_constraints(place: Place, random: Random) -> Attack:
    """Take types and constraints from the tables, and have a row twice."""
    if place.kind != "sqlite":
        raise NothingError
    for table in TABLES:
        place.ask(f"ALTER TABLE {table} RENAME TO typed_{table}")
        names = ", ".join(f'"{name}"' for name in place.saved[table][0])
        place.ask(f"CREATE TABLE {table} ({names})")
        place.ask(f"INSERT INTO {table} SELECT * FROM typed_{table}")
        place.ask(f"DROP TABLE typed_{table}")
    place.ask("CREATE UNIQUE INDEX names ON meta (name)")
    table = random.choice(["flows", "audit"])
    row = random.choice(place.saved[table])
    place.insert(table, row)
    name = row["id"] if table == "flows" else row["flow_id"]
    return Attack(f"a row of {table} of {name} twice", {name})


def old_row(place: Place, random: Random) -> Attack:
    name = random.choice([name for name, rows in place.earlier.items() if rows])
    row = random.choice(place.earlier[name])
    place.ask("DELETE FROM {flows} WHERE id = ?", name)
    place.insert("flows", row)
    # It is one that a key holder made, so it is obeyed until somebody verifies.
    return Attack(f"row {row['seq']} of {name} put back", {name})


def rolled_back(place: Place, random: Random) -> Attack:
    name = random.choice([name for name, rows in place.earlier.items() if rows])
    row = random.choice(place.earlier[name])
    place.ask("DELETE FROM {flows} WHERE id = ?", name)
    place.insert("flows", row)
    place.ask("DELETE FROM {audit} WHERE flow_id = ? AND seq > ?", name, row["seq"])
    return Attack(f"{name} rolled back to {row['seq']}", {name}, found=False, signed=True)


def _rewound(place: Place, random: Random, row: Mapping[str, Any]) -> dict[str, Any]:
    record = json.loads(row["record"]) | {"ended_at": None}
    progress = json.loads(row["progress"])
    progress |= {"state": "init", "reason": None, "due_at": 0.0, "handover": "none"}
    return {
        "state": "init",
        "ended_at": None,
        "code": None,
        "token": None,
        "revoke": None,
        "wake_at": 0.0,
        "record": json.dumps(record, separators=(",", ":")),
        "progress": json.dumps(progress, separators=(",", ":")),
        "provider": evil_provider(place, random, str(row["id"])),
    }


def rewound_row(place: Place, random: Random) -> Attack:
    row = _login(place, random)
    place.put_back("flows", {"id": row["id"]}, _rewound(place, random, row))
    return Attack(
        f"{row['id']} rewound to init",
        {row["id"]},
        silent={row["id"], "mallory"},
        undo=lambda: place.put_back("flows", {"id": row["id"]}, row),
    )


def inserted_row(place: Place, random: Random) -> Attack:
    row = _login(place, random, "created")
    record = json.loads(row["record"]) | {"name": None}
    progress = json.loads(row["progress"]) | {"id": "mallory", "due_at": 0.0}
    row = row | _rewound(place, random, row)
    row |= {"id": "mallory", "name": None, "record": json.dumps(record, separators=(",", ":"))}
    row |= {"progress": json.dumps(progress, separators=(",", ":"))}
    row["provider"] = evil_provider(place, random)
    place.insert("flows", row)
    return Attack(
        "row of mallory inserted",
        {"mallory"},
        silent={"mallory"},
        undo=lambda: place.ask("DELETE FROM {flows} WHERE id = 'mallory'"),
        same=False,
    )


def held_lease(place: Place, random: Random) -> Attack:
    row, now = _login(place, random), place.now()
    held = {"lease_owner": "mallory", "leased_at": now, "lease_until": now + 3600}
    place.put_back("flows", {"id": row["id"]}, held)
    return Attack(f"lease of {row['id']} held", {row["id"]}, found=False)


def deleted_event(place: Place, random: Random) -> Attack:
    row = random.choice(place.saved["audit"])
    place.ask("DELETE FROM {audit} WHERE flow_id = ? AND seq = ?", row["flow_id"], row["seq"])
    said = f"event {row['seq']} of {row['flow_id']} deleted"
    attack = Attack(said, {row["flow_id"]}, same=False)
    if row["flow_id"] != STORE:
        attack.undo = lambda: place.insert("audit", row)
    elif row["seq"] == _events(place, STORE)[-1]["seq"]:
        attack.found, attack.signed = False, True  # no row says how long the store's chain is
    return attack


def deleted_chain(place: Place, random: Random) -> Attack:
    name = random.choice([name for name in STAGES if name != "created"])
    rows = _events(place, name)
    place.ask("DELETE FROM {audit} WHERE flow_id = ?", name)
    return Attack(
        f"events of {name} deleted",
        {name},
        undo=lambda: place.insert("audit", *rows),
        same=False,
    )


def inserted_event(place: Place, random: Random) -> Attack:
    row = random.choice(place.saved["audit"])
    seq = _events(place, row["flow_id"])[-1]["seq"] + 1
    event = json.loads(row["text"]) | {"seq": seq, "event_id": f"{row['flow_id']}.{seq}"}
    if random.random() < 0.5:
        event["prev_hash"] = START
    new = row | {"seq": seq, "text": random.choice([canonical(event).decode(), row["text"]])}
    if random.random() < 0.5:
        new["hash"] = sha256(new["text"].encode()).hexdigest()
    place.insert("audit", new)

    def undo() -> None:
        place.ask("DELETE FROM {audit} WHERE flow_id = ? AND seq = ?", row["flow_id"], seq)

    # What is noted next in the store's own chain would follow on it.
    chain = row["flow_id"] == STORE
    said = f"event {event['event_id']} inserted"
    return Attack(said, {row["flow_id"]}, undo=None if chain else undo, same=False)


def swapped_events(place: Place, random: Random) -> Attack:
    name = random.choice([name for name in STAGES if len(_events(place, name)) > 1])
    one, other = random.sample(_events(place, name), 2)

    def number(was: int, new: int) -> None:
        place.put_back("audit", {"flow_id": name, "seq": was}, {"seq": new})

    def swap() -> None:
        number(one["seq"], -5)
        number(other["seq"], one["seq"])
        number(-5, other["seq"])

    swap()
    said = f"events {one['seq']} and {other['seq']} of {name} swapped"
    return Attack(said, {name}, undo=swap, same=False)


def deleted_meta(place: Place, random: Random) -> Attack:
    row = random.choice(place.saved["meta"])
    place.ask("DELETE FROM {meta} WHERE name = ?", row["name"])
    return Attack(
        f"{row['name']} deleted from meta",
        set(STAGES),
        found=None if row["name"] == "audit_key" and place.audited else True,
        shuts=True,
        undo=lambda: place.insert("meta", row),
        same=False,
    )


def other_meta(place: Place, random: Random) -> Attack:
    place.insert("meta", {"name": random.choice(["", "x", "VERSION"]), "value": "1"})
    return Attack("a row added to meta", set(), found=False)


def dropped_table(place: Place, random: Random) -> Attack:
    table = random.choice(TABLES)
    place.broken = True
    place.ask(f"DROP TABLE {{{table}}}")
    return Attack(f"table {table} dropped", set(STAGES), shuts=True)


def dropped_column(place: Place, random: Random) -> Attack:
    place.broken = True
    column = random.choice(["provider", "record", "progress", "wake_at", "lease_owner", "token"])
    if place.kind == "sqlite":
        for (name,) in place.ask("SELECT name FROM sqlite_master WHERE name LIKE 'flows_%'"):
            place.ask(f"DROP INDEX {name}")
    place.ask(f"ALTER TABLE {{flows}} DROP COLUMN {column}")
    return Attack(f"column {column} dropped", set(STAGES), found=None, shuts=True)


def damaged_file(place: Place, random: Random) -> Attack:
    if place.kind != "sqlite":
        raise NothingError
    content = bytearray(place.path.read_bytes())
    at = random.choice([0, 100, random.randrange(len(content))])
    content[at : at + 200] = random.randbytes(200)
    place.path.write_bytes(content[: random.choice([len(content), len(content) // 2, 4096])])
    return Attack(f"file damaged at {at}", set(STAGES), found=None, shuts=True)


def ignoring_trigger(place: Place, random: Random) -> Attack:
    """Have the database ignore what the store writes."""
    place.broken = True
    what, table = random.choice(["INSERT", "UPDATE"]), random.choice(["flows", "audit"])
    if place.kind == "sqlite":
        place.ask(
            f"CREATE TRIGGER ignored BEFORE {what} ON {table} BEGIN SELECT RAISE(IGNORE); END"
        )
    else:
        place.ask(
            "CREATE FUNCTION deviceflow.ignore() RETURNS trigger LANGUAGE plpgsql"
            " AS 'BEGIN RETURN NULL; END'"
        )
        place.ask(
            f"CREATE TRIGGER ignored BEFORE {what} ON {{{table}}} FOR EACH ROW"
            " EXECUTE FUNCTION deviceflow.ignore()"
        )
    return Attack(f"{what} of {table} ignored", set(STAGES), found=False, shuts=True)


def forged_login(place: Place, random: Random) -> Attack:
    """Write a login as the library does, with all keys that are in the tables."""
    settings = json.loads(evil_provider(place, random))
    provider = OAuth.from_dict(settings)
    with place.environment(audit_key=False), place.open() as store:
        flow = Flow("mallory", provider, place.now() - 60)
        store.add(flow)
        if random.random() < 0.5:
            code = DeviceCode(Secret("DEVICE.mallory."), f"{place.servers.evil}/token")
            moved = flow.adopt(code, place.now() - 60)
            store.commit(flow, render(flow, moved, Origin("w1")))
    return Attack("login of mallory forged", {"mallory"}, found=place.audited, evil=True)


def forged_move(place: Place, random: Random) -> Attack:
    """Move a login on as the library does, with all keys that are in the tables."""
    name = random.choice([name for name in STAGES if name != "created"])
    with place.environment(audit_key=False), place.open() as store:
        flow = get(store, name)
        if flow.state.ended:
            raise NothingError
        flow.provider = OAuth.from_dict(json.loads(evil_provider(place, random, name)))
        flow.token_endpoint = f"{place.servers.evil}/token"
        if not store.commit(flow, render(flow, flow.reseal(place.now()), Origin("w1"))):
            raise NothingError
    return Attack(f"{name} moved on by somebody", {name}, found=place.audited, evil=True)


STRUCTURES: Final[Mapping[str, Callable[[Place, Random], Attack]]] = {
    "row deleted": deleted_row,
    "row duplicated": duplicated_row,
    "rows swapped": swapped_rows,
    "row spliced": spliced_row,
    "several cells": several_cells,
    "row twice": without_constraints,
    "old row put back": old_row,
    "rolled back": rolled_back,
    "row rewound": rewound_row,
    "row inserted": inserted_row,
    "lease held": held_lease,
    "event deleted": deleted_event,
    "chain deleted": deleted_chain,
    "event inserted": inserted_event,
    "events swapped": swapped_events,
    "meta deleted": deleted_meta,
    "meta added": other_meta,
    "table dropped": dropped_table,
    "column dropped": dropped_column,
    "file damaged": damaged_file,
    "writes ignored": ignoring_trigger,
    "login forged": forged_login,
    "move forged": forged_move,
}
