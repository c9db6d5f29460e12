"""Named points in the life of a process, at which it is killed or stopped."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import urllib3.util.connection

from deviceflow.cli import sink, stored, streams
from deviceflow.client import _sync as client
from deviceflow.core.ports import reraise
from deviceflow.stores.sql import schema
from deviceflow.transports import requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Literal

    from deviceflow.core.actions import Action
    from deviceflow.core.flow import Flow
    from deviceflow.core.grant import Grant
    from deviceflow.core.ports import (
        Claim,
        Clock,
        Decide,
        GrantLease,
        LeaseHeld,
        Origin,
        StoredGrant,
        StoreEvent,
        Transport,
        UpcomingFlow,
    )
    from deviceflow.core.secret import Secret
    from deviceflow.core.uses import Use
    from deviceflow.core.wire import Failure, Request, Response
    from deviceflow.errors import DeviceFlowError
    from deviceflow.stores.sql import SQLStore
    from deviceflow.stores.sql.connection import Mode, Operation, Statements

    Report = Callable[..., None]
    Trap = tuple[str, int, int]

_T = TypeVar("_T")


class Watcher(Protocol):
    """Whoever is told which point is reached."""

    def reach(self, point: str) -> None: ...


class Traps:
    """What this process is to do to itself, and where.

    Args:
        traps: Each a point, which time it is reached, and the signal that is sent then.
        any_point: The number of the point, whichever it is, at which the process is killed.
        report: Told before that, by what name.
    """

    def __init__(self, traps: Iterable[Trap], any_point: int | None, report: Report) -> None:
        self._traps = {(point, time): number for point, time, number in traps}
        self._any_point = any_point
        self._report = report
        self._reached: Counter[str] = Counter()

    def reach(self, point: str) -> None:
        """Say that the process is at this point."""
        self._reached[point] += 1
        number = self._traps.get((point, self._reached[point]))
        if self._reached.total() == self._any_point:
            number = signal.SIGKILL
        if number is not None:
            self._report(trapped=point)
            os.kill(os.getpid(), number)


def relayed(
    attempt: Statements[_T],
    before: Callable[[str, Mapping[str, Any]], object] = lambda *_: None,
    after: Callable[[str], object] = lambda _: None,
) -> Statements[_T]:
    """Pass on what an attempt at an operation yields, and tell of each statement by its name."""
    rows: Any = None
    while True:
        try:
            name, values = attempt.send(rows)
        except StopIteration as stop:
            done: _T = stop.value
            return done
        before(name, values)
        rows = yield name, values
        after(name)


class TrappedOperations:
    """The traps inside the transactions of a store.

    Args:
        traps: Told of each point.
    """

    def __init__(self, traps: Watcher) -> None:
        self._traps = traps
        self._doing = ""

    def _watched(self, operation: Operation[_T], mode: Mode) -> Operation[_T]:
        what = self._doing

        def before(name: str, values: Mapping[str, Any]) -> None:
            if name == "add_event":
                if what == "claim":
                    self._doing = f"claim: {json.loads(values['text'])['action']}"
                self._traps.reach(f"between the rows of {self._doing}")

        def watched(now: float) -> Statements[_T]:
            self._doing = what
            done = yield from relayed(operation(now), before=before)
            if mode in ("write", "durable"):
                self._traps.reach(f"inside {self._doing}")
            return done

        return watched


class TrappedStore(TrappedOperations):
    """A store with traps around all that a login does, and inside its transactions."""

    durable = True
    keeps_trail = True

    def __init__(self, store: SQLStore, traps: Watcher) -> None:
        super().__init__(traps)
        self._store = store
        self._perform = store._connection.perform
        store._connection.perform = self._watch  # type: ignore[method-assign]

    def now(self, given: float) -> float:
        return self._store.now(given)

    def add(self, flow: Flow, *, store_event: StoreEvent | None = None) -> Flow:
        return self._around("add", lambda: self._store.add(flow, store_event=store_event))

    def get(self, flow_id: str, *, secrets: bool = True) -> Flow:
        return self._store.get(flow_id, secrets=secrets)

    def flows(
        self, *, skip_ended: bool = False, on_problem: Callable[[DeviceFlowError], object] = reraise
    ) -> Iterator[Flow]:
        return self._store.flows(skip_ended=skip_ended, on_problem=on_problem)

    def claim(
        self,
        flow_id: str,
        owner: str,
        client_now: float,
        seconds: float,
        decide: Decide | None = None,
    ) -> Claim | LeaseHeld:
        return self._around(
            "claim", lambda: self._store.claim(flow_id, owner, client_now, seconds, decide)
        )

    def claim_due(
        self, owner: str, client_now: float, seconds: float, decide: Decide | None = None
    ) -> Claim | None:
        return self._around(
            "claim", lambda: self._store.claim_due(owner, client_now, seconds, decide)
        )

    def upcoming(
        self, given: float, ahead: float, grace: float | None = None
    ) -> list[UpcomingFlow]:
        return self._store.upcoming(given, ahead, grace)

    def any_pending(self) -> bool:
        return self._store.any_pending()

    def commit(
        self,
        flow: Flow,
        event: dict[str, Any],
        *,
        release: str | None = None,
        store_event: StoreEvent | None = None,
    ) -> bool:
        return self._around(
            f"commit: {event['action']}",
            lambda: self._store.commit(flow, event, release=release, store_event=store_event),
        )

    def release(self, flow_id: str, owner: str) -> None:
        self._around("release", lambda: self._store.release(flow_id, owner))

    def snooze(self, flow_id: str, owner: str, given: float) -> None:
        self._store.snooze(flow_id, owner, given)

    def reschedule(self, flow: Flow, owner: str) -> None:
        self._store.reschedule(flow, owner)

    def restart_lease(self, subject_id: str, since: float, given: float) -> None:
        self._store.restart_lease(subject_id, since, given)

    def foreign_leases(self, given: float) -> list[tuple[str, float]]:
        return self._store.foreign_leases(given)

    def wake_after_clock_change(self, given: float) -> None:
        self._store.wake_after_clock_change(given)

    def record_store_event(self, action: Action, given: float, detail: str, origin: Origin) -> None:
        self._store.record_store_event(action, given, detail, origin)

    def ids_with_secrets(
        self,
        kind: Literal["token", "revoke"],
        ended_before: float,
        given: float,
        skip: int = 0,
    ) -> list[str]:
        return self._store.ids_with_secrets(kind, ended_before, given, skip)

    def delete_ended(
        self,
        ended_before: float,
        *,
        on_problem: Callable[[DeviceFlowError], object] = reraise,
    ) -> int:
        return self._store.delete_ended(ended_before, on_problem=on_problem)

    def find(self, name: str) -> Flow | None:
        return self._store.find(name)

    def load_grant(self, name: str, given: float) -> StoredGrant | None:
        return self._store.load_grant(name, given)

    def load_grant_by_id(self, grant_id: str, given: float) -> StoredGrant | None:
        return self._store.load_grant_by_id(grant_id, given)

    def commit_grant(
        self,
        grant: Grant,
        event: dict[str, Any],
        *,
        lease: GrantLease | None = None,
        release: str | None = None,
        flow: Flow | None = None,
        flow_event: dict[str, Any] | None = None,
    ) -> bool:
        return self._around(
            f"commit: {event['action']}",
            lambda: self._store.commit_grant(
                grant, event, lease=lease, release=release, flow=flow, flow_event=flow_event
            ),
        )

    def use_grant(self, grant_id: str, client_now: float, uses: tuple[Use, ...]) -> None:
        self._store.use_grant(grant_id, client_now, uses)

    def grants(self, given: float, after: str | None = None) -> list[StoredGrant | str]:
        return self._store.grants(given, after)

    def due_grants(self, given: float, unused: float, limit: int) -> list[tuple[str, str]]:
        return self._store.due_grants(given, unused, limit)

    def load_grant_by_link(self, link: Secret, given: float) -> StoredGrant | None:
        return self._store.load_grant_by_link(link, given)

    def due_notices(self, given: float, limit: int) -> list[str]:
        return self._store.due_notices(given, limit)

    def claim_notice(self, grant_id: str, given: float, seconds: float) -> bool:
        return self._store.claim_notice(grant_id, given, seconds)

    def snooze_grant(self, name: str, given: float) -> None:
        self._store.snooze_grant(name, given)

    def ended_grants(self, ended_before: float, after: str | None = None) -> list[str]:
        return self._store.ended_grants(ended_before, after)

    def delete_grant(self, grant: Grant) -> bool:
        return self._store.delete_grant(grant)

    def close(self) -> None:
        self._store.close()

    def _around(self, what: str, work: Callable[[], _T]) -> _T:
        self._traps.reach(f"before {what}")
        self._doing = what
        done = work()
        self._traps.reach(f"after {self._doing}")
        self._doing = ""
        return done

    def _watch(self, operation: Operation[_T], mode: Mode, client_now: float) -> _T:
        return self._perform(self._watched(operation, mode), mode, client_now)


class TrappedTransport:
    """A transport with traps before each request and behind each answer."""

    def __init__(self, sender: Transport, traps: Watcher) -> None:
        self._transport = sender
        self._traps = traps

    def send(self, request: Request, timeout: float) -> Response | Failure:
        self._traps.reach(f"before request: {request.purpose}")
        result = self._transport.send(request, timeout)
        self._traps.reach(f"after answer: {request.purpose}")
        return result

    def close(self) -> None:
        self._transport.close()


def set_in_code(traps: Traps) -> None:
    """Set the traps that are in the middle of the library's own work, in this process."""
    migrate: Any = schema.migrate
    connect: Any = urllib3.util.connection.create_connection
    readinto: Any = requests._LimitedReader.readinto

    def watched_migrate(statements: Any, begin: Any) -> Operation[None]:
        def after(name: str) -> None:
            if name.startswith("migration"):
                traps.reach("inside migration")

        return lambda now: relayed(migrate(statements, begin)(now), after=after)

    def watched_connect(*args: Any, **kwargs: Any) -> Any:
        traps.reach("before connecting")
        return connect(*args, **kwargs)

    def watched_readinto(reader: Any, buffer: Any) -> Any:
        traps.reach("before reading")
        return readinto(reader, buffer)

    schema.migrate = watched_migrate
    urllib3.util.connection.create_connection = watched_connect
    requests._LimitedReader.readinto = watched_readinto  # type: ignore[assignment,method-assign]


def set_in_command(traps: Traps, clock: Clock) -> None:
    """Set the traps around what the command does, in this process; and have it go by the clock."""
    in_stored: Any = stored
    in_client: Any = client
    in_file: Any = sink.TokenFile
    in_os: Any = os
    in_streams: Any = streams
    open_store, transport_of = in_stored.open_store, in_client.DeferredTransport
    put, replace, show = in_file.put, in_os.replace, in_streams.show

    def watched(what: str, work: Callable[..., _T]) -> Callable[..., _T]:
        def do(*args: Any, **how: Any) -> _T:
            traps.reach(f"before {what}")
            done = work(*args, **how)
            traps.reach(f"after {what}")
            return done

        return do

    def watched_replace(*args: Any) -> None:
        traps.reach("inside the sink")
        replace(*args)

    in_stored.open_store = lambda *args, **how: TrappedStore(open_store(*args, **how), traps)
    in_client.default_clock = lambda: clock
    in_client.DeferredTransport = lambda: TrappedTransport(transport_of(), traps)
    in_file.put = watched("the sink", put)
    in_os.replace = watched_replace
    in_streams.show = watched("stdout", show)
