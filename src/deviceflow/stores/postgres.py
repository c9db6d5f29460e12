"""Flows in PostgreSQL: for workers on many machines (extra `postgres`)."""

from __future__ import annotations

import re
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from deviceflow import _forks as forks
from deviceflow.core.secret import Secret, wrapped
from deviceflow.credentials import keys as key_files
from deviceflow.errors import StoreError, UsageError
from deviceflow.stores.sql import SQLStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from psycopg import Connection

    from deviceflow.stores._pgpool import Pool
    from deviceflow.stores.sql import Execute, Mode, Query

_T = TypeVar("_T")

_MIGRATION_LOCK: Final = 0x64665F6D  # any number that others do not use; df_m
_TRIES: Final = 3
_IDLE_TOO_LONG: Final = "25P03"


class PostgresStore(SQLStore):
    """Keeps flows in a PostgreSQL database, and goes by its clock.

    Its tables are in the schema `deviceflow`, which is made if the user may make it. It can be
    used through a pooler, such as PgBouncer, that pools by transaction.

    Args:
        url: Where it is, as libpq has it. A password belongs in `~/.pgpass` or `PGPASSWORD`.
        keys: Fernet keys that seal its secrets, the first one, and open them, each; the same for
            all who use the database. Where none are given, those of `DEVICEFLOW_KEYS`.
        plaintext: Keep secrets in clear instead.
        read_only: Write nothing. The user needs to be able to read the tables only. No key is
            needed; without one no secret can be read, and no row's MAC checked.
        pool_size: How many connections to have at the most.
        timeout: How many seconds one call may take, all in all, before it fails with `StoreError`;
            it may be some seconds more where a connection has to be opened. The server ends what
            takes longer, too.
        reading_timeout: How many seconds to wait for each answer while a trail is read as a whole.

    Raises:
        UsageError: The address cannot be read.
        StoreError: The database cannot be used; the error says why.
        SealError: There is no key, or it is not the one of this database.
        ImportError: A library is missing (extra `postgres`).
    """

    def __init__(
        self,
        url: str,
        *,
        keys: Iterable[Secret | str] | None = None,
        plaintext: bool = False,
        read_only: bool = False,
        pool_size: int = 8,
        timeout: float = 10.0,
        reading_timeout: float = 120.0,
    ) -> None:
        address = Secret(url)
        del url
        super().__init__(
            now="CAST(extract(epoch FROM clock_timestamp()) AS double precision)",
            has_meta="SELECT 1 WHERE to_regclass('deviceflow.meta') IS NOT NULL",
            skip_locked="FOR UPDATE SKIP LOCKED",
            namespace="deviceflow.",
            bytewise='COLLATE "C" ',
        )
        try:
            import psycopg  # noqa: PLC0415  # an extra

            from deviceflow.stores import _pgpool as pgpool  # noqa: PLC0415
        except ImportError:
            raise ImportError(
                "PostgreSQL needs libraries: pip install 'deviceflow[postgres]'"
            ) from None
        try:
            psycopg.conninfo.conninfo_to_dict(address.reveal())
        except psycopg.ProgrammingError:
            problem = True  # libpq quotes all of it, and it may have a password in it
        else:
            problem = False
        if problem:
            raise UsageError(
                "The address of the database cannot be read.",
                hint="It is like postgresql://user@host:5432/name; what is special in it as %XX.",
            )
        self._psycopg = psycopg
        self._sql = {name: re.sub(r":(\w+)", r"%(\1)s", text) for name, text in self._sql.items()}
        self._url = address
        self._timeout = timeout
        self._reading_timeout = reading_timeout
        # For this transaction only: a pooler gives the session to others. What nobody waits for
        # any longer ends at the server, too, and a worker that is suspended locks nobody out.
        self._begin = (
            f"BEGIN; SET LOCAL statement_timeout = {timeout * 1000:.0f};"
            f" SET LOCAL idle_in_transaction_session_timeout = {timeout * 500:.0f}"
        )
        self._connect = pgpool.connect
        self._gave_up = pgpool.GaveUpError
        self._make_pool: Callable[[], Pool] = lambda: pgpool.Pool(address, pool_size)
        self._pool = self._make_pool()
        forks.in_child(self._leave_pool)
        passed = keys = None if keys is None else wrapped(keys)
        self._start(
            lambda: key_files.sealer(
                passed, plaintext=plaintext, known=self._sealing(), read_only=read_only
            ),
            read_only=read_only,
        )

    def __repr__(self) -> str:
        return "<PostgresStore>"

    def close(self) -> None:
        """Close all connections. They are opened again where they are needed again."""
        self._pool.close()
        self._pool = self._make_pool()

    def _leave_pool(self) -> None:
        forks.abandon(self._pool)
        self._pool = self._make_pool()

    def _migrate_if_needed(self) -> None:
        # It says at once what is wrong; a pool tries again for a while.
        problem = None
        try:
            with closing(self._connect(self._url, self._until())) as connection:
                do = self._on(connection)
                if not self._is_current(do):
                    with connection.transaction():
                        connection.execute(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
                        connection.execute("CREATE SCHEMA IF NOT EXISTS deviceflow")
                        self._migrate(do, connection.execute)
        except self._psycopg.Error as error:
            problem = _problem(error)
        if problem:
            raise problem

    def _until(self) -> float:
        return time.monotonic() + self._timeout

    def _attempt(self, work: Callable[[Execute], _T], mode: Mode) -> _T:
        pool, until, left = self._pool, self._until(), _TRIES
        while True:
            left -= 1
            try:
                with pool.connection(until) as connection:
                    if mode != "write":
                        return work(self._on(connection))
                    connection.execute(self._begin)
                    done = work(self._on(connection))
                    connection.execute("COMMIT")
                    return done
            except self._psycopg.Error as error:
                problem = _problem(error)
                gave_up = isinstance(error, self._gave_up)
                lost = isinstance(error, self._psycopg.OperationalError)
                lost = lost or error.sqlstate == _IDLE_TOO_LONG
            if lost:
                pool.clear()  # the database was restarted, perhaps, and each of them is stale
            if gave_up or not (lost and left):
                raise problem

    @contextmanager
    def reading(self) -> Iterator[Query]:
        problem = None
        try:
            with closing(self._connect(self._url, self._until())) as connection:
                connection.least = self._reading_timeout
                connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")

                def rows(name: str, values: Mapping[str, Any] | None = None) -> Iterator[Any]:
                    with connection.cursor(name) as cursor:
                        cursor.itersize = 5000
                        yield from cursor.execute(self._sql[name], values)

                yield rows
        except self._psycopg.Error as error:
            problem = _problem(error)
        if problem is not None:
            raise problem

    def _on(self, connection: Connection[Any]) -> Execute:
        def do(name: str, values: Mapping[str, Any]) -> Any:
            return connection.execute(self._sql[name], values)

        return do


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
