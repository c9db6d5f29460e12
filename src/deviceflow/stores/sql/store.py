"""The sync face of a store in a SQL database; see `methods` for what its methods do."""

from __future__ import annotations

import os
import secrets
import time
from contextlib import contextmanager
from heapq import merge
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self, TypeVar

from deviceflow._boot import clock_name
from deviceflow.audit import log
from deviceflow.audit.events import render, render_grant
from deviceflow.core.ports import LeaseHeld, Moment, Origin, each, reraise
from deviceflow.core.secret import without_traceback
from deviceflow.core.states import State
from deviceflow.errors import DeviceFlowError, LoginBusyError
from deviceflow.stores.sql import keys
from deviceflow.stores.sql.grant_face import GrantFace
from deviceflow.stores.sql.grant_rows import GrantRows
from deviceflow.stores.sql.grants import by_id
from deviceflow.stores.sql.methods import FIRST_PAGE, PAGE, SQLMethods, run
from deviceflow.stores.sql.operations import query
from deviceflow.stores.sql.rows import name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from contextlib import AbstractContextManager

    from deviceflow.audit.chain import AuditKey
    from deviceflow.audit.mode import TrailMode
    from deviceflow.core.actions import Action
    from deviceflow.core.encryption import Keyless, Plain, Sealer
    from deviceflow.core.flow import Flow
    from deviceflow.core.ports import Claim, Decide, StoredFlow, StoreEvent, UpcomingFlow
    from deviceflow.stores.sql.connection import Connection, Mode, Operation, Query
    from deviceflow.stores.sql.methods import Method
    from deviceflow.stores.sql.statements import Dialect, Statements

_T = TypeVar("_T")

_NONE: Final[Mapping[str, int]] = MappingProxyType({})
_RESEALING: Final = 10.0


def _now() -> Moment:
    return Moment(time.time(), time.monotonic(), clock_name())


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


class SQLStore(SQLMethods, GrantFace):
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
        trail: Whether its trail stores each event: see `deviceflow.audit.mode`.

    Attributes:
        durable: True: flows outlive the process.
        keeps_trail: True: each flow's events are kept beside it.
    """

    def __init__(
        self,
        connection: Connection,
        dialect: Dialect,
        statements: Statements,
        find_sealer: Callable[[str | None], Sealer | Plain | Keyless],
        *,
        read_only: bool,
        trail: TrailMode | None = None,
    ) -> None:
        super().__init__(dialect, statements, find_sealer, read_only=read_only, trail=trail)
        self._connection = connection
        try:
            self._run(self._open())
        except BaseException:
            self.close()
            raise

    @property
    def keyed(self) -> bool:
        """Whether there is a key to check the events' MACs with; always, if it may be written."""
        return self._audit_key is not None

    def _run(self, method: Method[_T]) -> _T:
        """Perform a method's jobs, and return its result."""
        return run(method, self._connection.perform)

    def _perform(
        self, operation: Operation[_T], mode: Mode = "write", client_now: float = 0.0
    ) -> _T:
        """Perform an operation; what goes wrong comes without frames that show a row."""
        self._job(operation, mode)
        return without_traceback(lambda: self._connection.perform(operation, mode, client_now))

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
        return self._run(self._now(client_now))

    def add(self, flow: Flow, *, store_event: StoreEvent | None = None) -> Flow:
        """Keep a new flow, or return the open one of the same name instead."""
        return self._run(self._add(flow, store_event))

    def get(self, flow_id: str, *, secrets: bool = True) -> Flow:
        """Return a copy of the flow, with its secrets or without.

        Raises:
            UnknownLoginError: There is none of that id.
        """
        return self._run(self._get(flow_id, secrets=secrets))

    def flows(
        self, *, skip_ended: bool = False, on_problem: Callable[[DeviceFlowError], object] = reraise
    ) -> Iterator[Flow]:
        """Yield all flows, or those that have not ended, the newest first, without secrets."""
        after: dict[str, Any] | None = FIRST_PAGE
        while after is not None:
            rows, after = self._run(self._flow_rows(after, skip_ended=skip_ended))
            yield from self._readable(rows, on_problem)

    def claim(
        self,
        flow_id: str,
        owner: str,
        client_now: float,
        seconds: float,
        decide: Decide | None = None,
    ) -> Claim | LeaseHeld:
        """Take the flow's lease, or return the lease that another worker holds."""
        return self._run(self._claim(flow_id, owner, client_now, seconds, decide))

    def claim_due(
        self, owner: str, client_now: float, seconds: float, decide: Decide | None = None
    ) -> Claim | None:
        """Take the lease of the flow that has been due the longest, if one is due and free."""
        return self._run(self._claim_due(owner, client_now, seconds, decide))

    def upcoming(
        self, client_now: float, ahead: float, grace: float | None = None
    ) -> list[UpcomingFlow]:
        """Return flows that nobody seems to drive and nobody has leased, the longest due first."""
        return self._run(self._upcoming(client_now, ahead, grace))

    def any_pending(self) -> bool:
        """Tell whether a flow waits for an approval. Flows that are snoozed do not count."""
        return self._run(self._any_pending())

    def restart_lease(self, subject_id: str, since: float, client_now: float) -> None:
        """Have the lease that was taken then last its whole duration from now."""
        self._run(self._restart_lease(subject_id, since, client_now))

    def foreign_leases(self, client_now: float) -> list[tuple[str, float]]:
        """Return due flows with a lease that has to be restarted, each with its `since`."""
        return self._run(self._foreign_leases(client_now))

    def wake_after_clock_change(self, client_now: float) -> None:
        """Wake what waits for a time that was written before the clock was set back."""
        self._run(self._wake_after_clock_change(client_now))

    def commit(
        self,
        flow: Flow,
        event: dict[str, Any],
        *,
        release: str | None = None,
        store_event: StoreEvent | None = None,
    ) -> bool:
        """Keep the flow as it is after `event`, and that with it, unless others went on."""
        return self._run(self._commit(flow, event, release, store_event))

    def release(self, flow_id: str, owner: str) -> None:
        """Give the lease back, if `owner` still has it."""
        self._run(self._release(flow_id, owner))

    def snooze(self, flow_id: str, owner: str, client_now: float) -> None:
        """Give the lease back, if `owner` has it, and have no sweep find the flow for a while."""
        self._run(self._snooze(flow_id, owner, client_now))

    def reschedule(self, flow: Flow, owner: str) -> None:
        """Give the lease back, and have sweeps find the flow when it is due."""
        self._run(self._reschedule(flow, owner))

    def ids_with_secrets(
        self,
        kind: Literal["token", "revoke"],
        ended_before: float,
        client_now: float,
        skip: int = 0,
    ) -> list[str]:
        """Return the ids of flows that ended before then and hold such secrets, some at a time."""
        return self._run(self._ids_with_secrets(kind, ended_before, client_now, skip))

    def delete_ended(
        self,
        ended_before: float,
        *,
        on_problem: Callable[[DeviceFlowError], object] = reraise,
    ) -> int:
        """Drop the flows that ended before then and hold no secret; return how many."""
        return self._run(self._delete_ended(ended_before, on_problem))

    def record_store_event(
        self, action: Action, client_now: float, detail: str, origin: Origin
    ) -> None:
        """Put on record what belongs to no flow."""
        self._run(self._record_store_event(action, client_now, detail, origin))

    # What only a database has.

    def history(self, flow_id: str) -> list[dict[str, Any]]:
        """Return the events of a flow, as they were logged, in their order.

        Each field is of its type or null, whatever somebody has put into the database.
        """
        return self._run(self._history(flow_id))

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

    def prune(self, ended: Collection[str], waiting: Mapping[str, int] = _NONE) -> None:
        """Drop events of flows, and put that on record. A digest must name them by then.

        Args:
            ended: The flows whose events are all dropped.
            waiting: The flows that keep their events from a number on.
        """
        self._perform(self._operations.prune(ended, waiting), "write", time.time())

    def reseal(self) -> Resealed:
        """Seal with the first key what another key has sealed.

        Interrupted, it can be done again at any time. A flow that somebody is at work on is not
        waited for: its problem says when to try again.
        """
        done, problems = 0, list[DeviceFlowError]()
        values = {"prefix": f"{self._rows.sealer.prefix}%", "limit": PAGE}

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
        sealed = str(self._run(self._sealed_audit_key()))
        if not problems and not sealed.startswith(self._rows.sealer.prefix):
            kept = keys.sealed_audit_key(keys.opened_audit_key(sealed, self._rows), self._rows)
            self._perform(keys.replace_audit_key(kept, self._audit_key), "write", time.time())
        return Resealed(done, problems)

    def _reseal(self, flow_id: object) -> bool:
        owner = f"{secrets.token_hex(6)}.{os.getpid()}"
        origin = Origin(worker=owner, pid=os.getpid())
        claim = self.claim(name_of(flow_id), owner, _now(), _RESEALING)
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
        stored = self.load_grant_by_id(name_of(grant_id), _now())
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
