"""A store in PostgreSQL, for the tasks of one event loop (extra `postgres`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deviceflow.stores.sql.async_store import AsyncSQLStore

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deviceflow.core.secret import Secret


class AsyncPostgresStore(AsyncSQLStore):
    """A store in a PostgreSQL database, as `PostgresStore`, for the tasks of one event loop."""

    def __init__(
        self, url: str, *, keys: Iterable[Secret | str] | None = None, **options: Any
    ) -> None:
        raise NotImplementedError
