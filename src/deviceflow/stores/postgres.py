"""Flows in PostgreSQL: for workers on many machines (extra `postgres`)."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from deviceflow.errors import StoreError, UsageError
from deviceflow.secret import Secret, wrapped
from deviceflow.stores import keys as key_files
from deviceflow.stores.sql import SQLStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from psycopg import Connection
    from psycopg_pool import ConnectionPool

    from deviceflow.stores.sql import Execute, Mode, Query

_T = TypeVar("_T")

_MIGRATION_LOCK: Final = 0x64665F6D  # any number that others do not use; df_m
_TRIES: Final = 3


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
        timeout: How many seconds to wait for a connection.

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
            import psycopg_pool  # noqa: PLC0415
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
        self._no_connection = psycopg_pool.PoolTimeout
        self._sql = {name: re.sub(r":(\w+)", r"%(\1)s", text) for name, text in self._sql.items()}
        self._timeout = timeout
        self._make_pool: Callable[[], ConnectionPool[Any]] = lambda: psycopg_pool.ConnectionPool(
            address.reveal(),
            min_size=0,
            max_size=pool_size,
            timeout=timeout,
            # Or it would try ever more seldom, and not notice soon that the database is back.
            reconnect_timeout=timeout,
            open=True,
            # Prepared statements do not go through a pooler that pools by transaction.
            kwargs={
                "autocommit": True,
                "prepare_threshold": None,
                "application_name": "deviceflow",
            },
        )
        self._url = address
        self._pool: ConnectionPool[Any] | None = None
        self._pid = os.getpid()
        given = keys = None if keys is None else wrapped(keys)
        self._start(
            lambda: key_files.sealer(
                given, plaintext=plaintext, known=self._sealing(), read_only=read_only
            ),
            read_only=read_only,
        )

    def __repr__(self) -> str:
        return "<PostgresStore>"

    def close(self) -> None:
        """Close all connections. They are opened again where they are needed again."""
        if self._pool is not None and self._pid == os.getpid():
            self._pool.close()
        self._pool = None

    def _migrate_if_needed(self) -> None:
        # By a connection of its own, which says what is wrong; a pool says only that time is up.
        problem = None
        try:
            with self._psycopg.connect(
                self._url.reveal(),
                connect_timeout=max(2, int(self._timeout)),
                prepare_threshold=None,
            ) as connection:
                do = self._on(connection)
                if not self._is_current(do):
                    connection.execute(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
                    connection.execute("CREATE SCHEMA IF NOT EXISTS deviceflow")
                    self._migrate(do, connection.execute)
        except self._psycopg.Error as error:
            problem = _problem(error)
        if problem:
            raise problem

    def _attempt(self, work: Callable[[Execute], _T], mode: Mode) -> _T:
        if self._pool is None or self._pid != os.getpid():
            # A pool that a fork inherited is its parent's.
            self._pool, self._pid = self._make_pool(), os.getpid()
        pool = self._pool
        left = _TRIES
        while True:
            left -= 1
            try:
                with pool.connection() as connection:
                    if mode == "write":
                        with connection.transaction():
                            return work(self._on(connection))
                    return work(self._on(connection))
            except self._psycopg.Error as error:
                problem = _problem(error)
                lost = isinstance(error, self._psycopg.OperationalError)
                waited = isinstance(error, self._no_connection)
            if waited or not (lost and left):
                raise problem
            # The database was restarted, perhaps, and every connection is stale.
            pool.check()

    @contextmanager
    def reading(self) -> Iterator[Query]:
        problem = None
        try:
            with self._psycopg.connect(self._url.reveal(), prepare_threshold=None) as connection:
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")

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
            hint="Nothing is lost: try again when it is back.",
        )
    return StoreError(f"The database refuses: {said} (SQLSTATE {state}).", hint=_HINTS.get(state))


_HINTS: Final = {
    "25006": "It is read-only: name the primary server.",
    "28P01": "Check the user, and the password in ~/.pgpass or PGPASSWORD.",
    "3D000": "Create the database first: createdb",
    "42501": "Let its owner run deviceflow once, or grant the rights: GRANT CREATE ON DATABASE …;"
    " to read only, GRANT USAGE ON SCHEMA deviceflow and SELECT on the tables in it.",
    "53100": "Make room on the server's disk. Nothing that was kept is lost.",
}
