"""Perform the jobs of many tasks on a PostgreSQL database, in groups.

A group is one transaction. Its jobs go on in step: where several of them want the same statement,
one statement is run for all of them. So the more there is to do, the fewer round trips it takes.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg

from deviceflow import _forks as forks
from deviceflow.core.secret import without_frames
from deviceflow.stores import _pgasync as pgasync
from deviceflow.stores._pgpool import IDLE, GaveUpError
from deviceflow.stores._postgres import (
    DURABLY,
    IDLE_TOO_LONG,
    TRIES,
    PostgresConnection,
    begin,
    problem_of,
)
from deviceflow.stores._postgres_listener import Listener
from deviceflow.stores.sql.methods import Job
from deviceflow.stores.sql.operations import query
from deviceflow.stores.sql.pending import Done, Pending
from deviceflow.stores.sql.statements import MANY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from deviceflow.core.secret import Secret
    from deviceflow.errors import StoreError
    from deviceflow.stores._pgasync import BoundedAsyncConnection
    from deviceflow.stores.sql.connection import Connection
    from deviceflow.stores.sql.connection import Statements as Attempt
    from deviceflow.stores.sql.statements import Dialect, ManyStatement, Statements

MOST: Final = MANY
"""How many jobs share a transaction at most: those behind them wait for it."""

LATE: Final = 0.02
"""How many seconds a job waits for a group of others before another connection is used."""

_LOCKS: Final = "lock_timeout = 500"
"""What a group waits for rows that others have locked, in milliseconds. One job may wait longer."""

_FOR_MANY: Final = frozenset(
    {
        "add_event",
        "get",
        "lease",
        "lease_and_move",
        "lease_and_turn",
        "lock",
        "move",
        "poll_remembered",
        "release",
        "turn",
    }
)
"""The statements that are run for many jobs at once."""

_WITH_EVENT: Final = frozenset(
    {"lease_and_move", "lease_and_turn", "move", "poll_remembered", "turn"}
)
"""Those of them that add each row's event, too, if its values name one."""


class _UndoneError(Exception):
    """A job failed when it had already changed something, which must be undone."""


class _Fetched:
    """What came of a statement."""

    def __init__(self, rows: list[Any], rowcount: int) -> None:
        self.rowcount = rowcount
        self._rows = rows

    def fetchone(self) -> Any:
        return self._rows.pop(0) if self._rows else None

    def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows


class _Running:
    """A job in a group.

    Attributes:
        attempt: The attempt at its operation.
        is_alone: Whether no other job shares the transaction.
        changed: Whether it has changed anything.
        done: What came of it, once that is known.
        added: The event that was added with its flow's row.

    """

    __slots__ = ("added", "attempt", "changed", "done", "is_alone")

    def __init__(self, attempt: Attempt[Any], *, is_alone: bool = False) -> None:
        self.attempt = attempt
        self.is_alone = is_alone
        self.changed = False
        self.done: Done | None = None
        self.added: Any = None

    def go_on(self, rows: _Fetched | None) -> tuple[str, Any] | None:
        """Send the attempt what came of its statement; return the next one, if there is one.

        Raises:
            _UndoneError: The job failed, and what it has changed must be undone for the others.
        """
        try:
            wanted: tuple[str, Any] = self.attempt.send(rows)  # type: ignore[arg-type]  # at first
            if self.added is not None and wanted == ("add_event", self.added):
                self.added = None
                wanted = self.attempt.send(_Fetched([], 1))
        except StopIteration as stop:
            self.done = Done(stop.value)
        except BaseException as problem:  # noqa: BLE001  # it is the answer
            if self.changed and not self.is_alone:
                raise _UndoneError from None
            self.done = Done(problem=without_frames(problem))
        else:
            return wanted
        return None


class PostgresGroups:
    """Performs jobs on a PostgreSQL database, with a few connections.

    Args:
        url: As for `PostgresConnection`, like the rest.
        dialect: Likewise.
        statements: Likewise.
        pool_size: Likewise.
        timeout: Likewise.
        reading_timeout: Likewise.
    """

    def __init__(
        self,
        url: Secret,
        dialect: Dialect,
        statements: Statements,
        *,
        pool_size: int,
        timeout: float,
        reading_timeout: float,
    ) -> None:
        self._url = url
        self._dialect = dialect
        self._statements = statements
        self._for_many: dict[tuple[str, bool], ManyStatement] = {}
        self._size = pool_size
        self._timeout = timeout
        self._reading_timeout = reading_timeout
        self._begin = begin(dialect, timeout)
        self._begin_group = begin(dialect, timeout, _LOCKS)
        self._begin_durably = begin(dialect, timeout, DURABLY)
        self._begin_group_durably = begin(dialect, timeout, _LOCKS, DURABLY)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._renew()
        forks.in_child(self._leave)

    def _leave(self) -> None:
        # A child has the parent's connections and tasks, and may use neither.
        forks.abandon(self._idle, self._listener)
        self._renew()

    def _renew(self) -> None:
        self._idle: deque[tuple[float, BoundedAsyncConnection]] = deque()
        self._listener: Listener | None = None
        self._waiting: deque[Pending] = deque()
        self._at_work: set[str | None] = set()  # the flows
        self._lanes: set[asyncio.Task[None]] = set()
        self._look: asyncio.TimerHandle | None = None

    @contextmanager
    def blocking(self) -> Iterator[Connection]:
        """Give a connection for another thread."""
        connection = PostgresConnection(
            self._url,
            self._dialect,
            self._statements,
            pool_size=1,
            timeout=self._timeout,
            reading_timeout=self._reading_timeout,
        )
        with closing(connection):
            yield connection

    async def perform(self, job: Job) -> Done:
        """Perform a job, as `AsyncConnection.perform` says."""
        self._enter_loop()
        pending = Pending(job)
        self._waiting.append(pending)
        self._start_lane()
        return await pending.wait(_drop)

    def _enter_loop(self) -> None:
        """Leave what belongs to another loop, which is closed by now."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._clear()
            if self._listener is not None:
                self._listener.close()
            self._renew()
            self._loop = loop

    async def look_for_change(self, on_change: Callable[[], None]) -> float:
        """Have the function called at each notification, or now where none would come."""
        self._enter_loop()
        if self._listener is None:
            self._listener = Listener(self._url, self._timeout, self._send)
        return await self._listener.look(on_change)

    async def _send(self, payload: str) -> None:
        done = await self.perform(Job(query("notify", {"payload": payload}), "read"))
        if done.cancelled is not None:
            raise done.cancelled
        if done.problem is not None:
            raise done.problem

    async def close(self) -> None:
        """Perform what was asked for, and close all connections."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        while self._lanes and self._loop is asyncio.get_running_loop():
            await asyncio.wait(self._lanes)
        while self._idle:
            await self._idle.pop()[1].close()

    # Lanes: tasks that perform one group after another, each on a connection of its own.

    def _start_lane(self) -> None:
        """Start a lane if there is none, or if the others leave a job waiting for long."""
        if not self._waiting or len(self._lanes) >= self._size:
            return
        assert self._loop is not None  # noqa: S101  # for mypy
        late = time.monotonic() - self._waiting[0].asked >= LATE
        if not self._lanes or late:
            lane = self._loop.create_task(self._work())
            self._lanes.add(lane)
            lane.add_done_callback(self._lane_ended)
        if self._look is None and len(self._lanes) < self._size:
            self._look = self._loop.call_later(LATE, self._look_again)

    def _look_again(self) -> None:
        self._look = None
        self._start_lane()

    def _lane_ended(self, lane: asyncio.Task[None]) -> None:
        # A lane that is cancelled before its first step, as at the end of `asyncio.run`, does not
        # run any of its own code.
        self._lanes.discard(lane)
        self._start_lane()

    async def _work(self) -> None:
        connection: BoundedAsyncConnection | None = None
        try:
            while group := self._next():
                self._start_lane()  # if others still wait, and have waited for long
                try:
                    connection = await self._perform(group, connection)
                except Exception as defect:  # noqa: BLE001  # it must leave nobody waiting
                    connection = None
                    for pending in group:
                        pending.answer(Done(problem=without_frames(defect)))
                finally:
                    self._at_work.difference_update(p.job.flow_id for p in group if p.job)
        finally:
            self._put(connection)

    def _next(self) -> list[Pending]:
        """Return jobs that are done together, at most one for each flow."""
        group, passed = list[Pending](), list[Pending]()
        taken = set(self._at_work)
        stale = time.monotonic() - self._timeout
        while self._waiting and len(group) < MOST:
            pending = self._waiting.popleft()
            assert pending.job is not None  # noqa: S101  # for mypy
            flow_id = pending.job.flow_id
            if pending.dropped:
                continue
            if pending.alone and group:
                passed.append(pending)
                break
            if pending.asked < stale:
                problem = problem_of(GaveUpError("all connections of this process are in use"))
                pending.answer(Done(problem=problem))
            elif flow_id is not None and flow_id in taken:
                passed.append(pending)
            else:
                pending.begun = True
                group.append(pending)
                if flow_id is not None:
                    taken.add(flow_id)
                    self._at_work.add(flow_id)
                if pending.alone:
                    break
        self._waiting.extendleft(reversed(passed))
        return group

    def _put(self, connection: BoundedAsyncConnection | None) -> None:
        if connection is not None:
            self._idle.append((time.monotonic(), connection))
        oldest = time.monotonic() - IDLE
        while self._idle and self._idle[0][0] < oldest:
            self._idle.popleft()[1].pgconn.finish()

    # A group.

    async def _perform(
        self, group: Sequence[Pending], connection: BoundedAsyncConnection | None
    ) -> BoundedAsyncConnection | None:
        """Perform jobs and answer them; return the connection, if it is usable."""
        until = group[0].asked + self._timeout
        left = TRIES
        while True:
            left -= 1
            problem: Exception
            try:
                if connection is None:
                    connection = await self._connected(until)
                connection.until = until
                done = await self._transact(connection, [p.job for p in group if p.job])
            except (psycopg.Error, _UndoneError) as error:
                without_frames(error)
                problem = error
                connection = await self._usable(connection)
            else:
                for pending, outcome in zip(group, done, strict=True):
                    pending.answer(outcome)
                return connection
            gave_up = isinstance(problem, GaveUpError)
            if not gave_up and len(group) > 1 and connection is not None:
                self._again(group)
                return connection
            lost = isinstance(problem, psycopg.OperationalError)
            lost = lost or getattr(problem, "sqlstate", None) == IDLE_TOO_LONG
            if lost:
                self._clear()  # after a restart of the database, all idle connections are broken
            if gave_up or not (lost and left):
                _fail(group, problem_of(problem))
                return connection

    def _again(self, group: Sequence[Pending]) -> None:
        """Have each job performed in a transaction of its own, since one of them failed.

        One that waits for a lock then holds up nobody but those of its flow.
        """
        for pending in group:
            pending.alone, pending.begun = True, False
        self._waiting.extendleft(reversed(group))

    async def _connected(self, until: float) -> BoundedAsyncConnection:
        self._put(None)
        while self._idle:
            connection = self._idle.pop()[1]
            if not connection.closed:
                return connection
        return await pgasync.connect_patiently(self._url, until)

    async def _usable(
        self, connection: BoundedAsyncConnection | None
    ) -> BoundedAsyncConnection | None:
        """Roll back what was begun; return the connection if that could be done."""
        if connection is None or connection.closed:
            return None
        try:
            await connection.execute("ROLLBACK")
        except psycopg.Error:
            connection.pgconn.finish()
            return None
        return connection

    def _clear(self) -> None:
        while self._idle:
            self._idle.pop()[1].pgconn.finish()

    async def _transact(
        self, connection: BoundedAsyncConnection, jobs: Sequence[Job]
    ) -> list[Done]:
        if len(jobs) == 1 and jobs[0].mode not in ("write", "durable"):
            (job,) = jobs
            return [
                await self._run(connection, _Running(job.operation(job.client_now), is_alone=True))
            ]
        begun = await connection.execute(self._begun_by(jobs))
        while begun.nextset():
            pass
        (now,) = await begun.fetchone() or (0.0,)
        if len(jobs) == 1:
            done = [await self._run(connection, _Running(jobs[0].operation(now), is_alone=True))]
            await connection.execute("COMMIT" if done[0].problem is None else "ROLLBACK")
            return done
        # Those of one flow each go on in step. The others may depend on each other.
        in_step = await self._together(connection, [j for j in jobs if j.flow_id is not None], now)
        done = []
        for job in jobs:
            if job.flow_id is None:
                done.append(await self._run(connection, _Running(job.operation(now))))
            else:
                done.append(in_step.pop(0))
        await connection.execute("COMMIT")
        return done

    def _begun_by(self, jobs: Sequence[Job]) -> str:
        if any(job.mode == "durable" for job in jobs):
            return self._begin_durably if len(jobs) == 1 else self._begin_group_durably
        return self._begin if len(jobs) == 1 else self._begin_group

    async def _run(self, connection: BoundedAsyncConnection, running: _Running) -> Done:
        wanted = running.go_on(None)
        while wanted is not None:
            wanted = running.go_on(await self._execute(connection, running, *wanted))
        return running.done or Done()

    async def _together(
        self, connection: BoundedAsyncConnection, jobs: Sequence[Job], now: float
    ) -> list[Done]:
        group = [_Running(job.operation(now)) for job in jobs]
        wanted = _sorted((running, running.go_on(None)) for running in group)
        while wanted:
            came = list[tuple[_Running, _Fetched]]()
            for (name, with_event), asked in wanted.items():
                if with_event or (len(asked) > 1 and name in _FOR_MANY):
                    came += await self._execute_for_many(connection, name, asked, with_event)
                elif name == "notify":  # once: others look for all that is due anyway
                    first, values = asked[0]
                    await self._execute(connection, first, name, values)
                    came += [(running, _Fetched([], 1)) for running, _ in asked]
                else:
                    for running, values in asked:
                        rows = await self._execute(connection, running, name, values)
                        came.append((running, rows))
            wanted = _sorted((running, running.go_on(rows)) for running, rows in came)
        return [running.done or Done() for running in group]

    async def _execute(
        self, connection: BoundedAsyncConnection, running: _Running, name: str, values: Any
    ) -> _Fetched:
        text, values_of = self._statements[name]
        cursor = await connection.execute(text, values_of(values))
        if cursor.description is not None:
            return _Fetched(await cursor.fetchall(), cursor.rowcount)
        running.changed = running.changed or cursor.rowcount > 0
        return _Fetched([], cursor.rowcount)

    async def _execute_for_many(
        self,
        connection: BoundedAsyncConnection,
        name: str,
        asked: list[tuple[_Running, Any]],
        with_event: bool,
    ) -> list[tuple[_Running, _Fetched]]:
        statement = self._for_many.get((name, with_event))
        if statement is None:
            statement = self._statements.for_many(name, with_event=with_event)
            self._for_many[name, with_event] = statement
        text, types, values_of, event_of = statement
        many = [values_of(values) for _, values in asked]
        if event_of is not None:
            many = [
                values + event_of(asks["event"])
                for values, (_, asks) in zip(many, asked, strict=True)
            ]
        columns = zip(*many, strict=True)
        arrays = [
            connection.array(kind, column) for kind, column in zip(types, columns, strict=True)
        ]
        cursor = await connection.execute(text, arrays)
        if cursor.description is None:  # an INSERT does all or fails, if nobody tampers with it
            count = int(cursor.rowcount == len(asked))
            return [(running, _Fetched([], count)) for running, _ in asked]
        rows = await cursor.fetchall()
        if with_event and rows and rows[0][1] != len(rows):
            raise _UndoneError  # the database ignored an event; alone, its job says so
        found = {row[0]: _Fetched([row[1:]], 1) for row in rows}
        came = [
            (running, found.get(n) or _Fetched([], 0)) for n, (running, _) in enumerate(asked, 1)
        ]
        if not text.startswith("SELECT"):
            for (running, fetched), (_, values) in zip(came, asked, strict=True):
                if fetched.rowcount:
                    running.changed = True
                    running.added = values["event"] if with_event else None
        return came


def _fail(group: Iterable[Pending], problem: StoreError) -> None:
    for pending in group:
        pending.answer(Done(problem=problem))


def _sorted(wanted: Any) -> dict[tuple[str, bool], list[tuple[_Running, Any]]]:
    """Return by statement who wants it, and with which values.

    A statement has a name, and adds events or not.
    """
    by_statement: dict[tuple[str, bool], list[tuple[_Running, Any]]] = {}
    for running, asked in wanted:
        if asked is not None:
            name, values = asked
            with_event = name in _WITH_EVENT and values["event"] is not None
            by_statement.setdefault((name, with_event), []).append((running, values))
    return by_statement


def _drop(pending: Pending) -> bool:
    pending.dropped = not pending.begun
    return pending.dropped
