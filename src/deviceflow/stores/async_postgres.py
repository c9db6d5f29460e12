"""A store in PostgreSQL, for the tasks of one event loop (extra `postgres`)."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from deviceflow.core.secret import Secret, wrapped
from deviceflow.credentials import keys as key_files
from deviceflow.stores._option import option_of
from deviceflow.stores._postgres_dialect import DIALECT, check
from deviceflow.stores.sql.statements import Statements
from deviceflow.stores.sql.store import AsyncSQLStore

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deviceflow.audit.mode import TrailMode
    from deviceflow.core.flow import Flow
    from deviceflow.core.grant import Grant
    from deviceflow.core.ports import GrantLease


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

    works_in_callers_task = True

    async def commit_grant(
        self,
        grant: Grant,
        event: dict[str, Any],
        *,
        lease: GrantLease | None = None,
        release: str | None = None,
        flow: Flow | None = None,
        flow_event: dict[str, Any] | None = None,
    ) -> bool:
        commit = partial(super().commit_grant, grant, event, release=release, flow=flow)
        if lease is None:
            return await commit(flow_event=flow_event)
        # One at a time: each would hold a connection while it waits for the row's lock.
        turn = self._turns.setdefault((asyncio.get_running_loop(), grant.id), asyncio.Lock())
        async with turn:
            return await commit(lease=lease, flow_event=flow_event)

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
        self._turns: WeakValueDictionary[Any, asyncio.Lock] = WeakValueDictionary()
        passed = keys = None if keys is None else wrapped(keys)
        self._option = option_of(address)
        check(address)
        from deviceflow.stores._postgres_tasks import PostgresTasks  # noqa: PLC0415  # an extra

        statements = Statements(DIALECT)
        super().__init__(
            PostgresTasks(
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
            trail=trail,
            name="AsyncPostgresStore",
        )
