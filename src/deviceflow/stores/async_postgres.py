"""A store in PostgreSQL, for the tasks of one event loop (extra `postgres`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deviceflow.core.secret import Secret, wrapped
from deviceflow.credentials import keys as key_files
from deviceflow.stores._option import option_of
from deviceflow.stores._postgres_dialect import check
from deviceflow.stores.sql.store import AsyncSQLStore

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deviceflow.audit.mode import TrailMode


class AsyncPostgresStore(AsyncSQLStore):
    """A store in a PostgreSQL database, as `PostgresStore`, for the tasks of one event loop.

    Each task uses a connection of its own, out of a pool.

    Args:
        url: As for `PostgresStore`, like the rest.
        keys: As for `PostgresStore`.
        plaintext: As for `PostgresStore`.
        read_only: As for `PostgresStore`.
        pool_size: As for `PostgresStore`.
        timeout: As for `PostgresStore`.
        reading_timeout: As for `PostgresStore`.
        trail: As for `SQLiteStore`.

    Raises:
        UsageError: The URL is invalid.
        StoreError: As for `PostgresStore`, when the store is first used.
        SealError: Likewise.
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
        trail: TrailMode | None = None,
    ) -> None:
        address = Secret(url)
        del url
        passed = keys = None if keys is None else wrapped(keys)
        self._option = option_of(address)
        check(address)
        from deviceflow.stores._postgres_tasks import PostgresTasks  # noqa: PLC0415  # an extra

        super().__init__(
            PostgresTasks(
                address,
                pool_size=pool_size,
                timeout=timeout,
                reading_timeout=reading_timeout,
            ),
            lambda sealed: key_files.sealer(
                passed, plaintext=plaintext, known=sealed, read_only=read_only
            ),
            read_only=read_only,
            trail=trail,
            name="AsyncPostgresStore",
        )
