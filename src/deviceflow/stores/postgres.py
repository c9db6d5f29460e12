"""Flows in PostgreSQL: for workers on many machines (extra `postgres`)."""

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

_MIGRATION_LOCK: Final = 0x64665F6D  # any number that others do not use; df_m

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
            problem = True  # libpq quotes all of it, and it may have a password in it
        else:
            problem = False
        if problem:
            raise UsageError(
                "The address of the database cannot be read.",
                hint="It is like postgresql://user@host:5432/name; what is special in it as %XX.",
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
