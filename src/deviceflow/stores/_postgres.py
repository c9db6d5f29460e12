"""Connections to a PostgreSQL database, as operations are performed on them."""

from __future__ import annotations

import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg

from deviceflow import _forks as forks
from deviceflow.errors import StoreError
from deviceflow.stores import _pgpool as pgpool
from deviceflow.stores.sql.connection import performed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from deviceflow.core.secret import Secret
    from deviceflow.stores.sql.connection import Mode, Operation, Query, Rows
    from deviceflow.stores.sql.statements import Dialect, Statements

_T = TypeVar("_T")

_TRIES: Final = 3
_IDLE_TOO_LONG: Final = "25P03"


class PostgresConnection:
    """Performs operations on a PostgreSQL database, by connections that its threads share.

    Args:
        url: Where it is, as libpq has it.
        dialect: How the database says it.
        statements: The statements.
        pool_size: As for `PostgresStore`, like the rest.
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
        self._statements = statements
        self._timeout = timeout
        self._reading_timeout = reading_timeout
        # For this transaction only: a pooler gives the session to others. What nobody waits for
        # any longer ends at the server, too, and a worker that is suspended locks nobody out.
        # The time comes with it, in one round trip.
        self._begin = (
            f"BEGIN; SET LOCAL statement_timeout = {timeout * 1000:.0f};"
            f" SET LOCAL idle_in_transaction_session_timeout = {timeout * 500:.0f};"
            f" SELECT {dialect.now}"
        )
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

    def overwrite_deleted(self) -> None:
        """Do nothing: the database says by itself what becomes of its old pages."""

    def perform(self, operation: Operation[_T], mode: Mode, client_now: float) -> _T:
        """Perform an operation, as `Connection.perform` says."""
        if mode in ("open", "migrate"):
            return self._perform_once(operation, client_now)
        pool, until, left = self._pool, self._until(), _TRIES
        while True:
            left -= 1
            try:
                with pool.connection(until) as connection:
                    return self._perform(connection, operation, mode, client_now)
            except psycopg.Error as error:
                problem = _problem(error)
                gave_up = isinstance(error, pgpool.GaveUpError)
                lost = isinstance(error, psycopg.OperationalError)
                lost = lost or error.sqlstate == _IDLE_TOO_LONG
            if lost:
                pool.clear()  # the database was restarted, perhaps, and each of them is stale
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
        if mode != "write":
            return performed(operation(client_now), execute, self._statements)
        begun = connection.execute(self._begin)
        while begun.nextset():
            pass
        (now,) = begun.fetchone() or (client_now,)
        done = performed(operation(now), execute, self._statements)
        connection.execute("COMMIT")
        return done

    def _perform_once(self, operation: Operation[_T], now: float) -> _T:
        # It says at once what is wrong; a pool tries again for a while.
        try:
            with (
                closing(pgpool.connect(self._url, self._until())) as connection,
                connection.transaction(),
            ):
                return performed(operation(now), connection.execute, self._statements)
        except psycopg.Error as error:
            problem = _problem(error)
        raise problem

    def _until(self) -> float:
        return time.monotonic() + self._timeout

    @contextmanager
    def reading(self) -> Iterator[Query]:
        """Give what yields the rows of a query."""
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
            problem = _problem(error)
        if problem is not None:
            raise problem


def _problem(error: Exception) -> StoreError:
    """Return the error without the statement's values, which may be secret."""
    state = getattr(error, "sqlstate", None)
    said = getattr(getattr(error, "diag", None), "message_primary", None)
    if state is None:
        said = " ".join(str(error).split()) or type(error).__name__
        return StoreError(
            f"The database cannot be reached: {said}.",
            hint="Nothing is lost: try again when it is back. If it is running, see whether it,"
            " or a pooler in front of it, is suspended.",
        )
    return StoreError(f"The database refuses: {said} (SQLSTATE {state}).", hint=_HINTS.get(state))


_HINTS: Final = {
    _IDLE_TOO_LONG: "This machine was suspended, or very slow. Nothing is lost: try again.",
    "25006": "It is read-only: name the primary server.",
    "28P01": "Check the user, and the password in ~/.pgpass or PGPASSWORD.",
    "3D000": "Create the database first: createdb",
    "57014": "It took too long: see what keeps it busy, or locked. Nothing that was kept is lost.",
    "42501": "Let its owner run deviceflow once, or grant the rights: GRANT CREATE ON DATABASE …;"
    " to read only, GRANT USAGE ON SCHEMA deviceflow and SELECT on the tables in it.",
    "53100": "Make room on the server's disk. Nothing that was kept is lost.",
}
