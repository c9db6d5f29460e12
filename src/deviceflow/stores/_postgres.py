"""Perform operations on a PostgreSQL database."""

from __future__ import annotations

import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg

from deviceflow import _forks as forks
from deviceflow.errors import DeviceFlowError, StoreError
from deviceflow.stores import _pgpool as pgpool
from deviceflow.stores.sql.connection import performed
from deviceflow.stores.sql.rows import rewound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from deviceflow.core.secret import Secret
    from deviceflow.stores.sql.connection import Mode, Operation, Query, Rows
    from deviceflow.stores.sql.statements import Dialect, Statements

_T = TypeVar("_T")

TRIES: Final = 3
IDLE_TOO_LONG: Final = "25P03"


class PostgresConnection:
    """Performs operations on a PostgreSQL database, with a pool of connections.

    Args:
        url: The URL, in libpq's format.
        dialect: The SQL dialect.
        statements: The statements.
        pool_size: As for `PostgresStore`.
        timeout: As for `PostgresStore`.
        reading_timeout: As for `PostgresStore`.
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
        self._statements = statements
        self._timeout = timeout
        self._reading_timeout = reading_timeout
        self._begin = begin(dialect, timeout)
        self._begin_durably = begin(dialect, timeout, DURABLY)
        self._make_pool: Callable[[], pgpool.Pool] = lambda: pgpool.Pool(url, pool_size)
        self._pool = self._make_pool()
        forks.in_child(self._leave_pool)

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()
        self._pool = self._make_pool()

    def _leave_pool(self) -> None:
        forks.abandon(self._pool)
        self._pool = self._make_pool()

    def perform(self, operation: Operation[_T], mode: Mode, client_now: float) -> _T:
        """Perform an operation, as `Connection.perform` says."""
        if mode in ("open", "migrate"):
            return self._perform_once(operation, client_now)
        pool, until, left = self._pool, self._until(), TRIES
        while True:
            left -= 1
            try:
                with pool.connection(until) as connection:
                    return self._perform(connection, operation, mode, client_now)
            except psycopg.Error as error:
                problem = problem_of(error)
                gave_up = isinstance(error, pgpool.GaveUpError)
                lost = isinstance(error, psycopg.OperationalError)
                lost = lost or error.sqlstate == IDLE_TOO_LONG
            if lost:
                pool.clear()  # after a restart of the database, all idle connections are broken
            if gave_up or not (lost and left):
                raise problem

    def _perform(
        self,
        connection: psycopg.Connection[Any],
        operation: Operation[_T],
        mode: Mode,
        client_now: float,
    ) -> _T:
        execute: Callable[[str, tuple[Any, ...]], Rows] = connection.execute
        if mode not in ("write", "durable"):
            return performed(operation(client_now), execute, self._statements)
        begun = connection.execute(self._begin_durably if mode == "durable" else self._begin)
        while begun.nextset():
            pass
        (now,) = begun.fetchone() or (client_now,)
        try:
            done = performed(operation(now), execute, self._statements)
        except DeviceFlowError:
            # Rows stay locked until the server notices that a connection was closed.
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        return done

    def _perform_once(self, operation: Operation[_T], now: float) -> _T:
        # Without the pool's retries, so that errors are reported at once.
        try:
            with (
                closing(pgpool.connect(self._url, self._until())) as connection,
                connection.transaction(),
            ):
                return performed(operation(now), connection.execute, self._statements)
        except psycopg.Error as error:
            problem = problem_of(error)
        raise problem

    def _until(self) -> float:
        return time.monotonic() + self._timeout

    @contextmanager
    def reading(self) -> Iterator[Query]:
        """Yield a function that returns the rows of a query, from one snapshot."""
        problem = None
        try:
            with closing(pgpool.connect(self._url, self._until())) as connection:
                connection.least = self._reading_timeout
                connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")

                def rows(name: str, values: Mapping[str, Any] | None = None) -> Iterator[Any]:
                    text, values_of = self._statements[name]
                    with connection.cursor(name) as cursor:
                        cursor.itersize = 5000
                        yield from cursor.execute(text, values_of(values or {}))

                yield rows
        except psycopg.Error as error:
            problem = problem_of(error)
        if problem is not None:
            raise problem


DURABLY: Final = "synchronous_commit = on"
"""The setting of a transaction that must survive a power cut, whatever the database's setting."""


def begin(dialect: Dialect, timeout: float, *settings: str) -> str:
    """Return what begins a transaction, and returns the time in the same round trip.

    Args:
        dialect: The SQL dialect.
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
    return f"BEGIN; {' '.join(f'SET LOCAL {one};' for one in settings)} SELECT {dialect.now}"


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
    if state == "23505" and error.diag.constraint_name == "audit_pkey":  # type: ignore[attr-defined]  # it has a state
        return rewound()
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
