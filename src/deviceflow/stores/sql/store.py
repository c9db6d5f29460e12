"""A store in a SQL database: what each of its methods does, written once, for every connection.

Three tables matter. A row of `flows` or `grants` is a record as it stands (see `rows`): a login or
a grant. `audit` has a row for each of its transitions, written in the transaction that makes it
true. The number of its last transition is the record's version. A move names the version at which
the record was read. If the record has another version by then, nothing happens.

All methods are coroutines over a connection. What is done in a transaction is a function of it, and
is called again if the connection was lost. It must then find out whether it was done before.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from contextlib import nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeVar

from deviceflow._blocking import complete
from deviceflow.audit import log
from deviceflow.audit.chain import DAMAGED, AuditKey, encode, link, omit, read, row_of
from deviceflow.audit.events import STORE, render, render_store_event
from deviceflow.audit.mode import is_summarized
from deviceflow.audit.reading import event_of
from deviceflow.core.actions import (
    ACTIONS,
    DRIVE,
    LAPSE,
    OPEN_PLAINTEXT,
    PRUNE,
    ROTATE_KEYS,
    STOP_DRIVING,
)
from deviceflow.core.encryption import PLAIN
from deviceflow.core.flow import Flow
from deviceflow.core.grant import Grant, check_name
from deviceflow.core.ports import (
    Claim,
    LeaseHeld,
    Origin,
    Page,
    Stored,
    StoreEvent,
    Unreadable,
    UpcomingFlow,
)
from deviceflow.core.queries import PAGE
from deviceflow.core.sanitize import storable
from deviceflow.core.secret import Hidden, Secret, without_frames
from deviceflow.core.states import ENDS, State
from deviceflow.core.uses import to_json
from deviceflow.credentials.keys.audit import configured
from deviceflow.errors import DeviceFlowError, StoreError, UnknownLoginError, UsageError
from deviceflow.stores import _leases as leases
from deviceflow.stores.sql import keys, schema
from deviceflow.stores.sql.rows import (
    GRANTS,
    LOGINS,
    TABLES,
    Rows,
    ignored,
    link_hash,
    name_of,
    rewound,
    server_of,
    table_of,
    uses_of,
)
from deviceflow.stores.sql.statements import MIGRATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from deviceflow.audit.mode import TrailMode
    from deviceflow.core.actions import Action
    from deviceflow.core.encryption import Keyless, Plain, Sealer
    from deviceflow.core.ports import By, Decide, GrantLease, StoredFlow
    from deviceflow.core.queries import Query
    from deviceflow.core.uses import Use
    from deviceflow.stores.sql.connection import (
        Connection,
        Mode,
        TaskConnection,
        Transaction,
        Work,
    )
    from deviceflow.stores.sql.rows import Table

    Values = dict[str, Any]

_R = TypeVar("_R", Flow, Grant)
_T = TypeVar("_T")

NOBODY: Final = Origin()
_GRANT_SNOOZE: Final = 3600.0
_DEFAULTS: Final = {"limit": PAGE, "owner": None}
_HIGHEST: Final = 2**53
_LONGEST_NAME: Final = 500  # an index of PostgreSQL's takes 2,700 bytes
_NEVER: Final = 1e12
_TRIES: Final = 3


class OvertakenError(Exception):
    """The login that was to move with a grant was moved by others: nothing is to be committed."""


class Beside(NamedTuple):
    """What a row has beside the columns that are authenticated, whatever somebody has put there.

    Attributes:
        now: The store's time.
        owner: Who has the lease, or had it last and did not give it back.
        previous_owner: Who had it before, and did not give it back.
        left: What is left of the lease.
        used_at: When the record was used last.
        used_by: By what.
        held_by: Who holds it, if somebody does: that driver's lease counts.
    """

    now: float
    owner: str | None
    previous_owner: str | None
    left: leases.LeaseLeft
    used_at: object
    used_by: object
    held_by: str | None

    @classmethod
    def of(cls, table: Table[Any], row: Sequence[Any]) -> Self:
        """Return what a row of the fragment `row` has."""
        now, owner, previous, *lease, used_at, used_by, held_by = row[len(table.columns) :]
        owner = owner if isinstance(owner, str) else None
        held_by = held_by if isinstance(held_by, str) else None
        return cls(now, owner, previous, leases.left(*lease), used_at, used_by, held_by)


class SQLMethods:
    """The methods of a store in a SQL database, each a coroutine over its connection.

    Args:
        connection: Does work in transactions.
        find_sealer: Finds what seals the store's secrets; it is given the store's audit key as it
            is sealed, or None for a store that is new.
        read_only: Whether nothing may be written to it, not even the schema.
        trail: Whether its trail stores each event: see `deviceflow.audit.mode`.
        name: What a person reads in a log.

    Attributes:
        durable: True: logins outlive the process.
        keeps_trail: True: each login's events are kept beside it.
        audit_key: What authenticates events; None where the store is only read, and has none.
    """

    durable = True
    keeps_trail = True

    def __init__(
        self,
        connection: Connection,
        find_sealer: Callable[[str | None], Sealer | Plain | Keyless],
        *,
        read_only: bool,
        trail: TrailMode | None,
        name: str,
    ) -> None:
        self._connection = connection
        self._dialect = connection.statements.dialect
        self._find_sealer = find_sealer
        self._read_only = read_only
        self._summarize = self.holds = is_summarized(trail, "summary") and not read_only
        self._name = name
        self._rows: Rows
        self.audit_key: AuditKey | None

    def __repr__(self) -> str:
        return f"<{self._name}>"

    # The protocol; see `Store`.

    async def now(self, client_now: float) -> float:
        if not self._dialect.has_clock:
            await self._ready()
            return client_now

        async def work(db: Transaction) -> float:
            return float((await db.row("now"))[0])

        return await self._run(work, "read")

    async def add(self, flow: Flow, *, store_event: StoreEvent | None = None) -> Flow:
        _check_names(flow)
        await self._writable()
        now = time.time() if store_event is None else store_event.client_now
        imported = None
        if flow.seq:  # its events so far are elsewhere: the chain here begins with saying so
            flow.head = flow.omitted = None
            imported = render(flow, flow.record_import(await self.now(time.time())))
        columns, noted = self._first_row(flow) if imported is None else self._linked(flow, imported)

        async def work(db: Transaction) -> Flow:
            # The login that has the name may end between two statements.
            for _ in range(_TRIES):
                if await db.execute("flows.add", columns.reveal()) == 1:
                    await self._note(db, noted, store_event)
                    if flow.wake_at is not None:
                        await self._announce(db)
                    return flow
                found = await db.row("flows.get_by_id", columns.reveal())
                found = found or await db.row("flows.get_by_name", columns.reveal())
                if found is not None:
                    return self._added(flow, columns, found)
            raise ignored(flow.id)

        kept = await self._run(work, "write", now)
        if kept is flow:
            self._changed()
            if imported is not None:
                log.emit(log.TRANSITION, imported)
        return kept

    async def load(
        self,
        kind: type[_R],
        key: str | Secret,
        client_now: float = 0.0,
        *,
        by: By = "id",
        secrets: bool = True,
    ) -> Stored[_R] | None:
        table = TABLES[kind]
        key = link_hash(key.reveal()) if isinstance(key, Secret) else storable(key)

        async def work(db: Transaction) -> Stored[_R] | None:
            row = await db.row(f"{table.name}.get_by_{by}", {by: key})
            return None if row is None else self._stored(table, row, secrets=secrets)

        return await self._run(work, "read", client_now)

    async def page(
        self, kind: type[_R], client_now: float, after: Any = None, *, skip_ended: bool = False
    ) -> Page[_R]:
        table = TABLES[kind]
        name = f"{table.name}.{'unended' if skip_ended else 'all'}{'_after' if after else ''}"

        async def work(db: Transaction) -> Page[_R]:
            rows = await db.rows(name, (after or {}) | {"limit": PAGE})
            if not rows:
                return Page([], None)
            last = dict(zip(table.columns, rows[-1], strict=False))
            place = {column: last[column] for column in ("created_at", "id", "name")}
            return Page([self._readable(table, row) for row in rows], place)

        return await self._run(work, "read", client_now)

    async def claim(
        self,
        flow_id: str,
        owner: str,
        client_now: float,
        seconds: float,
        decide: Decide | None = None,
    ) -> Claim | LeaseHeld:
        lease: Values = {"owner": owner, "seconds": seconds, "ended": None}
        kept: dict[str, Claim] = {}  # by the MAC that an attempt has written

        async def work(db: Transaction) -> Claim | LeaseHeld:
            row = await db.row("flows.lock", {"id": storable(flow_id)})
            if row is None:
                raise UnknownLoginError(flow_id=flow_id)
            beside = await _with_driver(db, Beside.of(LOGINS, row))
            if beside.owner != owner and beside.left.seconds > 0:
                flow = self._rows.record(LOGINS, row, secrets=False)
                return LeaseHeld(flow, *beside.left)
            # The error for one that cannot be read undoes the lease: others may be able to read it.
            flow = self._rows.record(LOGINS, row)
            if (mac := row[len(LOGINS.columns) - 1]) in kept:
                return kept[mac]  # only the answer was lost
            previous = beside.previous_owner if beside.owner in (None, owner) else beside.owner
            claim = Claim(flow, beside.now, previous)
            event = None if decide is None else decide(claim)
            if event is None:
                values = lease | {"id": flow.id, "previous_owner": previous}
                if await db.execute("flows.lease", values) != 1:
                    raise ignored(flow.id)
                return claim
            columns, noted = self._linked(flow, event)
            statement = "flows.lease_and_move" if flow.driver is None else "flows.hold"
            if await db.execute(statement, columns.reveal() | lease) != 1:
                raise ignored(flow.id)
            await self._note(db, noted)
            claim = Claim(flow, beside.now, previous, event)
            kept[columns.reveal()["mac"]] = claim
            return claim

        claimed = await self._run(work, "write", client_now)
        if isinstance(claimed, Claim):
            claimed.flow.as_stored.seq = claimed.flow.seq
        return claimed

    async def restart_lease(self, subject_id: str, since: float, client_now: float) -> None:
        values = {"id": storable(subject_id), "since": since}

        async def work(db: Transaction) -> None:
            for name in (
                *(f"{table.name}.restart_lease" for table in TABLES.values()),
                "restart_driver",
            ):
                await db.run(name, values)

        await self._run(work, "write", client_now)

    async def wake_after_clock_change(self, client_now: float) -> None:
        await self._execute("wake_after_clock_change", {}, client_now)

    async def commit(
        self,
        record: Flow | Grant,
        event: dict[str, Any],
        *,
        release: str | None = None,
        lease: GrantLease | None = None,
        store_event: StoreEvent | None = None,
        flow: Flow | None = None,
        flow_event: dict[str, Any] | None = None,
    ) -> bool:
        await self._writable()
        moves = [self._move(record, event, release=release, lease=lease)]
        if flow is not None and flow_event is not None:
            moves.append(self._move(flow, flow_event))
        is_login = isinstance(record, Flow)
        makes_due = record.wake_at is not None and (
            record.state in ENDS or event["from"] == State.INIT
        )

        async def work(db: Transaction) -> bool:
            for number, move in enumerate(moves):
                if not await move(db):
                    if number:
                        raise OvertakenError
                    if is_login and release is not None:
                        await db.run("release", {"id": record.id, "owner": release})
                    return False
            await self._note(db, None, store_event)
            if makes_due:
                await self._announce(db)
            return True

        timed = lease or store_event
        now = 0.0 if timed is None else timed.client_now
        kept = False
        turn = nullcontext() if lease is None else self._connection.in_turn(record.id)
        async with turn:
            with suppress(OvertakenError):
                kept = await self._run(work, "write" if is_login else "durable", now)
        if kept:
            _note_stored(record, flow)
        if kept and makes_due:
            self._changed()
        await self._wiped(event, kept=kept)
        return kept

    async def release(self, flow_id: str, owner: str, *, due: Flow | None = None) -> None:
        values: Values = {"id": flow_id, "owner": owner}
        if due is None:
            await self._execute("release", values)
        else:
            values |= {"seq": due.seq, "wake_at": due.wake_at}
            await self._execute("release_until_due", values)

    async def put_off(
        self, kind: type[Flow | Grant], key: str, client_now: float, owner: str | None = None
    ) -> None:
        # A key that is not text may not be found: then it is the owner's leases that are released.
        values = {"key": storable(key), "owner": owner, "seconds": _GRANT_SNOOZE}
        await self._execute(f"put_off_{TABLES[kind].name}", values, client_now)

    async def claim_notice(self, grant_id: str, client_now: float, seconds: float) -> bool:
        values = {"id": grant_id, "seconds": seconds}
        return await self._execute("claim_notice", values, client_now) == 1

    async def use(self, grant_id: str, client_now: float, uses: tuple[Use, ...]) -> None:
        values = {"id": grant_id, "used_by": encode(to_json(uses)).decode()}
        await self._execute("use_grant", values, client_now)

    async def select(self, query: Query[_T], client_now: float) -> list[_T]:
        values = _DEFAULTS | {name: _sql(value) for name, value in query.values.items()}

        async def work(db: Transaction) -> list[_T]:
            read: Callable[[Any], Any] = partial(self._readable, LOGINS)
            found = map(_ANSWERS.get(query.name, read), await db.rows(query.name, values))
            return [answer for answer in found if answer is not None]

        return await self._run(work, "read", client_now)

    async def delete(self, records: Sequence[Flow | Grant]) -> int:
        durable = any(isinstance(record, Grant) for record in records)

        async def work(db: Transaction) -> int:
            gone = 0
            for record in records:
                values = {"id": record.id, "seq": record.seq}
                gone += await db.execute(f"{table_of(record).name}.delete", values)
            return gone

        return await self._run(work, "durable" if durable else "write")

    async def append(self, event: StoreEvent) -> None:
        await self._run(lambda db: self._note(db, None, event), "write", event.client_now)

    # What only a database has.

    async def events(self, flow_id: str) -> list[dict[str, Any]]:
        """Return the events of a login or a grant, as they were logged, in their order.

        Each field is of its type or null, whatever somebody has put into the database.
        """
        return [event_of(row) for row in await self._query("history", {"id": storable(flow_id)})]

    async def prune(self, ended: Collection[str], waiting: Mapping[str, int]) -> None:
        """Drop events, and put that on record. A digest must name them by then.

        Args:
            ended: The logins and grants whose events are all dropped.
            waiting: Those that keep their events from a number on.
        """

        async def work(db: Transaction) -> None:
            for flow_id in ended:
                await db.run("delete_events", {"id": storable(flow_id)})
            for flow_id, seq in waiting.items():
                await db.run("delete_events_before", {"id": storable(flow_id), "seq": seq})
            about = f"the events of {len(ended)} flows"
            if waiting:
                about += f", and the first events of {len(waiting)} flows that have not ended"
            await add_store_event(db, self.audit_key, PRUNE, about)

        await self._run(work, "write", time.time())

    def stored_row(self, table: Table[Any], row: Sequence[Any]) -> StoredFlow:
        """Return what a row that begins with a table's columns says, true or not."""
        return self._rows.stored(table, row)

    async def with_other_keys(self, table: Table[Any], skip: int) -> list[str]:
        """Return a page of ids of records that another key than the first has sealed."""
        values = {"prefix": f"{self._rows.sealer.prefix}%", "limit": PAGE, "skip": skip}
        found = await self._query(f"{table.name}.with_other_keys", values)
        return [name_of(record_id) for (record_id,) in found]

    async def reseal_audit_key(self) -> None:
        """Seal the store's own audit key with the first key, unless it is."""
        sealed = str(await self._run(lambda db: keys.get_meta(db, "audit_key"), "read"))
        if sealed.startswith(self._rows.sealer.prefix):
            return
        kept = keys.sealed_audit_key(keys.opened_audit_key(sealed, self._rows), self._rows)

        async def work(db: Transaction) -> None:
            await db.run("set_meta", kept)
            detail = "resealed with another key"
            await add_store_event(db, self.audit_key, ROTATE_KEYS, detail)

        await self._run(work, "write", time.time())

    # Work in transactions.

    async def _run(self, work: Work[_T], mode: Mode = "write", client_now: float = 0.0) -> _T:
        """Do work in a transaction; what it raises comes without frames that show a row."""
        if mode != "read":
            await self._writable()
        else:
            await self._ready()
        try:
            return await self._connection.run(work, mode, client_now)
        except BaseException as stop:  # noqa: BLE001  # raised again without its frames
            raise without_frames(stop) from None

    async def _query(self, name: str, values: Values, client_now: float = 0.0) -> list[Any]:
        return await self._run(lambda db: db.rows(name, values), "read", client_now)

    async def _execute(self, name: str, values: Values, client_now: float = 0.0) -> int:
        return await self._run(lambda db: db.execute(name, values), "lease", client_now)

    async def _writable(self) -> None:
        if self._read_only:
            raise StoreError(
                "This store was opened for reading only: nothing can be written to it."
            )
        await self._ready()

    def _stored(self, table: Table[_R], row: Sequence[Any], *, secrets: bool = True) -> Stored[_R]:
        secrets = secrets or table is GRANTS
        record = self._rows.record(table, row, secrets=secrets)
        now, owner, _, left, used_at, used_by, held_by = Beside.of(table, row)
        used_at = used_at if isinstance(used_at, int | float) else None
        owner = held_by or owner
        return Stored(record, now, used_at, left.seconds, owner, uses_of(used_by), left.since)

    def _readable(self, table: Table[_R], row: Sequence[Any]) -> Stored[_R] | Unreadable:
        """Return the record of a row without a login's secrets, or why it cannot be read."""
        try:
            return self._stored(table, row, secrets=False)
        except DeviceFlowError as problem:
            without_frames(problem)
            name = row[table.columns.index("id" if table is LOGINS else "name")]
            return Unreadable(name_of(name), problem)

    def _first_row(self, flow: Flow) -> tuple[Hidden[Values], None]:
        """Return the row of a login that has no events yet."""
        digest, columns = self._rows.columns(flow, seal=True)
        assert self.audit_key is not None  # noqa: S101  # the store may be written
        self._rows.sign(columns, digest, self.audit_key.mark(digest))
        return columns, None

    def _added(self, flow: Flow, columns: Hidden[Values], row: Sequence[Any]) -> Flow:
        """Return the login that was there already, or the one that is added, if that was done."""
        found = self._rows.record(LOGINS, row)
        if found.id != flow.id:
            return found
        there = dict(zip(LOGINS.columns, row, strict=False))
        if any(there[name] != columns.reveal()[name] for name in ("record", "progress")):
            raise UsageError("A flow of this id is in the store already.", flow_id=flow.id)
        # Added already, and the connection was lost just then.
        flow.as_stored = found.as_stored
        return flow

    def _linked(self, record: Flow | Grant, event: Values) -> tuple[Hidden[Values], Values | None]:
        """Make an event the next link of its record's chain.

        Returns:
            The record's row that goes with it, and the event's own; None if the trail leaves it
            out.
        """
        # Tried again, it is the very same row: the event names its digest.
        again = event["hash"] is not None
        left_out = isinstance(record, Flow) and (
            record.omitted is not None if again else self._is_left_out(record, event)
        )
        seal = not again and ACTIONS[event["action"]].changes_secrets
        digest, columns = self._rows.columns(record, seal=seal)
        if not again:
            event["row_digest"] = digest
        text = link(event, record.head, self.audit_key, record)
        head = record.head = str(event["hash"])
        if left_out and self.audit_key is not None:
            # No stored event names the row's digest: the audit key vouches for the row instead.
            head = f"{head} {self.audit_key.mark(f'{digest} {head}')}"
        self._rows.sign(columns, digest, head)
        columns.reveal()["before"] = record.as_stored.before(event["seq"])
        return columns, None if left_out else row_of(event, text)

    def _is_left_out(self, flow: Flow, event: Values) -> bool:
        # Asked for each event: most trails leave none out.
        if not self._summarize and flow.omitted is None and flow.skipped is None:
            return False
        return omit(event, flow, summarize=self._summarize and not flow.reserved)

    async def leave_out(self, flow: Flow, event: Values) -> None:
        """Link an event of a login that is held to its chain. It is not stored."""
        omit(event, flow, summarize=True)
        link(event, flow.head, self.audit_key, flow)
        flow.head = str(event["hash"])

    async def drive(
        self,
        driver: str,
        client_now: float,
        seconds: float,
        *,
        begin: bool = False,
        seen: Iterable[str] = (),
    ) -> float | None:
        """Take or renew the lease of all that a driver holds; None if it has ended."""
        await self._writable()
        values = {"driver": driver, "seconds": seconds}

        async def work(db: Transaction) -> float | None:
            if begin and await db.execute("add_driver", values) == 1:
                await self._note(db, None, StoreEvent(DRIVE, db.now, driver, NOBODY))
                return db.now
            if await db.execute("renew_driver", values) == 0:
                return None
            for flow_id in seen:
                await db.run("delete_seen", {"driver": driver, "id": flow_id})
            return db.now

        return await self._run(work, "write" if begin else "lease", client_now)

    async def stop_driving(self, driver: str, client_now: float, *, lapsed: bool = False) -> None:
        """Forget a driver that holds no login any more, and put on record whether it has died."""
        action = LAPSE if lapsed else STOP_DRIVING

        async def work(db: Transaction) -> None:
            if await db.execute("delete_driver", {"driver": driver}) == 1:
                await db.run("delete_taken", {"driver": driver})
                await self._note(db, None, StoreEvent(action, db.now, driver, NOBODY))

        await self._run(work, "write", client_now)

    def _move(
        self,
        record: Flow | Grant,
        event: Values,
        *,
        release: str | None = None,
        lease: GrantLease | None = None,
    ) -> Work[bool]:
        """Return what keeps a record as it is after `event`, unless others went on.

        Args:
            record: The record.
            event: Its last transition. The first one of a grant adds it.
            release: Whose lease is given back.
            lease: A lease to take. If others have one, nothing is done.
        """
        table = table_of(record)
        if isinstance(record, Grant):
            check_name(record.name)
        columns, noted = self._linked(record, event)
        columns.reveal().update(release=release, owner=event["worker"])
        if lease is not None:
            taken = {"owner": lease.owner, "seconds": lease.seconds, "ended": lease.ended}
            columns.reveal().update(taken)
        way = _way(record, event, lease)
        statement = f"{table.name}.{way}"
        takes = "counted" in (event["omitted"] or ())

        async def move(db: Transaction) -> bool:
            values = columns.reveal()
            if takes:
                await db.run("take_from_driver", values)
            changed = await db.execute(statement, values)
            if changed == 1:
                await self._note(db, noted)
                return True
            # Done already, if the connection was lost just as it was being done.
            found = await db.row("text_of_event", values)
            if found is not None and worker_of(found[0]) == event["worker"]:
                return True
            row = await db.row(f"{table.name}.get_by_id", values)
            stored = {} if row is None else dict(zip(table.columns, row, strict=False))
            if noted is None and stored.get("mac") == values["mac"]:
                return True
            if changed or (way == "move" and stored.get("seq") == values["before"]):
                raise ignored(record.id)
            return False

        return move

    async def _note(
        self, db: Transaction, noted: Values | None, store_event: StoreEvent | None = None
    ) -> None:
        """Add events to the trail."""
        if noted is not None and await db.execute("add_event", noted) != 1:
            taken = await db.row("event", {"id": noted["flow_id"], "seq": noted["seq"]})
            raise (ignored if taken is None else rewound)(noted["flow_id"])
        if store_event is not None:
            action, _, detail, origin = store_event
            await add_store_event(db, self.audit_key, action, detail, origin)

    async def _announce(self, db: Transaction) -> None:
        """Tell others, in the transaction, that a login may be due that was not."""
        if self._dialect.notifies:
            await db.run("notify", {"payload": ""})

    def _changed(self) -> None:
        """Wake who waits in this process for a login that is due."""

    async def _ready(self) -> None:
        """Wait until the store is open."""

    async def _wiped(self, event: Values, *, kept: bool) -> None:
        """Overwrite what was deleted in what the database keeps besides, if that can be done."""
        statement = self._dialect.overwrite_deleted
        wiped = kept and ACTIONS[event["action"]].wipes and self._rows.sealer.prefix == PLAIN
        if wiped and statement:
            await self._query(statement, {})

    # Opening.

    async def open(self, connection: Connection) -> None:
        """Bring the schema up to date, and get the store's keys.

        Raises:
            SealError: The sealing key is not the one of this store.
            StoreError: The store cannot be used, or its audit key is gone.
        """
        version = await connection.run(
            lambda db: schema.version(db, self._dialect, read_only=self._read_only), "open", 0.0
        )
        if version < len(MIGRATIONS):
            begin = None
            if not version:  # what may be missing is looked for before anything is made
                rows = Rows(secrets.token_hex(8), lambda: self._find_sealer(None))
                begin = new_store(Secret(secrets.token_urlsafe(32)), rows)
            await connection.run(lambda db: schema.migrate(db, begin), "migrate", time.time())
        store_id = await connection.run(lambda db: keys.get_meta(db, "store_id"), "read", 0.0)
        if store_id is None:
            raise keys.store_id_gone()
        sealed = await connection.run(lambda db: keys.get_meta(db, "audit_key"), "read", 0.0)
        if sealed is None:
            raise keys.audit_key_gone()
        self._rows = Rows(store_id, lambda: self._find_sealer(sealed))
        if self._rows.sealer.prefix == PLAIN:
            log.emit(log.PLAINTEXT, {"store": repr(self)}, logging.WARNING)
        # With the audit key comes the proof that the sealing key is the store's own.
        self.audit_key = keys.audit_key(sealed, self._rows)


class AsyncSQLStore(SQLMethods):
    """Keeps logins and grants in a SQL database, for the tasks of one event loop.

    `AsyncSQLiteStore` and `AsyncPostgresStore` say in which. The store is opened by `async with`,
    or else by the first method that is called; that is when an unusable store is told of. The
    arguments are those of `SQLMethods`.
    """

    works_in_callers_task = True

    _connection: TaskConnection
    _is_open = False
    _opening: asyncio.Future[None] | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _change: asyncio.Event | None = None

    async def __aenter__(self) -> Self:
        await self._ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close what is open. It is opened again where it is needed again."""
        await self._connection.close()

    async def watch(self, seconds: float) -> bool:
        await self._ready()
        loop = asyncio.get_running_loop()
        change = self._change
        if change is None or self._loop is not loop:  # an event is waited for in one loop only
            self._loop, self._change = loop, (change := asyncio.Event())
            change.set()
        clock = loop.time
        until = clock() + seconds
        while True:
            pause = await self._connection.look_for_change(self._changed)
            left = until - clock()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(left, pause))):
                    await asyncio.sleep(0)  # a caller that does not wait must not stop the loop
                    await change.wait()
            if change.is_set():
                change.clear()
                return True
            if left <= pause:
                return False

    def _changed(self) -> None:
        if self._change is not None:
            self._change.set()

    async def _ready(self) -> None:
        """Wait until the store is open. One task begins to open it, and all wait for that."""
        while not self._is_open:
            loop = asyncio.get_running_loop()
            opening = self._opening
            if opening is None or opening.done() or opening.get_loop() is not loop:
                opening = self._opening = loop.run_in_executor(None, self._open_blocking)
            await asyncio.shield(opening)

    def _open_blocking(self) -> None:
        # In a thread: besides the database, the keys are read from files or a keyring.
        with self._connection.blocking() as connection:
            try:
                complete(self.open(connection))
            except BaseException:
                complete(connection.close())
                raise
        self._is_open = True


def _way(record: Flow | Grant, event: Values, lease: GrantLease | None) -> str:
    """Return the name of the statement by which a record moves."""
    if isinstance(record, Flow):
        return "move" if record.driver is None else "hold"
    if event["seq"] == 1:
        return "add"
    return "move" if lease is None else "lease_and_move"


def _note_stored(*records: Flow | Grant | None) -> None:
    """Note in logins what the store knows of them by now."""
    for record in records:
        if record is not None:
            record.as_stored.seq = record.seq


async def _with_driver(db: Transaction, beside: Beside) -> Beside:
    """Return it with the lease of whoever holds the login, if somebody does."""
    if beside.held_by is None:
        return beside
    lease = await db.row("driver", {"driver": beside.held_by})
    left = leases.LeaseLeft(0.0) if lease is None else leases.left(*lease)
    return beside._replace(owner=beside.held_by, left=left)


def _sql(value: Any) -> Any:
    """Return a query's value as SQL can compare it."""
    if value is None:
        return _NEVER
    return storable(value) if isinstance(value, str) else value


def _upcoming(row: Sequence[Any]) -> UpcomingFlow | None:
    flow_id, seq, wake_at, now, provider = row
    if isinstance(flow_id, str) and isinstance(seq, int) and isinstance(wake_at, int | float):
        return UpcomingFlow(flow_id, seq, float(wake_at), now, server_of(provider))
    return None


_ANSWERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "upcoming": _upcoming,
    "lapsed": _upcoming,
    "taken": lambda row: name_of(row[0]),
    "gone_drivers": lambda row: name_of(row[0]),
    "pending": lambda _: True,
    "foreign_leases": lambda row: (
        tuple(row) if isinstance(row[0], str) and isinstance(row[1], int | float) else None
    ),
    "with_token": lambda row: name_of(row[0]),
    "with_revoke": lambda row: name_of(row[0]),
    "due_grants": lambda row: (row[0], server_of(row[1])) if isinstance(row[0], str) else None,
    "due_notices": lambda row: row[0] if isinstance(row[0], str) else None,
    "ended_grants": lambda row: name_of(row[0]),
}
"""What makes an answer to a query of a row; of a damaged row, None. Other rows are logins."""


def new_store(own: Secret, rows: Rows) -> Work[None]:
    """Give a new store its own id and its own audit key.

    Args:
        own: The audit key.
        rows: What seals it, and knows the id.
    """
    key = AuditKey(*configured(own), store=rows.store_id)
    kept = keys.sealed_audit_key(own, rows)
    plain = rows.sealer.prefix == PLAIN

    async def work(db: Transaction) -> None:
        await db.run("set_meta", {"name": "store_id", "value": rows.store_id})
        await db.run("set_meta", kept)
        if plain:
            await add_store_event(db, key, OPEN_PLAINTEXT, "secrets are kept in clear")

    return work


async def add_store_event(
    db: Transaction, key: AuditKey | None, action: Action, detail: str, origin: Origin = NOBODY
) -> None:
    """Put on record what belongs to no login: the next link of the store's own chain.

    Args:
        db: The transaction.
        key: What authenticates it.
        action: As in `StoreEvent`, like the rest.
        detail: Likewise.
        origin: Likewise.
    """
    await db.run("lock_store")  # one at a time
    seq, head, at = await db.row("last_event", {"id": STORE}) or (0, None, None)
    if not (isinstance(seq, int) and 0 <= seq < _HIGHEST and isinstance(head, str | None)):
        raise StoreError(
            "The store events are damaged, so no event can be added.",
            hint="Verify the trail: deviceflow audit verify",
        )
    previous = at if isinstance(at, str) else None
    event = render_store_event(action, db.now, seq + 1, detail, origin, previous=previous)
    if await db.execute("add_event", row_of(event, link(event, head, key))) != 1:
        raise ignored(STORE)


def worker_of(text: object) -> str | None:
    """Return which worker an event names, by its text, whatever somebody has put there."""
    try:
        event, _ = read(text)
    except DAMAGED:
        return None
    worker: str | None = event["worker"]
    return worker


def _check_names(flow: Flow) -> None:
    name = flow.name
    if flow.id == STORE:
        raise UsageError("No flow can have this id.", flow_id=flow.id)
    if name is not None and (len(name) > _LONGEST_NAME or storable(name) != name):
        raise UsageError(
            f"A login's name is a text of at most {_LONGEST_NAME} characters, without the"
            " character NUL, in proper Unicode."
        )
