"""PostgreSQL's SQL, and the URL of a database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deviceflow.errors import UsageError
from deviceflow.stores.sql.statements import Dialect

if TYPE_CHECKING:
    from deviceflow.core.secret import Secret

_MIGRATION_LOCK: Final = 0x64665F6D  # an arbitrary number, "df_m" in ASCII

_NOW: Final = "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"

DIALECT: Final = Dialect(
    placeholder="%s",
    now=_NOW,
    steady=_NOW,
    clock="''",
    is_unicode="SELECT 1 WHERE current_setting('server_encoding') = 'UTF8'",
    has_meta="SELECT 1 WHERE to_regclass('deviceflow.meta') IS NOT NULL",
    find="strpos",
    for_update="FOR UPDATE",
    namespace="deviceflow.",
    bytewise='COLLATE "C" ',
    notifies=True,
    before_migrating=(
        f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})",
        "CREATE SCHEMA IF NOT EXISTS deviceflow",
    ),
)


def check(url: Secret) -> None:
    """Check the URL of a database.

    Raises:
        UsageError: The URL is invalid.
        ImportError: psycopg is missing (extra `postgres`).
    """
    try:
        import psycopg  # noqa: PLC0415  # an extra
    except ImportError:
        raise ImportError(
            "PostgreSQL needs libraries: pip install 'deviceflow[postgres]'"
        ) from None
    try:
        psycopg.conninfo.conninfo_to_dict(url.reveal())
    except psycopg.ProgrammingError:
        problem = True  # libpq's message quotes the URL, which may contain a password
    else:
        problem = False
    if problem:
        raise UsageError(
            "The URL of the database is invalid.",
            hint="Use postgresql://user@host:5432/name, with special characters as %XX.",
        )
