"""One thread that performs the jobs of many tasks on a SQLite file, in groups.

What the tasks of a loop ask for while a transaction is written is done in the next one; so the
more there is to do, the fewer transactions and syncs it takes. Each job is answered after COMMIT.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import defaultdict, deque
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

from deviceflow import _forks as forks
from deviceflow.core.secret import without_frames
from deviceflow.errors import StoreError
from deviceflow.stores import _sqlite as sqlite
from deviceflow.stores._sqlite_moves import Moves
from deviceflow.stores.sql.connection import performed
from deviceflow.stores.sql.foreseen import foresee
from deviceflow.stores.sql.methods import Job
from deviceflow.stores.sql.operations import query
from deviceflow.stores.sql.pending import Done, Pending, answer_all

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Iterable, Sequence
    from contextlib import AbstractContextManager

    from deviceflow.stores.sql.connection import Connection
    from deviceflow.stores.sql.foreseen import Foreseen

MOST: Final = 256
"""How many jobs share a transaction at most: those behind them wait for it."""

_LOOK: Final = 0.25
"""Seconds between two looks whether another process has changed anything."""

_IDLE: Final = 5.0
"""Seconds without a job after which the thread ends; the next job starts another one."""


class GroupingConnection(sqlite.SQLiteConnection):
    """A connection that performs several jobs in one transaction."""

    _moves: Moves | None = None
    _set_up: sqlite3.Connection | None = None

    def move_all(self, moves: Sequence[Foreseen]) -> bool:
        """Perform jobs that were foreseen, in one statement.

        Returns:
            Whether that was done. If not, nothing was, and each has to be performed as another job.

        Raises:
            StoreError: The file cannot be used.
        """
        with self._lock:
            try:
                connection = self.connected()
                if self._moves is None:
                    self._moves = Moves(self._statements)
                if connection is not self._set_up:
                    self._moves.set_up(connection)
                    self._set_up = connection
                connection.execute(*self._moves.statement(moves))
            except OSError as error:
                problem = self._failed(error)
            except sqlite3.Error as error:
                if not sqlite.name_of(error).startswith("SQLITE_BUSY"):
                    return False
                problem = self._failed(error)
            except (OverflowError, ValueError):  # a value that cannot be stored
                return False
            else:
                return True
        raise problem

    def perform_all(self, jobs: Sequence[Job]) -> list[Done] | None:
        """Perform jobs in one transaction.

        A job that raises before it has changed anything is answered by its error, and does not
        concern the others.

        Returns:
            What came of each; None if nothing was done, and each has to be performed alone.

        Raises:
            StoreError: The transaction could not be begun.
        """
        durably = self._synchronous != "FULL" and any(job.mode == "durable" for job in jobs)
        with self._lock:
            problem: StoreError | None = None
            try:
                connection = self.connected()
                execute = connection.cursor().execute
                if durably:
                    execute("PRAGMA synchronous = FULL")
                execute("BEGIN IMMEDIATE")
            except (sqlite3.Error, OSError) as error:
                problem = self._failed(error)
            if problem is not None:
                raise problem
            try:
                done = [self._tried(connection, job, execute) for job in jobs]
                execute("COMMIT")
            except (sqlite3.Error, _UndoneError):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                return None
            finally:
                if durably:
                    connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            return done

    def _tried(self, connection: sqlite3.Connection, job: Job, execute: Any) -> Done:
        before = connection.total_changes
        try:
            return Done(performed(job.operation(job.client_now), execute, self._statements))
        except sqlite3.Error:
            raise
        except BaseException as problem:  # noqa: BLE001  # it is the answer
            if connection.total_changes != before:
                raise _UndoneError from None
            return Done(problem=without_frames(problem))


class _UndoneError(Exception):
    """A job failed when it had already changed something, which must be undone."""


class SQLiteWriter:
    """Performs jobs on a SQLite file, in a thread of its own.

    Args:
        connection: The connection to the file.
        read_only: Whether nothing may be written.
    """

    def __init__(self, connection: GroupingConnection, *, read_only: bool) -> None:
        self._connection = connection
        self._read_only = read_only
        self._renew()
        forks.in_child(self._renew)

    def _renew(self) -> None:
        # A child has neither the thread nor the loops of those that wait.
        self._fresh: list[Pending] = []
        self._waiting: deque[Pending] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._version: list[Any] | None = None

    def blocking(self) -> AbstractContextManager[Connection]:
        """Give the connection, which threads may share."""
        return nullcontext(self._connection)

    async def perform(self, job: Job) -> Done:
        """Perform a job, as `AsyncConnection.perform` says."""
        return await self._asked(job)

    async def look_for_change(self, on_change: Callable[[], None]) -> float:
        """Call the function if another connection has committed anything."""
        done = await self.perform(Job(query("data_version", {}), "read"))
        if done.cancelled is not None:
            raise done.cancelled
        if done.problem is not None:
            raise done.problem
        if self._version not in (None, done.result):
            on_change()
        self._version = done.result
        return _LOOK

    async def close(self) -> None:
        """Perform what was asked for, and close the file."""
        done = await self._asked(None)
        if done.cancelled is not None:
            raise done.cancelled

    def _asked(self, job: Job | None) -> Coroutine[Any, Any, Done]:
        pending = Pending(job)
        if job is not None and not self._read_only:
            pending.foreseen = foresee(job)
        if not self._fresh or self._fresh[-1].loop is not pending.loop:
            pending.loop.call_soon(self._hand_over)  # with all that is asked for until then
        self._fresh.append(pending)
        return pending.wait(self._drop)

    def _hand_over(self) -> None:
        fresh, self._fresh = self._fresh, []
        with self._changed:
            self._waiting.extend(fresh)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="deviceflow-sqlite", daemon=True
                )
                self._thread.start()
            else:
                self._changed.notify()

    def _drop(self, pending: Pending) -> bool:
        with self._changed:
            pending.dropped = not pending.begun
            return pending.dropped

    # In the thread.

    def _work(self) -> None:
        while group := self._next():
            try:
                if group[0].job is None:
                    self._connection.close()
                    _answer([(group[0], Done())])
                else:
                    self._perform(group)
            except BaseException as defect:  # noqa: BLE001  # it must leave nobody waiting
                done = Done(problem=without_frames(defect))
                _answer([(pending, done) for pending in group])

    def _next(self) -> list[Pending]:
        """Wait for jobs, and return those that are done together; none if none came."""
        group = list[Pending]()
        with self._changed:
            while not group:
                if not self._waiting and not self._changed.wait(_IDLE) and not self._waiting:
                    self._thread = None
                    break
                while self._waiting and len(group) < MOST:
                    if self._waiting[0].job is None and group:
                        break
                    pending = self._waiting.popleft()
                    if pending.dropped:
                        continue
                    pending.begun = True
                    group.append(pending)
                    if pending.job is None:
                        break
        return group

    def _perform(self, group: Iterable[Pending]) -> None:
        reads, moves, writes = list[Pending](), list[Pending](), list[Pending]()
        changed, written = set[str | None](), set[str | None]()
        for pending in group:
            job = pending.job
            assert job is not None  # noqa: S101  # for mypy
            # A read sees what was asked for before it on the same flow; else it waits for nobody.
            if self._read_only or (
                job.mode == "read" and (job.flow_id is None or job.flow_id not in changed)
            ):
                reads.append(pending)
                continue
            changed.add(job.flow_id)
            if pending.foreseen is not None and job.flow_id not in written:
                moves.append(pending)
            else:
                writes.append(pending)
                written.add(job.flow_id)
        if reads:
            _answer([(pending, self._alone(pending)) for pending in reads])
        if moves and not self._move(moves):
            writes = moves + writes
        if len(writes) == 1:
            _answer([(writes[0], self._alone(writes[0]))])
        elif writes:
            self._write(writes)

    def _move(self, group: Sequence[Pending]) -> bool:
        foreseen = [pending.foreseen for pending in group if pending.foreseen is not None]
        try:
            if not self._connection.move_all(foreseen):
                return False
        except StoreError as problem:
            without_frames(problem)
            _answer([(pending, Done(problem=problem)) for pending in group])
        else:
            _answer(zip(group, [Done(move.result) for move in foreseen], strict=True))
        return True

    def _write(self, group: Sequence[Pending]) -> None:
        try:
            done = self._connection.perform_all([p.job for p in group if p.job is not None])
        except StoreError as problem:
            without_frames(problem)
            done = [Done(problem=problem)] * len(group)
        if done is not None:
            _answer(zip(group, done, strict=True))
            return
        locked: Done | None = None  # by another process: nobody waits for that twice
        for pending in group:
            begun = time.monotonic()
            outcome = locked or self._alone(pending)
            if outcome.problem is not None and time.monotonic() - begun >= sqlite.BUSY:
                locked = outcome
            _answer([(pending, outcome)])

    def _alone(self, pending: Pending) -> Done:
        job = pending.job
        assert job is not None  # noqa: S101  # for mypy
        try:
            return Done(self._connection.perform(job.operation, job.mode, job.client_now))
        except BaseException as problem:  # noqa: BLE001  # it is the answer
            return Done(problem=without_frames(problem))


def _answer(answers: Iterable[tuple[Pending, Done]]) -> None:
    """Tell the tasks, with one call for each loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Pending, Done]]] = defaultdict(list)
    for pending, done in answers:
        by_loop[pending.loop].append((pending, done))
    for loop, own in by_loop.items():
        try:
            loop.call_soon_threadsafe(answer_all, own)
        except RuntimeError:  # the loop was closed: nobody waits any more
            continue
