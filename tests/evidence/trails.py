"""A store with a trail of many flows, its digests, and a way in behind the store's back."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import psycopg

from deviceflow import Secret
from deviceflow.audit.chain import STORED, AuditKey, canonical, hash_of, link
from deviceflow.audit.events import STORE, render, render_store_event
from deviceflow.core.actions import DRIVE, LAPSE, PLAIN_HTTP, ROTATE_KEYS, STOP_DRIVING
from deviceflow.core.ports import Origin
from deviceflow.core.states import State
from deviceflow.credentials.keys.signing import generate_signing_key
from deviceflow.stores.postgres import PostgresStore
from deviceflow.stores.sql.rows import LOGINS
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.trail.digest import Signer, files_of, last_digest, read_digest, read_entries
from deviceflow.trail.maintenance import prune, take_digest
from deviceflow.trail.verify import Finding, Verification
from tests.evidence.histories import PENDING, SAID, Login, origin
from tests.statements import run_statement
from tests.stored import delete_ended, get

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path
    from random import Random

    from deviceflow.core.actions import Action
    from deviceflow.core.flow import Flow, Transition
    from deviceflow.core.ports import StoredFlow
    from deviceflow.stores.sql import SQLStore
    from deviceflow.trail.digest import Entry
    from deviceflow.trail.ledger import Ledger

COVERED: Final = 220
"""How many flows the digests cover whole."""

FRESH: Final = 40
"""How many flows began after the last digest."""

RESERVED: Final = 30
"""How many polls a hold reserves."""

WORKER: Final = "0123456789ab.7.1"
"""A driver that never stops."""

BEGIN: Final = float(int(time.time()) + 3600)
"""When the first login began that is not pruned: after all that has the time of the store."""

SPACE: Final = 1e5
"""Seconds between the beginnings of two flows."""

GONE: Final = 9e4
"""How many seconds after the beginning of a flow its own driver is gone."""

_THEIRS: Final = AuditKey(Secret("somebody else's"))
_FLOW: Final = STORED.index("flow_id")


class Held(NamedTuple):
    """A login that was held.

    Attributes:
        driver: By whom.
        row: Its row while it was held.
        until: When the driver was gone, at the latest; None if it is held still.
    """

    driver: str
    row: dict[str, Any]
    until: float | None


class _Part(Verification):
    """Checks some flows of a trail as if they were all; the digests were read before."""

    def __init__(
        self, *given: Any, signed: Sequence[Sequence[Entry]], only: Collection[str]
    ) -> None:
        super().__init__(*given)
        self._given = signed
        self._only = only

    def read_digests(self, ledger: Ledger) -> Iterator[Finding]:
        for number, entries in enumerate(self._given, 1):
            ledger.take(number, [entry for entry in entries if entry.flow_id in self._only])
        return iter(())


class Trail:
    """A trail.

    Attributes:
        kind: `sqlite` or `postgres`.
        digests: The directory of the digests.
        public_key: Whose signature they bear.
        last: The number and the hash of the last one, as an auditor keeps them.
        key: What authenticates events.
        covered: The flows whose last event a digest knows, and the store's own chain.
        old_rows: Rows of flows as they were before they went on.
        forgotten: Those of them that the store has dropped, and the store's own chain.
        fresh: Flows of which no digest knows.
        pruned: Flows whose events were dropped on purpose.
        held: The logins that were held, or are, by their ids.
        rows: The events of each flow as they were written.
    """

    def __init__(self, store: SQLStore, digests: Path, random: Random) -> None:
        self.store = store
        self.digests = digests
        assert store.inner.audit_key is not None
        self.key: AuditKey = store.inner.audit_key
        self._signer = Signer(Secret(generate_signing_key()))
        self.public_key = self._signer.public_key
        self.covered: list[str] = []
        self.old_rows: list[tuple[str, dict[str, Any]]] = []
        self.forgotten: list[str] = []
        self.fresh: list[str] = []
        self.pruned: list[str] = []
        self.held: dict[str, Held] = {}
        self._database: Any
        if isinstance(store, SQLiteStore):
            self.kind = "sqlite"
            self._database = sqlite3.connect(store.path, isolation_level=None)
        elif isinstance(store, PostgresStore):
            self.kind = "postgres"
            self._database = psycopg.connect(store._connection._url.reveal(), autocommit=True)
        self._fill(random)
        last = last_digest(digests)
        self.last = None if last is None else last.id
        self.signed = [[*read_entries(path, read_digest(path))] for _, path in files_of(digests)]
        everything = self.do(store._connection.statements["events_all"].text).fetchall()
        self.rows = {
            flow_id: [fields_of(row) for row in rows]
            for flow_id, rows in groupby(everything, itemgetter(_FLOW))
        }

    def close(self) -> None:
        self._database.close()
        self.store.close()

    # Making it.

    def _fill(self, random: Random) -> None:
        self._prune_some(random)
        if self.store.holds:
            self.note(DRIVE, BEGIN, WORKER)
        logins = [
            self._begin(random, f"flow-{number:03}", BEGIN + SPACE * number, hold=True)
            for number in range(COVERED)
        ]
        free = [login for login in logins if login.flow.driver is None]
        begun = {login.flow.id: self._stored(login.flow.id) for login in logins}
        # Digests know who drives the flows of which no digest knows.
        begins = {f"new-{n:02}": BEGIN + SPACE * (COVERED + n) for n in range(FRESH)}
        for flow_id, at in begins.items() if self.store.holds else ():
            self.note(DRIVE, at, f"{flow_id}.9.1")
            self.note(STOP_DRIVING, at + GONE, f"{flow_id}.9.1")
        for _ in range(4):
            # Some go on between digests, so that these know several events of them.
            for login in random.sample(free, COVERED // 3):
                login.keep(self.store, 6)
            self._note()
            self._sign()
        self.covered = [STORE, *(login.flow.id for login in logins)]
        self.forgotten = [STORE, *self._forget(logins, BEGIN + SPACE * COVERED / 4)]
        self.old_rows = [
            (flow_id, row)
            for flow_id, row in begun.items()
            if flow_id not in self.forgotten and _moved(row, self._stored(flow_id))
        ]
        for flow_id, at in begins.items():
            self.fresh.append(flow_id)
            self._begin(random, flow_id, at, hold=True)
        Login(random, "begun").begin_in(self.store)

    def _stored(self, flow_id: str) -> dict[str, Any]:
        (row,) = run_statement(self.store, "flows.get_by_id", {"id": flow_id}).rows
        return dict(zip(LOGINS.columns, row, strict=False))

    def _begin(self, random: Random, flow_id: str, at: float, *, hold: bool = False) -> Login:
        login = Login(random, flow_id, at)
        if random.random() < 0.1:
            # It was begun elsewhere, and is brought here.
            for _ in login.happen(2):
                pass
        login.begin_in(self.store)
        if hold and self.store.holds and random.random() < 0.6:
            login.keep(self.store, random.randrange(1, 4))
            if login.flow.state is State.AWAITING_USER:
                self._hold(random, login)
        else:
            login.keep(self.store, random.randrange(1, 20))
        return login

    def _hold(self, random: Random, login: Login) -> None:
        """Hold a login, and let that end, or not."""
        flow, now = login.flow, max(login.now, login.flow.due_at)
        how, known = random.randrange(5), flow.id in self.fresh
        driver = random.choice([WORKER, f"{flow.id}.9.1"])
        if known and how == 0:
            driver = WORKER
        noted = driver != WORKER and not known
        if noted:
            self.note(DRIVE, now, driver)
        flow.driver = driver
        self._keep(flow, flow.poll(now, 10.0, RESERVED))
        row = self._stored(flow.id)
        for _ in range(random.randrange(8)):
            event = render(flow, flow.receive(PENDING, now := now + 0.25), origin(random))
            self.store.leave_out(flow, event)
            event = render(flow, flow.poll(now := flow.due_at, 10.0, None), origin(random))
            self.store.leave_out(flow, event)
        now, action, until = now + 0.25, STOP_DRIVING, flow.created_at + GONE
        self.held[flow.id] = Held(driver, row, until if how else None)
        if how == 0:
            return
        if how == 1:
            event = render(flow, flow.receive(PENDING, now), origin(random))
            self.store.leave_out(flow, event)
            let_go = flow.let_go(now)
            flow.end_hold()
            self._keep(flow, let_go)
        elif how == 2:
            received = flow.receive(random.choice(SAID), now)
            flow.end_hold()
            self._keep(flow, received)
        else:
            now, action, flow = now + 60, LAPSE, get(self.store, flow.id)
            other = flow.recover(now, driver) if how == 3 else flow.cancel(now, "by hand")
            self._keep(flow, other)
        if noted:
            self.note(action, now, driver)
        login.flow, login.now = flow, now

    def _keep(self, flow: Flow, transition: Transition) -> None:
        assert self.store.commit(flow, render(flow, transition, Origin("w9.8.7", pid=8)))

    def note(self, action: Action, at: float, detail: str) -> None:
        """Put a store event on record, at a time."""
        last = self.end_of(STORE)
        event = render_store_event(action, at, last["seq"] + 1, detail, previous=last["time"])
        link(event, last["hash"], self.key)
        self.put(event)

    def _note(self) -> None:
        for action in (PLAIN_HTTP, ROTATE_KEYS):
            self.note(action, BEGIN + SPACE * (COVERED + FRESH), "something to note")

    def _sign(self) -> None:
        begin = not files_of(self.digests)
        assert take_digest(self.store, self.digests, self._signer, begin=begin)

    def _prune_some(self, random: Random) -> None:
        logins = [self._begin(random, f"old-{number:02}", BEGIN - 1e6) for number in range(30)]
        self._sign()
        self.pruned = self._forget(logins, BEGIN)
        assert prune(self.store, self.digests, self._signer, BEGIN).flows

    def _forget(self, logins: Sequence[Login], before: float) -> list[str]:
        over = [login.flow.id for login in logins if login.over_by(before)]
        assert delete_ended(self.store, before) == len(over) > 0
        return over

    # Behind the store's back.

    def do(self, statement: str, *values: Any) -> Any:
        """Run a statement; tables are `{flows}` and the like, and values `?`."""
        tables = ("flows", "audit", "drivers", "taken")
        names = {name: self.store._connection.statements.table(name) for name in tables}
        if self.kind == "postgres":
            statement = statement.replace("?", "%s")
        return self._database.execute(statement.format(**names), values)

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Undo at the end what is done within."""
        self._database.execute("BEGIN")
        try:
            yield
        finally:
            self._database.execute("ROLLBACK")

    def put(
        self, row: Mapping[str, Any], said: Mapping[str, Any] | None = None, text: str | None = None
    ) -> None:
        """Put an event in.

        Args:
            row: The event, for the columns.
            said: What its text says, if that is something else.
            text: The text, if it is to be another one.
        """
        values = columns_of(row) | {"text": text or columns_of(said or row)["text"]}
        names = ", ".join(f'"{name}"' for name in STORED)
        marks = ", ".join("?" * len(STORED))
        self.do(f"INSERT INTO {{audit}} ({names}) VALUES ({marks})", *(values[n] for n in STORED))

    def end_of(self, flow_id: str) -> dict[str, Any]:
        """Return a flow's last event as it is by now."""
        names = ", ".join(f'"{name}"' for name in STORED)
        statement = f"SELECT {names} FROM {{audit}} WHERE flow_id = ? ORDER BY seq DESC LIMIT 1"
        return fields_of(self.do(statement, flow_id).fetchone())

    def drop(self, flow_id: str, first: int = -(2**60), last: int = 2**60) -> None:
        """Drop events of a flow."""
        statement = "DELETE FROM {audit} WHERE flow_id = ? AND seq BETWEEN ? AND ?"
        self.do(statement, flow_id, first, last)

    def set(self, flow_id: str, seq: int, values: Mapping[str, Any]) -> None:
        """Set columns of an event."""
        names = ", ".join(f'"{name}" = ?' for name in values)
        statement = f"UPDATE {{audit}} SET {names} WHERE flow_id = ? AND seq = ?"
        self.do(statement, *values.values(), flow_id, seq)

    def shift(self, flow_id: str, first: int, by: int, *, renamed: bool) -> None:
        """Give the events from one on other numbers, and perhaps the names that go with these."""
        names = ", ".join(f'"{name}"' for name in STORED)
        statement = f"SELECT {names} FROM {{audit}} WHERE flow_id = ? AND seq >= ?"
        rows = [*map(fields_of, self.do(statement, flow_id, first).fetchall())]
        self.drop(flow_id, first)
        for row in rows:
            seq = row["seq"] + by
            there = row | {"seq": seq, "event_id": f"{flow_id}.{seq}"}
            self.put(there, there if renamed else row)

    def record(self, flow_id: str) -> dict[str, Any] | None:
        """Return a flow's record."""
        found = self.do("SELECT progress, head FROM {flows} WHERE id = ?", flow_id).fetchone()
        return None if found is None else json.loads(found[0]) | {"head": found[1]}

    def set_flow(self, flow_id: str, record: Mapping[str, Any], **columns: Any) -> None:
        """Set a flow's record and columns."""
        text = json.dumps({name: record[name] for name in record if name != "head"})
        columns = {"progress": text, "head": record["head"], **columns}
        names = ", ".join(f"{name} = ?" for name in columns)
        self.do(f"UPDATE {{flows}} SET {names} WHERE id = ?", *columns.values(), flow_id)

    def row(self, flow_id: str) -> dict[str, Any]:
        """Return what is authenticated of a flow's row."""
        names = ", ".join(LOGINS.columns)
        found = self.do(f"SELECT {names} FROM {{flows}} WHERE id = ?", flow_id).fetchone()
        return dict(zip(LOGINS.columns, found, strict=True))

    def set_row(self, flow_id: str, columns: Mapping[str, Any]) -> None:
        """Set columns of a flow's row."""
        names = ", ".join(f"{name} = ?" for name in columns)
        self.do(f"UPDATE {{flows}} SET {names} WHERE id = ?", *columns.values(), flow_id)

    def known_until(self, flow_id: str) -> int:
        """Return the number of a flow's last event that a digest names."""
        entries = [entry for entries in self.signed for entry in entries]
        return max((entry.seq for entry in entries if entry.flow_id == flow_id), default=0)

    def forge(self, flow: Flow) -> None:
        """Write a flow's row as the store does, without an event."""
        rows = self.store.inner._rows
        digest, columns = rows.columns(flow, seal=True)
        rows.sign(columns, digest, flow.head)
        self.set_row(flow.id, {name: columns.reveal()[name] for name in LOGINS.columns})

    def flow(self, flow_id: str) -> Flow:
        """Return a flow as its row has it."""
        row = self.row(flow_id)
        return self.store.inner._rows.record(LOGINS, [row[name] for name in LOGINS.columns])

    def commit(self, flow: Flow, transition: Transition) -> None:
        """Do what the store does: as it does by itself, or for somebody who has all keys."""
        event = render(flow, transition, Origin("w9.8.7", pid=8))
        columns, noted = self.store.inner._linked(flow, event)
        self.set_row(flow.id, {name: columns.reveal()[name] for name in LOGINS.columns})
        if noted is not None:
            self.put(event)

    def insert(self, flow: Flow, *, sealed: bool) -> None:
        """Put a flow's row in: authenticated by the sealing key, or by none."""
        rows = self.store.inner._rows
        digest, columns = rows.columns(flow, seal=True)
        rows.sign(columns, digest, _THEIRS.mark(digest))
        row = columns.reveal() | ({} if sealed else {"mac": "df1.00000000.00"})
        names, marks = ", ".join(LOGINS.columns), ", ".join("?" * len(LOGINS.columns))
        values = [row[name] for name in LOGINS.columns]
        self.do(f"INSERT INTO {{flows}} ({names}) VALUES ({marks})", *values)

    def adjust(self, flow_id: str, last: Mapping[str, Any]) -> None:
        """Make a flow's record fit an event, as if that were its last."""
        record = self.record(flow_id)
        if record is None:
            return
        record |= {
            "seq": last["seq"],
            "state": last["to"],
            "head": last["hash"],
            "reason": last["reason"],
            "attempt": last["attempt"],
            "in_doubt": bool(last["in_doubt"]),
        }
        record.pop("omitted", None)
        self.set_flow(flow_id, record, seq=last["seq"], state=str(last["to"]))

    # Looking at it.

    def _stored_row(self, row: Sequence[Any]) -> StoredFlow:
        return self.store.inner.stored_row(LOGINS, row)

    def findings(
        self, key: AuditKey | None, only: Collection[str] | None = None, digests: Path | None = None
    ) -> list[Finding]:
        """Verify the trail, or some of its flows."""
        names = ", ".join(f'"{name}"' for name in STORED)
        store_events = f"SELECT {names} FROM {{audit}} WHERE flow_id = ? ORDER BY seq"
        trail, stands = (
            self.store._connection.statements[name].text
            for name in ("events_all", "flows.rows_all")
        )
        if only is None:
            whole = Verification(
                self.do(trail),
                map(self._stored_row, self.do(stands)),
                key,
                self.do(store_events, STORE),
                digests=digests or self.digests,
                public_key=self.public_key,
                last=self.last,
            )
            return list(whole.findings())
        marks = ", ".join("?" * len(only))
        part = _Part(
            self.do(trail.replace("ORDER", f"WHERE flow_id IN ({marks}) ORDER"), *only),
            map(
                self._stored_row,
                self.do(stands.replace("ORDER", f"WHERE id IN ({marks}) ORDER"), *only),
            ),
            key,
            self.do(store_events, STORE),
            signed=self.signed,
            only=only,
        )
        return list(part.findings())


def fields_of(row: Sequence[Any]) -> dict[str, Any]:
    """Return the event of a row that nobody has touched."""
    values = dict(zip(STORED, row, strict=True))
    event: dict[str, Any] = json.loads(values["text"])
    return event | {name: values[name] for name in ("hash", "mac")}


def columns_of(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event as the table has it."""
    columns = {name: event[name] for name in STORED if name != "text"}
    return columns | {"text": canonical(event).decode()}


def rechain(rows: Sequence[dict[str, Any]], key: AuditKey | None) -> None:
    """Make the hashes of events anew, the first of which is a new one; and their MACs, by a key."""
    before: Mapping[str, Any] | None = None
    for row in rows:
        if before is not None:
            follow(row, before)
        before = row
        row["hash"] = hash_of(row)
        if key is not None:
            row["mac"] = key.mac(row["hash"], row["key_id"])


def left_out(row: Mapping[str, Any]) -> int:
    """Return how many events were left out before one."""
    return 0 if row["omitted"] is None else int(row["omitted"]["events"])


def first_of(row: Mapping[str, Any]) -> int:
    """Return the number of the first event that a stored one stands for."""
    return int(row["seq"]) - left_out(row)


def follow(row: dict[str, Any], before: Mapping[str, Any]) -> None:
    """Have an event follow another one by its hash, over what was left out between them."""
    if row["seq"] == before["seq"] + 1:
        row["prev_hash"] = before["hash"]
    elif row["omitted"] is not None:
        row["omitted"] = row["omitted"] | {"after": before["hash"]}
        if "counted" in row["omitted"]:
            row["prev_hash"] = before["hash"]


def _moved(row: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Tell whether an event of a flow was stored since it had a row."""
    return _last_stored(row) != _last_stored(now)


def _last_stored(row: Mapping[str, Any]) -> str:
    """Return the hash of the last event that is stored, as a row names it."""
    run = json.loads(row["progress"]).get("omitted")
    return str(row["head"] if run is None else run["after"])
