"""The methods of a store in a SQL database, for its sync and its async face.

A method is a generator. It yields a `Job` after another, is sent the result of each, and returns
the method's own result. So what a store checks before an operation, and remembers, logs or
overwrites after the operation's transaction was committed, is written once. A face performs the
jobs, and knows nothing of what they mean.

Two tables matter. A row of `flows` is a flow as it stands (see `rows`). `audit` has a row for each
of its transitions, written in the transaction that makes it true. The number of its last transition
is the flow's version. A move names the version at which the flow was read. If the flow has another
version by then, nothing happens.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar

from deviceflow.audit import log
from deviceflow.audit.events import STORE
from deviceflow.audit.mode import is_summarized
from deviceflow.audit.reading import event_of
from deviceflow.core.actions import ACTIONS
from deviceflow.core.encryption import PLAIN, Keyless
from deviceflow.core.ports import LeaseHeld, StoreEvent, UpcomingFlow
from deviceflow.core.sanitize import storable
from deviceflow.core.secret import Secret, without_frames
from deviceflow.core.states import State
from deviceflow.errors import DeviceFlowError, StoreError, UnknownLoginError, UsageError
from deviceflow.stores.sql import keys, schema
from deviceflow.stores.sql.grants import GrantOperations, SeenGrants
from deviceflow.stores.sql.operations import Operations, query, statement
from deviceflow.stores.sql.remembered import RememberedFlows
from deviceflow.stores.sql.rows import COLUMNS, Rows, name_of, server_of
from deviceflow.stores.sql.statements import MIGRATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from deviceflow.audit.chain import AuditKey
    from deviceflow.audit.mode import TrailMode
    from deviceflow.core.actions import Action
    from deviceflow.core.encryption import Plain, Sealer
    from deviceflow.core.flow import Flow
    from deviceflow.core.ports import Claim, Decide, Origin
    from deviceflow.core.secret import Hidden
    from deviceflow.stores.sql.connection import Mode, Operation
    from deviceflow.stores.sql.connection import Statements as Attempt
    from deviceflow.stores.sql.statements import Dialect, Statements

_T = TypeVar("_T")

PAGE: Final = 200
"""How many rows a query returns at a time."""

FIRST_PAGE: Final[dict[str, Any]] = {"limit": PAGE}
"""Where a list of flows begins."""

_CREATED_AT: Final = COLUMNS.index("created_at")
_NEVER: Final = 1e12
_UPCOMING: Final = 10_000
_LONGEST_NAME: Final = 500  # an index of PostgreSQL's takes 2,700 bytes


class Job(NamedTuple):
    """An operation that a method wants performed.

    Attributes:
        operation: The operation.
        mode: How it is performed.
        client_now: The client's time.
        flow_id: The only flow that the operation reads or writes; None if there may be others, or
            the store's own chain.
    """

    operation: Operation[Any]
    mode: Mode = "write"
    client_now: float = 0.0
    flow_id: str | None = None


Method = Generator[Job, Any, _T]
"""A method that returns a `_T`."""


def run(method: Method[_T], perform: Callable[[Operation[Any], Mode, float], Any]) -> _T:
    """Perform a method's jobs, and return its result. Errors come without frames that show a row.

    Args:
        method: The method.
        perform: Performs an operation, as `Connection.perform`.
    """
    answer = None
    while True:
        try:
            operation, mode, client_now, _ = method.send(answer)
        except StopIteration as done:
            result: _T = done.value
            return result
        try:
            answer = perform(operation, mode, client_now)
        except BaseException as stop:  # noqa: BLE001  # raised again without its frames
            raise without_frames(stop) from None


class SQLMethods:
    """What the faces of a SQL store have in common: its state, and its methods as generators.

    Args:
        dialect: How the database says it.
        statements: The statements, in that dialect.
        find_sealer: Finds what seals the store's secrets; it is given the store's audit key as it
            is sealed, or None for a store that is new.
        read_only: Whether nothing may be written to it, not even the schema.
        trail: Whether its trail stores each event: see `deviceflow.audit.mode`.

    Attributes:
        durable: True: flows outlive the process.
        keeps_trail: True: each flow's events are kept beside it.
    """

    durable = True
    keeps_trail = True

    def __init__(
        self,
        dialect: Dialect,
        statements: Statements,
        find_sealer: Callable[[str | None], Sealer | Plain | Keyless],
        *,
        read_only: bool,
        trail: TrailMode | None = None,
    ) -> None:
        self._dialect = dialect
        self._statements = statements
        self._find_sealer = find_sealer
        self._read_only = read_only
        self._summarize = is_summarized(trail)
        self._remembered = RememberedFlows()
        self._seen_grants = SeenGrants()
        self._sealed: str | None = None  # the audit key, as the store has it
        self._rows: Rows
        self._audit_key: AuditKey | None
        self._operations: Operations
        self._of_grants: GrantOperations

    def _job(
        self,
        operation: Operation[Any],
        mode: Mode = "write",
        client_now: float = 0.0,
        flow_id: str | None = None,
    ) -> Job:
        """Return a job, if it may be done."""
        if self._read_only and mode not in ("read", "open"):
            raise _only_read()
        return Job(operation, mode, client_now, flow_id)

    # The protocol; see `Store`.

    def _now(self, client_now: float) -> Method[float]:
        if not self._dialect.has_clock:
            return client_now
        return float((yield self._job(query("now", {}), "read"))[0][0])

    def _add(self, flow: Flow, store_event: StoreEvent | None) -> Method[Flow]:
        _check_names(flow)
        if self._read_only:
            raise _only_read()
        now = time.time() if store_event is None else store_event.client_now
        imported_at = (yield from self._now(time.time())) if flow.seq else now
        operation, event = self._operations.add(flow, store_event, imported_at)
        if flow.wake_at is not None:
            operation = self._announced(operation)
        kept: Flow = yield self._job(operation, "write", now)
        if kept is flow:
            flow.as_stored.columns = None
            self._changed()
            if event is not None:
                log.emit(log.TRANSITION, event)
        return kept

    def _get(self, flow_id: str, *, secrets: bool) -> Method[Flow]:
        operation = query("get", {"id": storable(flow_id)}, secret=True)
        found = yield self._job(operation, "read", 0.0, flow_id)
        if not found:
            raise UnknownLoginError(flow_id=flow_id)
        return self._rows.flow(found[0], secrets=secrets)

    def _flow_rows(
        self, after: dict[str, Any], *, skip_ended: bool
    ) -> Method[tuple[list[Hidden[Any]], dict[str, Any] | None]]:
        """Return a page of rows, and after what the next page begins; None if there is none."""
        page = "next" if "id" in after else "first"
        rows = yield from self._page(f"{'unended' if skip_ended else 'all'}_{page}", after)
        if not rows:
            return rows, None
        last = rows[-1].reveal()
        return rows, FIRST_PAGE | {"created_at": last[_CREATED_AT], "id": last[0]}

    def _readable(
        self, rows: Iterable[Hidden[Any]], on_problem: Callable[[DeviceFlowError], object]
    ) -> Iterator[Flow]:
        """Yield the flows of rows without their secrets; tell of those that cannot be read."""
        for row in rows:
            try:
                flow = self._rows.flow(row, secrets=False)
            except DeviceFlowError as problem:
                on_problem(problem)
            else:
                yield flow

    def _claim(
        self, flow_id: str, owner: str, client_now: float, seconds: float, decide: Decide | None
    ) -> Method[Claim | LeaseHeld]:
        # The error for one that cannot be read undoes the lease: others may be able to read it.
        operation = self._operations.claim(flow_id, owner, seconds, decide)
        claimed: Claim | LeaseHeld = yield self._job(operation, "write", client_now, flow_id)
        if not isinstance(claimed, LeaseHeld):
            claimed.flow.as_stored.columns = None
        return claimed

    def _claim_due(
        self, owner: str, client_now: float, seconds: float, decide: Decide | None
    ) -> Method[Claim | None]:
        operation = self._operations.claim_due(owner, seconds, decide)
        claimed: Claim | DeviceFlowError | None = yield self._job(operation, "write", client_now)
        if isinstance(claimed, DeviceFlowError):
            raise claimed
        if claimed is not None:
            claimed.flow.as_stored.columns = None
        return claimed

    def _upcoming(
        self, client_now: float, ahead: float, grace: float | None
    ) -> Method[list[UpcomingFlow]]:
        grace = _NEVER if grace is None else grace
        values = {"ahead": ahead, "grace": grace, "limit": _UPCOMING, "owner": None}
        found = yield self._job(query("upcoming", values), "read", client_now)
        return [
            UpcomingFlow(flow_id, seq, float(wake_at), now, server_of(provider))
            for flow_id, seq, wake_at, now, provider in found
            if isinstance(flow_id, str)
            and isinstance(seq, int)
            and isinstance(wake_at, int | float)
        ]

    def _any_pending(self) -> Method[bool]:
        return bool((yield self._job(query("any_pending", {}), "read")))

    def _restart_lease(self, subject_id: str, since: float, client_now: float) -> Method[None]:
        operation = self._operations.restart_lease(storable(subject_id), since)
        yield self._job(operation, "write", client_now, subject_id)

    def _foreign_leases(self, client_now: float) -> Method[list[tuple[str, float]]]:
        found = yield self._job(query("foreign_leases", {}), "read", client_now)
        return [(flow_id, at) for flow_id, at in found if isinstance(at, int | float)]

    def _wake_after_clock_change(self, client_now: float) -> Method[None]:
        yield self._job(statement("wake_after_clock_change", {}), "lease", client_now)

    def _commit(
        self,
        flow: Flow,
        event: dict[str, Any],
        release: str | None = None,
        store_event: StoreEvent | None = None,
    ) -> Method[bool]:
        if self._read_only:
            raise _only_read()
        operation, row = self._operations.commit(flow, event, release, store_event)
        makes_due = flow.wake_at is not None and (flow.state.ended or event["from"] == State.INIT)
        if makes_due:
            operation = self._announced(operation)
        if store_event is None:
            kept: bool = yield self._job(operation, "write", 0.0, flow.id)
        else:
            kept = yield self._job(operation, "write", store_event.client_now)
        if kept:
            flow.as_stored.columns = None
            if makes_due:
                self._changed()
            if ACTIONS[event["action"]].wipes and self._rows.sealer.prefix == PLAIN:
                yield from self._overwrite_deleted()
        if kept and release is not None:
            self._remembered.put(flow, row)
        else:
            self._remembered.forget(flow.id)
        return kept

    def _announced(self, operation: Operation[_T]) -> Operation[_T]:
        """Tell others, in the operation's transaction, that a flow may be due that was not."""
        if not self._dialect.notifies:
            return operation

        def attempt(now: float) -> Attempt[_T]:
            result = yield from operation(now)
            if result:
                yield "notify", {"payload": ""}
            return result

        return attempt

    def _changed(self) -> None:
        """Do what is to be done in this process where a flow may be due that was not."""

    def _overwrite_deleted(self) -> Method[None]:
        """Overwrite what was deleted in what the database keeps besides, if that can be done."""
        if self._dialect.overwrite_deleted:
            yield self._job(statement(self._dialect.overwrite_deleted, {}), "read")

    def _release(self, flow_id: str, owner: str) -> Method[None]:
        values = {"id": flow_id, "owner": owner}
        yield self._job(statement("release", values), "lease", 0.0, flow_id)

    def _snooze(self, flow_id: str, owner: str, client_now: float) -> Method[None]:
        # An id that is not text may not be found: then it is the owner's leases that are released.
        values = {"id": storable(flow_id), "owner": owner}
        yield self._job(statement("snooze", values), "lease", client_now)

    def _reschedule(self, flow: Flow, owner: str) -> Method[None]:
        values = {"id": flow.id, "seq": flow.seq, "owner": owner, "wake_at": flow.wake_at}
        yield self._job(statement("reschedule", values), "lease", 0.0, flow.id)

    def _ids_with_secrets(
        self, kind: Literal["token", "revoke"], ended_before: float, client_now: float, skip: int
    ) -> Method[list[str]]:
        values = {"ended_before": ended_before, "limit": PAGE, "skip": skip}
        found = yield self._job(query(f"with_{kind}", values), "read", client_now)
        return [name_of(flow_id) for (flow_id,) in found]

    def _delete_ended(
        self, ended_before: float, on_problem: Callable[[DeviceFlowError], object]
    ) -> Method[int]:
        if self._read_only:
            raise _only_read()
        dropped = skip = 0
        values = {"ended_before": ended_before, "limit": PAGE}
        while rows := (yield from self._page("without_secrets", values | {"skip": skip})):
            over = list[dict[str, Any]]()
            for row in rows:
                try:
                    self._rows.flow(row, secrets=False)
                except DeviceFlowError as problem:
                    on_problem(problem)
                else:
                    over.append(dict(zip(COLUMNS, row.reveal(), strict=False)))
            gone: int = yield self._job(self._operations.delete(over))
            dropped += gone
            skip += len(rows) - gone
        return dropped

    def _record_store_event(
        self, action: Action, client_now: float, detail: str, origin: Origin
    ) -> Method[None]:
        event = StoreEvent(action, client_now, detail, origin)
        yield self._job(self._operations.record_store_event(event), "write", client_now)

    def _history(self, flow_id: str) -> Method[list[dict[str, Any]]]:
        values = {"id": storable(flow_id)}
        rows = yield self._job(query("history", values), "read", 0.0, flow_id)
        return [event_of(row) for row in rows]

    def _page(self, name: str, values: Mapping[str, Any]) -> Method[list[Hidden[Any]]]:
        found: list[Hidden[Any]] = yield self._job(query(name, values, secret=True), "read")
        return found

    # Opening.

    def _open(self) -> Method[None]:
        """Bring the schema up to date, and get the store's keys.

        Raises:
            SealError: The sealing key is not the one of this store.
            StoreError: The store cannot be used, or its audit key is gone.
        """
        found = schema.version(self._dialect, read_only=self._read_only)
        version: int = yield self._job(found, "open")
        if version < len(MIGRATIONS):
            begin = None
            if not version:  # what may be missing is looked for before anything is made
                rows = Rows(secrets.token_hex(8), lambda: self._find_sealer(None))
                begin = keys.new_store(Secret(secrets.token_urlsafe(32)), rows)
            yield self._job(schema.migrate(self._statements, begin), "migrate", time.time())
        store_id: str | None = yield self._job(keys.read_meta("store_id"), "read")
        if store_id is None:
            raise keys.store_id_gone()
        self._sealed = yield from self._sealed_audit_key()
        if self._sealed is None:
            raise keys.audit_key_gone()
        self._rows = Rows(store_id, lambda: self._find_sealer(self._sealed))
        if self._rows.sealer.prefix == PLAIN:
            log.emit(log.PLAINTEXT, {"store": repr(self)}, logging.WARNING)
        self._use_audit_key(self._sealed)

    def _use_audit_key(self, sealed: str) -> None:
        """Get the audit key, and with it the proof that the sealing key is the store's own."""
        self._audit_key = keys.audit_key(sealed, self._rows)
        self._operations = Operations(
            self._rows, self._audit_key, self._remembered, summarize=self._summarize
        )
        self._of_grants = GrantOperations(
            self._rows, self._audit_key, self._operations, self._seen_grants
        )

    def _sealed_audit_key(self) -> Method[str | None]:
        """Return the audit key as it is sealed in the store; None in a store that is new."""
        found: str | None = yield self._job(keys.read_meta("audit_key"), "read")
        return found


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
