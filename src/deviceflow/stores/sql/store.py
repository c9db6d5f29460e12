"""A store in a SQL database: the operations, performed by a connection.

Two tables matter. A row of `flows` is a flow as it stands (see `rows`). `audit` has a row for each
of its transitions, written in the transaction that makes it true. The number of its last transition
is the flow's version: whoever moves a flow says which version it was read at, and where that is no
longer true, nothing happens.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from contextlib import contextmanager
from heapq import merge
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self, TypeVar

from deviceflow.audit import log
from deviceflow.audit.events import STORE, render, render_grant
from deviceflow.audit.reading import event_of
from deviceflow.core.actions import ACTIONS
from deviceflow.core.encryption import PLAIN, Keyless
from deviceflow.core.ports import LeaseHeld, Origin, StoreEvent, each, refuse
from deviceflow.core.sanitize import storable
from deviceflow.core.secret import Secret, unseen
from deviceflow.core.states import State
from deviceflow.errors import (
    DeviceFlowError,
    LoginBusyError,
    StoreError,
    UnknownLoginError,
    UsageError,
)
from deviceflow.stores.sql import keys, schema
from deviceflow.stores.sql.grant_face import GrantFace
from deviceflow.stores.sql.grant_methods import Job
from deviceflow.stores.sql.grant_rows import GrantRows
from deviceflow.stores.sql.grants import SeenGrants, by_id
from deviceflow.stores.sql.operations import Operations, query, statement
from deviceflow.stores.sql.remembered import RememberedFlows
from deviceflow.stores.sql.rows import COLUMNS, Rows, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from contextlib import AbstractContextManager

    from deviceflow.audit.chain import AuditKey
    from deviceflow.core.actions import Action
    from deviceflow.core.encryption import Plain, Sealer
    from deviceflow.core.flow import Flow
    from deviceflow.core.ports import Claim, Decide, StoredFlow
    from deviceflow.core.secret import Hidden
    from deviceflow.stores.sql.connection import Connection, Mode, Operation, Query
    from deviceflow.stores.sql.grant_methods import Method
    from deviceflow.stores.sql.statements import Dialect, Statements

_T = TypeVar("_T")

_PAGE: Final = 200
_CREATED_AT: Final = COLUMNS.index("created_at")
_RESEALING: Final = 10.0
_LONGEST_NAME: Final = 500  # an index of PostgreSQL's takes 2,700 bytes


class Snapshot(NamedTuple):
    """What a store holds at one moment, in the order of the flows' ids, byte by byte.

    Attributes:
        events: All events of all flows and grants, those of each by their numbers, as tuples in the
            order of `deviceflow.audit.chain.STORED`.
        flows: The row of each flow and of each grant.
        key: What authenticates the events; None where the store is only read, and has none.
    """

    events: Iterator[tuple[Any, ...]]
    flows: Iterator[StoredFlow]
    key: AuditKey | None


class Resealed(NamedTuple):
    """What sealing with the first key came to.

    Attributes:
        flows: How many flows were sealed with it.
        problems: What kept others from that.
    """

    flows: int
    problems: list[DeviceFlowError]


class SQLStore(GrantFace):
    """Keeps flows in a SQL database; `SQLiteStore` and `PostgresStore` say in which.

    The flows that a process drives are kept in its memory between their polls, with the device
    code in clear, up to 16,384 of them. A poll of one reads nothing, and is done only if the row
    is the one that this process wrote.

    Args:
        connection: Performs operations.
        dialect: How the database says it.
        statements: The statements, in that dialect.
        find_sealer: Finds what seals the store's secrets; it is given the store's audit key as it
            is sealed, or None for a store that is new.
        read_only: Whether nothing may be written to it, not even the schema.

    Attributes:
        durable: True: flows outlive the process.
        keeps_trail: True: each flow's events are kept beside it.
    """

    durable = True
    keeps_trail = True

    def __init__(
        self,
        connection: Connection,
        dialect: Dialect,
        statements: Statements,
        find_sealer: Callable[[str | None], Sealer | Plain | Keyless],
        *,
        read_only: bool,
    ) -> None:
        self._connection = connection
        self._dialect = dialect
        self._statements = statements
        self._find_sealer = find_sealer
        self._read_only = read_only
        self._remembered = RememberedFlows()
        self._seen_grants = SeenGrants()
        self._sealed: str | None = None  # the audit key, as the store has it
        self._rows: Rows
        self._audit_key: AuditKey | None
        self._operations: Operations
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        if not self._perform(schema.is_current(read_only=self._read_only), "open"):
            self._perform(schema.migrate(self._statements), "migrate")
        store_id, self._sealed = self._store_id(), self._sealed_audit_key()
        self._rows = Rows(store_id, lambda: self._find_sealer(self._sealed))
        self._open_audit_key(time.time())

    @property
    def keyed(self) -> bool:
        """Whether there is a key to check the events' MACs with; always, if it may be written."""
        return self._audit_key is not None

    def _perform(
        self, operation: Operation[_T], mode: Mode = "write", client_now: float = 0.0
    ) -> _T:
        """Perform an operation; what goes wrong comes without frames that show a row."""
        if self._read_only and mode not in ("read", "open"):
            raise _only_read()
        return unseen(lambda: self._connection.perform(operation, mode, client_now))

    def _job(self, operation: Operation[_T], mode: Mode = "write", client_now: float = 0.0) -> Job:
        if self._read_only and mode not in ("read", "open"):
            raise _only_read()
        return Job(operation, mode, client_now)

    def _run(self, method: Method[_T]) -> _T:
        answer: Any = None
        while True:
            try:
                job = method.send(answer)
            except StopIteration as done:
                result: _T = done.value
                return result
            answer = self._perform(*job)

    def _overwrite_deleted(self) -> Method[None]:
        self._connection.overwrite_deleted()
        return
        yield

    def close(self) -> None:
        """Close what is open, and forget the flows that this process drives.

        The store is opened again where it is needed again.
        """
        self._remembered.forget_all()
        self._seen_grants.clear()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The protocol.

    def now(self, client_now: float) -> float:
        """Return what time it is for this store: the database's, where that has a clock."""
        if not self._dialect.has_clock:
            return client_now
        return float(self._perform(query("now", {}), "read")[0][0])

    def add(self, flow: Flow, *, store_event: StoreEvent | None = None) -> Flow:
        """Keep a new flow, or return the open one of the same name instead."""
        _check_names(flow)
        if self._read_only:
            raise _only_read()
        now = time.time() if store_event is None else store_event.client_now
        operation, event = self._operations.add(
            flow, store_event, self.now(time.time()) if flow.seq else now
        )
        kept = self._perform(operation, "write", now)
        if kept is flow:
            flow.as_stored.columns = None
            if event is not None:
                log.emit(log.TRANSITION, event)
        return kept

    def get(self, flow_id: str, *, secrets: bool = True) -> Flow:
        """Return a copy of the flow, with its secrets or without.

        Raises:
            UnknownLoginError: There is none of that id.
        """
        found = self._perform(query("get", {"id": storable(flow_id)}, secret=True), "read")
        if not found:
            raise UnknownLoginError(flow_id=flow_id)
        return self._rows.flow(found[0], secrets=secrets)

    def flows(
        self, *, skip_ended: bool = False, on_problem: Callable[[DeviceFlowError], object] = refuse
    ) -> Iterator[Flow]:
        """Yield all flows, or those that have not ended, the newest first, without secrets."""
        name, page, after = "unended" if skip_ended else "all", "first", dict[str, Any](limit=_PAGE)
        while rows := self._page(f"{name}_{page}", after):
            for row in rows:
                try:
                    flow = self._rows.flow(row, secrets=False)
                except DeviceFlowError as problem:
                    on_problem(problem)
                else:
                    yield flow
            last = rows[-1].reveal()
            after |= {"created_at": last[_CREATED_AT], "id": last[0]}
            del last
            page = "next"

    def claim(
        self,
        flow_id: str,
        owner: str,
        client_now: float,
        seconds: float,
        decide: Decide | None = None,
    ) -> Claim | LeaseHeld:
        """Take the flow's lease, or return the lease that another worker holds."""
        # The error for one that cannot be read undoes the lease: others may be able to read it.
        operation = self._operations.claim(flow_id, owner, seconds, decide)
        claimed = self._perform(operation, "write", client_now)
        if not isinstance(claimed, LeaseHeld):
            claimed.flow.as_stored.columns = None
        return claimed

    def claim_due(
        self, owner: str, client_now: float, seconds: float, decide: Decide | None = None
    ) -> Claim | None:
        """Take the lease of the flow that has been due the longest, if one is due and free."""
        operation = self._operations.claim_due(owner, seconds, decide)
        claimed = self._perform(operation, "write", client_now)
        if isinstance(claimed, DeviceFlowError):
            raise claimed
        if claimed is not None:
            claimed.flow.as_stored.columns = None
        return claimed

    def end_lease(self, flow_id: str, since: float, client_now: float) -> None:
        """End the lease that was taken then, and no other."""
        values = {"id": storable(flow_id), "since": since}
        self._perform(statement("end_lease", values), "lease", client_now)

    def leases_taken_after(self, client_now: float) -> list[tuple[str, float]]:
        """Return flows that are due and under a lease that seems to be taken after `client_now`."""
        found = self._perform(query("leases_taken_after", {}), "read", client_now)
        return [(flow_id, at) for flow_id, at in found if isinstance(at, int | float)]

    def wake_after_clock_change(self, client_now: float) -> None:
        """Wake what waits for a time that was written before the clock was set back."""
        self._perform(statement("wake_after_clock_change", {}), "lease", client_now)

    def commit(
        self,
        flow: Flow,
        event: dict[str, Any],
        *,
        release: str | None = None,
        store_event: StoreEvent | None = None,
    ) -> bool:
        """Keep the flow as it is after `event`, and that with it, unless others went on."""
        if self._read_only:
            raise _only_read()
        operation, row = self._operations.commit(flow, event, release, store_event)
        now = 0.0 if store_event is None else store_event.client_now
        kept = self._perform(operation, "write", now)
        if kept:
            flow.as_stored.columns = None
            if ACTIONS[event["action"]].wipes and self._rows.sealer.prefix == PLAIN:
                self._connection.overwrite_deleted()
        if kept and release is not None:
            self._remembered.put(flow, row)
        else:
            self._remembered.forget(flow.id)
        return kept

    def release(self, flow_id: str, owner: str) -> None:
        """Give the lease back, if `owner` still has it."""
        self._perform(statement("release", {"id": flow_id, "owner": owner}), "lease")

    def snooze(self, flow_id: str, owner: str, client_now: float) -> None:
        """Give the lease back, if `owner` has it, and have no sweep find the flow for a while."""
        values = {"id": storable(flow_id), "owner": owner}
        self._perform(statement("snooze", values), "lease", client_now)

    def reschedule(self, flow: Flow, owner: str) -> None:
        """Give the lease back, and have sweeps find the flow when it is due."""
        values = {"id": flow.id, "seq": flow.seq, "owner": owner, "wake_at": flow.wake_at}
        self._perform(statement("reschedule", values), "lease")

    def ids_with_secrets(
        self,
        kind: Literal["token", "revoke"],
        ended_before: float,
        client_now: float,
        skip: int = 0,
    ) -> list[str]:
        """Return the ids of flows that ended before then and hold such secrets, some at a time."""
        values = {"ended_before": ended_before, "limit": _PAGE, "skip": skip}
        found = self._perform(query(f"with_{kind}", values), "read", client_now)
        return [name_of(flow_id) for (flow_id,) in found]

    def delete_ended(
        self,
        ended_before: float,
        *,
        on_problem: Callable[[DeviceFlowError], object] = refuse,
    ) -> int:
        """Drop the flows that ended before then and hold no secret; return how many."""
        if self._read_only:
            raise _only_read()
        dropped = skip = 0
        values = {"ended_before": ended_before, "limit": _PAGE}
        while rows := self._page("without_secrets", values | {"skip": skip}):
            over = list[dict[str, Any]]()
            for row in rows:
                try:
                    self._rows.flow(row, secrets=False)
                except DeviceFlowError as problem:
                    on_problem(problem)
                else:
                    over.append(dict(zip(COLUMNS, row.reveal(), strict=False)))
            gone = self._perform(self._operations.delete(over))
            dropped += gone
            skip += len(rows) - gone
        return dropped

    def record_store_event(
        self, action: Action, client_now: float, detail: str, origin: Origin
    ) -> None:
        """Put on record what belongs to no flow."""
        event = StoreEvent(action, client_now, detail, origin)
        self._perform(self._operations.record_store_event(event), "write", client_now)

    # What only a database has.

    def history(self, flow_id: str) -> list[dict[str, Any]]:
        """Return the events of a flow, as they were logged, in their order.

        Each field is of its type or null, whatever somebody has put into the database.
        """
        rows = self._perform(query("history", {"id": storable(flow_id)}), "read")
        return [event_of(row) for row in rows]

    def reading(self) -> AbstractContextManager[Query]:
        """Give what yields the rows of a query by its name, however many, all of one moment."""
        return self._connection.reading()

    @contextmanager
    def snapshot(self, first: str = "", last: str | None = None) -> Iterator[Snapshot]:
        """Give the trail and the flows, as they are at one moment.

        Args:
            first: From which flow's id on.
            last: Before which one's; None for all that there are.
        """
        values = {"first": first, "last": last}
        part = "all" if (first, last) == ("", None) else "from" if last is None else "between"
        with self.reading() as rows:
            events, flows = rows(f"events_{part}", values), rows(f"flows_{part}", values)
            grants = map(GrantRows(self._rows).stored, rows(f"grants_{part}", values))
            stored = merge(map(self._rows.stored, flows), grants, key=by_id)
            yield Snapshot(events, stored, self._audit_key)

    def bounds(self, parts: int) -> list[str]:
        """Return the ids that part the flows into so many parts, or fewer, of as many events."""
        with self.reading() as rows:
            whole = next(rows("count_events"))[0]
            found = {
                flow_id
                for part in range(1, parts)
                for (flow_id,) in rows("flow_at_event", {"place": whole * part // parts})
            }
        # Ids that are not text sort last, and are in the last part.
        return sorted(flow_id for flow_id in found if isinstance(flow_id, str) and flow_id)

    def prune(self, flow_ids: Collection[str]) -> None:
        """Drop all events of these flows, and note it; a digest must say so by then."""
        self._perform(self._operations.prune(flow_ids), "write", time.time())

    def reseal(self) -> Resealed:
        """Seal with the first key what another key has sealed.

        Interrupted, it can be done again at any time. A flow that somebody is at work on is not
        waited for: its problem says when to try again.
        """
        done, problems = 0, list[DeviceFlowError]()
        values = {"prefix": f"{self._rows.sealer.prefix}%", "limit": _PAGE}

        def page(skip: int) -> list[Any]:
            return self._perform(query("with_other_keys", values | {"skip": skip}), "read")

        def grants_page(skip: int) -> list[Any]:
            return self._perform(query("grants_with_other_keys", values | {"skip": skip}), "read")

        for resealed, found in ((self._reseal, page), (self._reseal_grant, grants_page)):
            for (one,) in each(found, set()):
                try:
                    done += resealed(one)
                except DeviceFlowError as problem:
                    problems.append(problem)
        sealed = str(self._sealed_audit_key())
        if not problems and not sealed.startswith(self._rows.sealer.prefix):
            kept = keys.sealed_audit_key(keys.opened_audit_key(sealed, self._rows), self._rows)
            self._perform(keys.replace_audit_key(kept, self._audit_key), "write", time.time())
        return Resealed(done, problems)

    def _reseal(self, flow_id: object) -> bool:
        owner = f"{secrets.token_hex(6)}.{os.getpid()}"
        origin = Origin(worker=owner, pid=os.getpid())
        claim = self.claim(name_of(flow_id), owner, time.time(), _RESEALING)
        if isinstance(claim, LeaseHeld):
            raise LoginBusyError(flow_id=claim.flow.id, wait_seconds=claim.seconds)
        flow = claim.flow
        try:
            if claim.previous_owner is not None and flow.state is not State.POLLING:
                taken_over = flow.take_over(claim.now, claim.previous_owner)
                self._commit_own(flow, render(flow, taken_over, origin))
            return self._commit_own(flow, render(flow, flow.reseal(claim.now), origin))
        finally:
            self.release(flow.id, owner)

    def _reseal_grant(self, grant_id: object) -> bool:
        stored = self.load_grant_by_id(name_of(grant_id), time.time())
        if stored is None:
            return False
        if stored.held > 0:
            raise LoginBusyError(flow_id=stored.grant.id, wait_seconds=stored.held)
        origin = Origin(worker=f"{secrets.token_hex(6)}.{os.getpid()}", pid=os.getpid())
        resealed = stored.grant.reseal(stored.now)
        event = render_grant(stored.grant, resealed, origin)
        if kept := self.commit_grant(stored.grant, event):
            log.emit(log.TRANSITION, event)
        return kept

    def _commit_own(self, flow: Flow, event: dict[str, Any]) -> bool:
        """Commit what the store itself has done to a flow, and log it."""
        if kept := self.commit(flow, event):
            log.emit(log.TRANSITION, event)
        return kept

    # Its keys.

    def _store_id(self) -> str:
        """Return the store's own id, made at random when the store was."""
        found = self._perform(keys.read_meta("store_id"), "read")
        if found is None:
            found = self._perform(keys.make_store_id(secrets.token_hex(8)))
        if found is None:
            raise keys.store_id_gone()
        return found

    def _sealed_audit_key(self) -> str | None:
        """Return the audit key as it is sealed in the store; None in a store that is new."""
        return self._perform(keys.read_meta("audit_key"), "read")

    def _open_audit_key(self, client_now: float) -> None:
        """Get the audit key, and with it the proof that the sealing key is the store's own.

        Args:
            client_now: What time it is.

        Raises:
            SealError: It is another one.
            StoreError: It is gone.
        """
        if self._sealed is None:
            own = Secret(secrets.token_urlsafe(32))
            if self._read_only or not self._perform(
                keys.make_audit_key(own, self._rows), "write", client_now
            ):
                raise keys.audit_key_gone()
        if self._rows.sealer.prefix == PLAIN:
            log.emit(log.PLAINTEXT, {"store": repr(self)}, logging.WARNING)
        self._sealed = str(self._sealed_audit_key())
        self._audit_key = keys.audit_key(self._sealed, self._rows)
        self._operations = Operations(self._rows, self._audit_key, self._remembered)

    def _page(self, name: str, values: Mapping[str, Any]) -> list[Hidden[Any]]:
        return self._perform(query(name, values, secret=True), "read")


def _only_read() -> StoreError:
    return StoreError("This store was opened for reading only: nothing can be written to it.")


def _check_names(flow: Flow) -> None:
    name = flow.name
    if flow.id == STORE:
        raise UsageError("No flow can have this id.", flow_id=flow.id)
    if name is not None and (len(name) > _LONGEST_NAME or storable(name) != name):
        raise UsageError(
            f"A login's name is a text of at most {_LONGEST_NAME} characters, without the"
            " character NUL, in proper Unicode."
        )
