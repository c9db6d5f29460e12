"""A store in a SQL database, for threads: the same methods, run to their end without a loop."""

from __future__ import annotations

import os
import secrets
import time
from contextlib import contextmanager
from functools import partial, update_wrapper
from heapq import merge
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Concatenate, Final, NamedTuple, ParamSpec, Self, TypeVar

from deviceflow._blocking import complete
from deviceflow._boot import clock_name
from deviceflow.audit import log
from deviceflow.audit.events import STORE, render, render_grant
from deviceflow.core.grant import Grant
from deviceflow.core.ports import LeaseHeld, Moment, Origin, each
from deviceflow.core.states import State
from deviceflow.errors import DeviceFlowError, LoginBusyError
from deviceflow.stores.sql.rows import GRANTS, TABLES, by_id
from deviceflow.stores.sql.store import SQLMethods

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
    from contextlib import AbstractContextManager

    from deviceflow.audit.chain import AuditKey
    from deviceflow.core.flow import Flow
    from deviceflow.core.ports import StoredFlow
    from deviceflow.stores.sql.connection import BlockingConnection, Query
    from deviceflow.stores.sql.rows import Table

_P = ParamSpec("_P")
_T = TypeVar("_T")

_NONE: Final[Mapping[str, int]] = MappingProxyType({})
_RESEALING: Final = 10.0


class Snapshot(NamedTuple):
    """What a store holds at one moment, in the order of the flows' ids, byte by byte.

    Attributes:
        events: All events of all flows and grants, those of each by their numbers, as tuples in the
            order of `deviceflow.audit.chain.STORED`.
        flows: The row of each flow and of each grant.
        key: What authenticates the events; None where the store is only read, and has none.
        store_events: The store's own events.
    """

    events: Iterator[tuple[Any, ...]]
    flows: Iterator[StoredFlow]
    key: AuditKey | None
    store_events: Iterator[tuple[Any, ...]]


class Resealed(NamedTuple):
    """What sealing with the first key came to.

    Attributes:
        flows: How many flows were sealed with it.
        problems: What kept others from that.
    """

    flows: int
    problems: list[DeviceFlowError]


def _blocking(
    method: Callable[Concatenate[SQLMethods, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[SQLStore, _P], _T]:
    """Return a method that runs one of `SQLMethods` to its end."""

    def call(self: SQLStore, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return complete(method(self.inner, *args, **kwargs))

    update_wrapper(call, method)
    return call


class SQLStore:
    """Keeps logins and grants in a SQL database; `SQLiteStore` and `PostgresStore` say in which.

    Args:
        connection: A connection that never suspends.
        inner: The store's methods, over that connection.

    Attributes:
        durable: True: logins outlive the process.
        keeps_trail: True: each login's events are kept beside it.
        holds: Whether waiting logins are held.
        inner: The store's methods.
    """

    durable = True
    keeps_trail = True

    def __init__(self, connection: BlockingConnection, inner: SQLMethods) -> None:
        self.holds = inner.holds
        self._connection = connection
        self.inner = inner
        try:
            complete(self.inner.open(connection))
        except BaseException:
            self.close()
            raise

    @property
    def keyed(self) -> bool:
        """Whether there is a key to check the events' MACs with; always, if it may be written."""
        return self.inner.audit_key is not None

    def close(self) -> None:
        """Close what is open. The store is opened again where it is needed again."""
        complete(self._connection.close())

    def __repr__(self) -> str:
        # A renderer of tracebacks shows a store that could not be made, too.
        return repr(self.inner) if hasattr(self, "inner") else object.__repr__(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The protocol; see `Store`.

    now = _blocking(SQLMethods.now)
    add = _blocking(SQLMethods.add)
    load = _blocking(SQLMethods.load)
    page = _blocking(SQLMethods.page)
    claim = _blocking(SQLMethods.claim)
    restart_lease = _blocking(SQLMethods.restart_lease)
    wake_after_clock_change = _blocking(SQLMethods.wake_after_clock_change)
    commit = _blocking(SQLMethods.commit)
    release = _blocking(SQLMethods.release)
    put_off = _blocking(SQLMethods.put_off)
    claim_notice = _blocking(SQLMethods.claim_notice)
    use = _blocking(SQLMethods.use)
    select = _blocking(SQLMethods.select)
    delete = _blocking(SQLMethods.delete)
    append = _blocking(SQLMethods.append)
    events = _blocking(SQLMethods.events)
    drive = _blocking(SQLMethods.drive)
    stop_driving = _blocking(SQLMethods.stop_driving)
    leave_out = _blocking(SQLMethods.leave_out)

    # What only a database has.

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
        with self.reading() as query:
            stored = [
                map(
                    partial(self.inner.stored_row, table),
                    query(f"{table.name}.rows_{part}", values),
                )
                for table in TABLES.values()
            ]
            yield Snapshot(
                query(f"events_{part}", values),
                merge(*stored, key=by_id),
                self.inner.audit_key,
                query("history", {"id": STORE}),
            )

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
        complete(self.inner.prune(ended, waiting))

    def reseal(self) -> Resealed:
        """Seal with the first key what another key has sealed.

        Interrupted, it can be done again at any time. A record that somebody is at work on is not
        waited for: its problem says when to try again.
        """
        done, problems = 0, list[DeviceFlowError]()
        for table in TABLES.values():
            resealed = self._reseal_grant if table is GRANTS else self._reseal

            def page(skip: int, table: Table[Any] = table) -> list[str]:
                return complete(self.inner.with_other_keys(table, skip))

            for record_id in each(page, set()):
                try:
                    done += resealed(record_id)
                except DeviceFlowError as problem:
                    problems.append(problem)
        if not problems:
            complete(self.inner.reseal_audit_key())
        return Resealed(done, problems)

    def _reseal(self, flow_id: str) -> bool:
        owner = f"{secrets.token_hex(6)}.{os.getpid()}"
        origin = Origin(worker=owner, pid=os.getpid())
        claim = self.claim(flow_id, owner, _now(), _RESEALING)
        if isinstance(claim, LeaseHeld):
            raise LoginBusyError(flow_id=claim.flow.id, wait_seconds=claim.seconds)
        flow = claim.flow
        try:
            if claim.previous_owner is not None and flow.state is not State.POLLING:
                taken_over = flow.take_over(claim.now, claim.previous_owner)
                self._logged(flow, render(flow, taken_over, origin))
            return self._logged(flow, render(flow, flow.reseal(claim.now), origin))
        finally:
            self.release(flow.id, owner)

    def _reseal_grant(self, grant_id: str) -> bool:
        stored = self.load(Grant, grant_id, _now())
        if stored is None:
            return False
        grant = stored.record
        if stored.held > 0:
            raise LoginBusyError(flow_id=grant.id, wait_seconds=stored.held)
        origin = Origin(worker=f"{secrets.token_hex(6)}.{os.getpid()}", pid=os.getpid())
        event = render_grant(grant, grant.reseal(stored.now), origin)
        return self._logged(grant, event)

    def _logged(self, record: Flow | Grant, event: dict[str, Any]) -> bool:
        """Commit what the store itself has done to a record, and log it."""
        if kept := self.commit(record, event):
            log.emit(log.TRANSITION, event)
        return kept


def _now() -> Moment:
    return Moment(time.time(), time.monotonic(), clock_name())
