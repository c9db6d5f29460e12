"""A store in PostgreSQL, for workers on several machines (extra `postgres`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deviceflow.core.secret import Secret, wrapped
from deviceflow.credentials import keys as key_files
from deviceflow.errors import UsageError
from deviceflow.stores.sql.statements import Dialect, Statements
from deviceflow.stores.sql.store import SQLStore

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deviceflow.stores._postgres import PostgresConnection

_MIGRATION_LOCK: Final = 0x64665F6D  # an arbitrary number, "df_m" in ASCII

DIALECT: Final = Dialect(
    placeholder="%s",
    now="CAST(extract(epoch FROM clock_timestamp()) AS double precision)",
    has_meta="SELECT 1 WHERE to_regclass('deviceflow.meta') IS NOT NULL",
    find="strpos",
    for_update="FOR UPDATE",
    skip_locked="FOR UPDATE SKIP LOCKED",
    namespace="deviceflow.",
    bytewise='COLLATE "C" ',
    before_migrating=(
        f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})",
        "CREATE SCHEMA IF NOT EXISTS deviceflow",
    ),
)


class PostgresStore(SQLStore):
    """A store in a PostgreSQL database. Its times are those of the database's clock.

    The tables are in the schema `deviceflow`, which is created if the user has the permission. The
    store works with a pooler in transaction mode, such as PgBouncer.

    Args:
        url: The URL, in libpq's format. Put a password into `~/.pgpass` or `PGPASSWORD`.
        keys: Fernet keys, the same for all users of the database. The first one seals secrets, all
            of them unseal. By default the keys in `DEVICEFLOW_KEYS`.
        plaintext: Do not seal secrets.
        read_only: Write nothing. Permission to read the tables is enough. A key is not needed, but
            without one no secret can be read and no MAC of a row checked.
        pool_size: The maximum number of connections.
        timeout: The timeout of one call in seconds, after which `StoreError` is raised. If a
            connection must be opened, it may take some seconds longer. The server ends statements
            after the same time.
        reading_timeout: The timeout of each response in seconds while a whole trail is read.

    Raises:
        UsageError: The URL is invalid.
        StoreError: The database cannot be used. The message says why.
        SealError: There is no key, or it is not the one of this store.
        ImportError: A library is missing (extra `postgres`).
    """

    _connection: PostgresConnection

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
        passed = keys = None if keys is None else wrapped(keys)
        try:
            import psycopg  # noqa: PLC0415  # an extra

            from deviceflow.stores import _postgres as connections  # noqa: PLC0415
        except ImportError:
            raise ImportError(
                "PostgreSQL needs libraries: pip install 'deviceflow[postgres]'"
            ) from None
        try:
            psycopg.conninfo.conninfo_to_dict(address.reveal())
        except psycopg.ProgrammingError:
            problem = True  # libpq's message quotes the URL, which may contain a password
        else:
            problem = False
        if problem:
            raise UsageError(
                "The URL of the database is invalid.",
                hint="Use postgresql://user@host:5432/name, with special characters as %XX.",
            )
        statements = Statements(DIALECT)
        super().__init__(
            connections.PostgresConnection(
                address,
                DIALECT,
                statements,
                pool_size=pool_size,
                timeout=timeout,
                reading_timeout=reading_timeout,
            ),
            DIALECT,
            statements,
            lambda sealed: key_files.sealer(
                passed, plaintext=plaintext, known=sealed, read_only=read_only
            ),
            read_only=read_only,
        )

    def __repr__(self) -> str:
        return "<PostgresStore>"
