"""Do work in transactions on a PostgreSQL database, for the tasks of one event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from deviceflow import _forks as forks
from deviceflow.stores._pgasync import AsyncPool
from deviceflow.stores._postgres import PostgresConnection
from deviceflow.stores._postgres_listener import Listener

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.stores.sql.connection import Mode, Work

_T = TypeVar("_T")


class PostgresTasks(PostgresConnection):
    """Does work in transactions on a PostgreSQL database, for the tasks of one event loop."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: Listener | None = None
        super().__init__(*args, **options)

    def _make_pool(self) -> AsyncPool:
        return AsyncPool(self._url, self._size)

    def _leave_pool(self) -> None:
        forks.abandon(self._listener)
        self._listener = None
        super()._leave_pool()

    async def run(self, work: Work[_T], mode: Mode, client_now: float) -> _T:
        """Do work in a transaction, as `Connection.run` says."""
        await self._enter_loop()
        return await super().run(work, mode, client_now)

    async def _enter_loop(self) -> None:
        """Leave what belongs to another loop, which is closed by now."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            await self.close()
            self._loop = loop

    async def look_for_change(self, on_change: Callable[[], None]) -> float:
        """Have the function called at each notification, or now where none would come."""
        await self._enter_loop()
        if self._listener is None:
            self._listener = Listener(self._url, self._timeout, self._send)
        return await self._listener.look(on_change)

    async def _send(self, payload: str) -> None:
        await self.run(lambda db: db.run("notify", {"payload": payload}), "read", 0.0)

    async def close(self) -> None:
        """Close all connections."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await super().close()
