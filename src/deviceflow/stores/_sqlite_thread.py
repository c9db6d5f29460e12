"""One thread that does the work of many tasks on a SQLite file, in groups.

What the tasks of a loop ask for while a transaction is written is done in the next one; so the
more there is to do, the fewer transactions and syncs it takes. Each task is answered after COMMIT.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import defaultdict, deque
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final, TypeVar

from deviceflow import _forks as forks
from deviceflow._blocking import complete
from deviceflow.core.secret import without_frames
from deviceflow.errors import StoreError
from deviceflow.stores import _sqlite as sqlite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from deviceflow.stores.sql.connection import Mode, Transaction, Work

_T = TypeVar("_T")

MOST: Final = 256
"""How many pieces of work share a transaction at most: those behind them wait for it."""

_LOOK: Final = 0.25
"""Seconds between two looks whether another process has changed anything."""

_IDLE: Final = 5.0
"""Seconds without work after which the thread ends; the next piece of work starts another one."""


class _Pending:
    """A piece of work, and the task that waits for it.

    Attributes:
        work: The work; None for closing the file.
        mode: How it is done.
        now: The client's time.
        done: Becomes its result.
        begun: Whether the thread has taken it.
        dropped: Whether its task was cancelled before that: it must not be done.
    """

    __slots__ = ("begun", "done", "dropped", "mode", "now", "work")

    def __init__(self, work: Work[Any] | None, mode: Mode, now: float) -> None:
        self.work, self.mode, self.now = work, mode, now
        self.done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.begun = self.dropped = False


class _UndoneError(Exception):
    """Work failed when it had already changed something, which must be undone."""


class GroupingConnection(sqlite.SQLiteConnection):
    """A connection that does several pieces of work in one transaction."""

    def run_all(self, group: Sequence[_Pending]) -> list[Any] | None:
        """Do pieces of work in one transaction.

        One that raises before it has changed anything does not concern the others.

        Returns:
            What came of each, or its exception; None if nothing was done, and each has to be done
            alone.

        Raises:
            StoreError: The transaction could not be begun.
        """
        mode: Mode = "durable" if any(one.mode == "durable" for one in group) else "write"
        with self._lock:
            try:
                connection = self.connected()
            except OSError as error:
                problem = self._failed(error)
            else:
                synchronous = "FULL" if mode == "durable" else self._synchronous
                begun = False
                try:
                    with (
                        self._synchronously(connection, synchronous),
                        sqlite.in_transaction(connection),
                    ):
                        begun = True
                        return [self._tried(connection, one) for one in group]
                except _UndoneError:
                    return None
                except sqlite3.Error as error:
                    if begun:
                        return None
                    problem = self._failed(error)
        raise problem

    def _tried(self, connection: sqlite3.Connection, one: _Pending) -> Any:
        before = connection.total_changes
        assert one.work is not None  # noqa: S101  # for mypy
        try:
            return complete(one.work(self._transaction(connection, one.now)))
        except sqlite3.Error:
            raise
        except BaseException as problem:  # noqa: BLE001  # it is the answer
            if connection.total_changes != before:
                raise _UndoneError from None
            return without_frames(problem)


class SQLiteThread:
    """Does work on a SQLite file, in a thread of its own.

    Args:
        connection: The connection to the file.
        read_only: Whether nothing may be written.
    """

    def __init__(self, connection: GroupingConnection, *, read_only: bool) -> None:
        self.statements = connection.statements
        self._connection = connection
        self._read_only = read_only
        self._renew()
        forks.in_child(self._renew)

    def _renew(self) -> None:
        # A child has neither the thread nor the loops of those that wait.
        self._fresh: list[_Pending] = []
        self._waiting: deque[_Pending] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._version: list[Any] | None = None

    def blocking(self) -> AbstractContextManager[sqlite.SQLiteConnection]:
        """Give the connection, which threads may share."""
        return nullcontext(self._connection)

    async def run(self, work: Work[_T], mode: Mode, client_now: float) -> _T:
        """Do work in a transaction, as `Connection.run` says."""
        result: _T = await self._done(_Pending(work, mode, client_now))
        return result

    def in_turn(self, record_id: str) -> AbstractAsyncContextManager[object]:
        """Let all go on: there is one thread."""
        return self._connection.in_turn(record_id)

    async def look_for_change(self, on_change: Callable[[], None]) -> float:
        """Call the function if another connection has committed anything."""

        async def work(db: Transaction) -> list[Any]:
            return await db.rows("data_version")

        version = await self.run(work, "read", 0.0)
        if self._version not in (None, version):
            on_change()
        self._version = version
        return _LOOK

    async def close(self) -> None:
        """Do what was asked for, and close the file."""
        await self._done(_Pending(None, "read", 0.0))

    async def _done(self, pending: _Pending) -> Any:
        loop = pending.done.get_loop()
        if not self._fresh or self._fresh[-1].done.get_loop() is not loop:
            loop.call_soon(self._hand_over)  # with all that is asked for until then
        self._fresh.append(pending)
        cancelled = None
        while not pending.done.done():
            try:
                await asyncio.shield(pending.done)
            except asyncio.CancelledError as stop:
                if self._drop(pending):
                    raise
                cancelled = cancelled or stop
            except Exception:  # noqa: BLE001, S110  # raised below
                pass
        if cancelled is not None:
            pending.done.exception()  # or asyncio would tell of it
            raise cancelled
        return pending.done.result()

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

    def _drop(self, pending: _Pending) -> bool:
        with self._changed:
            pending.dropped = not pending.begun
            return pending.dropped

    # In the thread.

    def _work(self) -> None:
        while group := self._next():
            try:
                if group[0].work is None:
                    complete(self._connection.close())
                    _answer([(group[0], None)])
                else:
                    self._perform(group)
            except BaseException as defect:  # noqa: BLE001  # it must leave nobody waiting
                _answer([(pending, without_frames(defect)) for pending in group])

    def _next(self) -> list[_Pending]:
        """Wait for work, and return what is done together; nothing if none came."""
        group = list[_Pending]()
        with self._changed:
            while not group:
                if not self._waiting and not self._changed.wait(_IDLE) and not self._waiting:
                    self._thread = None
                    break
                while self._waiting and len(group) < MOST:
                    if self._waiting[0].work is None and group:
                        break
                    pending = self._waiting.popleft()
                    if pending.dropped:
                        continue
                    pending.begun = True
                    group.append(pending)
                    if pending.work is None:
                        break
        return group

    def _perform(self, group: Iterable[_Pending]) -> None:
        writes = list[_Pending]()
        for pending in group:
            # A task has its own writes behind it when it reads.
            if self._read_only or pending.mode == "read":
                _answer([(pending, self._alone(pending))])
            else:
                writes.append(pending)
        if len(writes) == 1:
            _answer([(writes[0], self._alone(writes[0]))])
        elif writes:
            self._write(writes)

    def _write(self, group: Sequence[_Pending]) -> None:
        try:
            done = self._connection.run_all(group)
        except StoreError as problem:
            done = [without_frames(problem)] * len(group)
        if done is not None:
            _answer(zip(group, done, strict=True))
            return
        locked: Any = None  # by another process: nobody waits for that twice
        for pending in group:
            begun = time.monotonic()
            outcome = locked or self._alone(pending)
            if isinstance(outcome, StoreError) and time.monotonic() - begun >= sqlite.BUSY:
                locked = outcome
            _answer([(pending, outcome)])

    def _alone(self, pending: _Pending) -> Any:
        assert pending.work is not None  # noqa: S101  # for mypy
        try:
            return complete(self._connection.run(pending.work, pending.mode, pending.now))
        except BaseException as problem:  # noqa: BLE001  # it is the answer
            return without_frames(problem)


def _answer(answers: Iterable[tuple[_Pending, Any]]) -> None:
    """Tell the tasks, with one call for each loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Pending, Any]]] = defaultdict(list)
    for pending, outcome in answers:
        by_loop[pending.done.get_loop()].append((pending, outcome))
    for loop, own in by_loop.items():
        try:
            loop.call_soon_threadsafe(_tell, own)
        except RuntimeError:  # the loop was closed: nobody waits any more
            continue


def _tell(answers: Iterable[tuple[_Pending, Any]]) -> None:
    for pending, outcome in answers:
        if isinstance(outcome, BaseException):
            pending.done.set_exception(outcome)
        else:
            pending.done.set_result(outcome)
