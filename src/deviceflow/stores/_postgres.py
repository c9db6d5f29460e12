"""Perform operations on a PostgreSQL database."""

from __future__ import annotations

import time
from contextlib import closing, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import psycopg

from deviceflow import _forks as forks
from deviceflow.errors import StoreError
from deviceflow.stores import _pgpool as pgpool
from deviceflow.stores._postgres_dialect import DIALECT
from deviceflow.stores.sql.connection import NO_VALUES, Transaction
from deviceflow.stores.sql.statements import Statements

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractAsyncContextManager

    from deviceflow.core.secret import Secret
    from deviceflow.stores.sql.connection import Mode, Query, Work

_T = TypeVar("_T")

TRIES: Final = 3
IDLE_TOO_LONG: Final = "25P03"


class PostgresConnection:
    """Does work in transactions on a PostgreSQL database, with a pool of connections.

    The pool's methods are awaited. Those of a pool for threads never suspend.

    Args:
        url: The URL, in libpq's format.
        pool_size: As for `PostgresStore`.
        timeout: As for `PostgresStore`.
        reading_timeout: As for `PostgresStore`.
    """

    def __init__(
        self,
        url: Secret,
        *,
        pool_size: int,
        timeout: float,
        reading_timeout: float,
    ) -> None:
        self._url = url
        self.statements = Statements(DIALECT)
        self._size = pool_size
        self._timeout = timeout
        self._reading_timeout = reading_timeout
        self._begin = begin(timeout)
        self._begin_durably = begin(timeout, DURABLY)
        self._pool: Any = self._make_pool()
        forks.in_child(self._leave_pool)

    def _make_pool(self) -> Any:
        return pgpool.Pool(self._url, self._size)

    async def close(self) -> None:
        """Close all connections."""
        self._pool.close()
        self._pool = self._make_pool()

    def _leave_pool(self) -> None:
        forks.abandon(self._pool)
        self._pool = self._make_pool()

    def in_turn(self, record_id: str) -> AbstractAsyncContextManager[object]:  # noqa: ARG002
        """Let all threads go on: each waits for the lock of the row."""
        return nullcontext()

    async def run(self, work: Work[_T], mode: Mode, client_now: float) -> _T:
        """Do work in a transaction, as `Connection.run` says."""
        pool, until = self._pool, time.monotonic() + self._timeout
        # The first statements at all say at once what is wrong.
        left = 1 if mode in ("open", "migrate") else TRIES
        while True:
            left -= 1
            try:
                connection = await pool.take(until, patient=left > 0)
                try:
                    result = await self._run(connection, work, mode, client_now)
                except BaseException:
                    connection.close()
                    pool.put(connection)
                    raise
            except psycopg.Error as error:
                problem = problem_of(error)
                gave_up = isinstance(error, pgpool.GaveUpError)
                lost = isinstance(error, psycopg.OperationalError)
                lost = lost or error.sqlstate == IDLE_TOO_LONG
            else:
                pool.put(connection)
                if isinstance(result, Undone):
                    raise result.problem
                return result
            if lost:
                pool.clear()  # after a restart of the database, all idle connections are broken
            if gave_up or not (lost and left):
                raise problem

    async def _run(
        self, connection: pgpool.Session, work: Work[_T], mode: Mode, now: float
    ) -> _T | Undone:
        execute, in_transaction = connection.execute, mode in ("write", "durable", "migrate")
        if in_transaction:
            begun = self._begin_durably if mode == "durable" else self._begin
            ((now,),) = (await execute(begun, None)).rows
        try:
            result = await work(Transaction(execute, self.statements, now))
        except psycopg.Error:
            raise
        except Exception as problem:  # noqa: BLE001  # raised where the connection was given back
            if in_transaction:
                # Rows stay locked until the server notices that a connection was closed.
                await execute("ROLLBACK", None)
            return Undone(problem)
        if in_transaction:
            await execute("COMMIT", None)
        return result

    @contextmanager
    def reading(self) -> Iterator[Query]:
        """Yield a function that returns the rows of a query, from one snapshot."""
        problem = None
        try:
            until = time.monotonic() + self._timeout
            with closing(pgpool.connect(self._url, until)) as connection:
                connection.least = self._reading_timeout
                connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")

                def rows(name: str, values: Mapping[str, Any] = NO_VALUES) -> Iterator[Any]:
                    text, values_of = self.statements[name]
                    with connection.cursor(name) as cursor:
                        cursor.itersize = 5000
                        yield from cursor.execute(text, values_of(values))

                yield rows
        except psycopg.Error as error:
            problem = problem_of(error)
        if problem is not None:
            raise problem


class Undone(NamedTuple):
    """What work raised, whose transaction was rolled back."""

    problem: Exception


DURABLY: Final = "synchronous_commit = on"
"""The setting of a transaction that must survive a power cut, whatever the database's setting."""


def begin(timeout: float, *settings: str) -> str:
    """Return what begins a transaction, and returns the time in the same round trip.

    Args:
        timeout: As for `PostgresStore`.
        settings: Further settings of the transaction.
    """
    # The settings are local to the transaction, because a pooler shares sessions. They end
    # statements at the server that nobody waits for any more, and release the locks of a worker
    # that is suspended.
    settings = (
        f"statement_timeout = {timeout * 1000:.0f}",
        f"idle_in_transaction_session_timeout = {timeout * 500:.0f}",
        *settings,
    )
    return f"BEGIN; {' '.join(f'SET LOCAL {one};' for one in settings)} SELECT {DIALECT.now}"


def problem_of(error: Exception) -> StoreError:
    """Return the error without the statement's values, which may be secret."""
    state = getattr(error, "sqlstate", None)
    message = getattr(getattr(error, "diag", None), "message_primary", None)
    if state is None:
        message = " ".join(str(error).split()).partition(_QUESTION)[0] or type(error).__name__
        return StoreError(
            f"The database cannot be reached: {message.rstrip('.')}.",
            hint="Nothing is lost: try again when the database is available. If it is running,"
            " check whether it or a pooler in front of it is suspended.",
        )
    return StoreError(
        f"The database returned an error: {message} (SQLSTATE {state}).", hint=_HINTS.get(state)
    )


_QUESTION: Final = " Is the server running "  # libpq asks it at the end; the hint says the same

_HINTS: Final = {
    IDLE_TOO_LONG: "This machine was suspended, or very slow. Nothing is lost: try again.",
    "25006": "The database is read-only: use the URL of the primary server.",
    "28P01": "Check the user name, and the password in ~/.pgpass or PGPASSWORD.",
    "3D000": "Create the database with createdb.",
    "57014": "The statement took too long: check for locks and load. No stored data is lost.",
    "42501": "Run deviceflow once as the owner, or GRANT CREATE ON DATABASE …; for reading only,"
    " GRANT USAGE ON SCHEMA deviceflow and SELECT on its tables.",
    "53100": "Free space on the server's disk. No stored data is lost.",
}
