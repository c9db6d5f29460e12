"""Named points in the life of a process, at which it is killed or stopped."""

from __future__ import annotations

import os
import signal
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import urllib3.util.connection

from deviceflow.cli import sink, stored, streams
from deviceflow.client import _sync as client
from deviceflow.stores.sql import schema
from deviceflow.stores.sql.connection import NO_VALUES
from deviceflow.transports import requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from deviceflow.core.ports import Claim, Clock, Decide, Transport
    from deviceflow.core.wire import Failure, Request, Response
    from deviceflow.stores.sql import SQLStore
    from deviceflow.stores.sql.connection import Mode, Result, Transaction, Work
    from deviceflow.stores.sql.store import AsyncSQLStore

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
    work: Work[_T],
    before: Callable[[str, Mapping[str, Any]], object] = lambda *_: None,
    after: Callable[[str], object] = lambda _: None,
) -> Work[_T]:
    """Return the work, and tell of each statement that it runs, by its name."""

    async def watched(db: Transaction) -> _T:
        run = db.run

        async def watched_run(name: str, values: Mapping[str, Any] = NO_VALUES) -> Result:
            before(name, values)
            result = await run(name, values)
            after(name)
            return result

        db.run = watched_run  # type: ignore[method-assign]
        return await work(db)

    return watched


class TrappedTransactions:
    """A store with traps inside its transactions.

    Args:
        store: The store.
        traps: Told of each point.
    """

    def __init__(self, store: SQLStore | AsyncSQLStore, traps: Watcher) -> None:
        self._store: Any = store
        self._traps = traps
        self._doing = ""
        connection: Any = store._connection
        self._run = connection.run
        connection.run = self._watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def _watch(self, work: Work[_T], mode: Mode, client_now: float) -> _T:
        what = self._doing

        def before(name: str, values: Mapping[str, Any]) -> None:
            if name == "add_event":
                self._traps.reach(f"between the rows of {self._doing}")

        async def watched(db: Transaction) -> _T:
            self._doing = what
            done = await relayed(work, before=before)(db)
            if mode in ("lease", "write", "durable"):
                self._traps.reach(f"inside {self._doing}")
            return done

        done: _T = await self._run(watched, mode, client_now)
        return done

    def _named(self, decide: Decide | None) -> Decide | None:
        """Return what decides within a claim, and names what is done by that."""
        if decide is None:
            return None

        def named(claim: Claim) -> dict[str, Any] | None:
            event = decide(claim)
            if event is not None:
                self._doing = f"claim: {event['action']}"
            return event

        return named


class TrappedStore(TrappedTransactions):
    """A store with traps around all that a login does, and inside its transactions."""

    def add(self, *args: Any, **how: Any) -> Any:
        return self._around("add", lambda: self._store.add(*args, **how))

    def claim(
        self,
        flow_id: str,
        owner: str,
        client_now: float,
        seconds: float,
        decide: Decide | None = None,
    ) -> Any:
        named = self._named(decide)
        work = partial(self._store.claim, flow_id, owner, client_now, seconds, named)
        return self._around("claim", work)

    def commit(self, record: Any, event: Any, **how: Any) -> Any:
        what = f"commit: {event['action']}"
        return self._around(what, lambda: self._store.commit(record, event, **how))

    def release(self, *args: Any, **how: Any) -> None:
        self._around("release", lambda: self._store.release(*args, **how))

    def drive(self, *args: Any, begin: bool = False, **how: Any) -> Any:
        what = "drive" if begin else "heartbeat"
        return self._around(what, lambda: self._store.drive(*args, begin=begin, **how))

    def stop_driving(self, *args: Any, **how: Any) -> None:
        self._around("stop_driving", lambda: self._store.stop_driving(*args, **how))

    def leave_out(self, flow: Any, event: Any) -> None:
        what = f"leave_out: {event['action']}"
        self._around(what, lambda: self._store.leave_out(flow, event))

    def _around(self, what: str, work: Callable[[], _T]) -> _T:
        self._traps.reach(f"before {what}")
        self._doing = what
        done = work()
        self._traps.reach(f"after {self._doing}")
        self._doing = ""
        return done


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

    async def watched_migrate(db: Transaction, begin: Any) -> None:
        def after(name: str) -> None:
            if name.startswith("migration"):
                traps.reach("inside migration")

        await relayed(lambda db: migrate(db, begin), after=after)(db)

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
