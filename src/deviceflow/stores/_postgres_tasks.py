"""Do work in transactions on a PostgreSQL database, for the tasks of one event loop."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

from deviceflow import _forks as forks
from deviceflow._blocking import complete
from deviceflow.stores._pgasync import AsyncPool
from deviceflow.stores._postgres import PostgresConnection
from deviceflow.stores._postgres_listener import Listener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from deviceflow.stores.sql.connection import Mode, Work

_T = TypeVar("_T")


class PostgresTasks(PostgresConnection):
    """Does work in transactions on a PostgreSQL database, for the tasks of one event loop."""

    _loop: asyncio.AbstractEventLoop | None = None
    _listener: Listener | None = None
    _turns: WeakValueDictionary[str, asyncio.Lock]  # of the loop

    def _make_pool(self) -> AsyncPool:
        return AsyncPool(self._url, self._size)

    def _leave_pool(self) -> None:
        forks.abandon(self._listener)
        self._listener, self._loop = None, None
        super()._leave_pool()

    @contextmanager
    def blocking(self) -> Iterator[PostgresConnection]:
        """Give a connection to the same database for another thread."""
        connection = PostgresConnection(
            self._url,
            pool_size=1,
            timeout=self._timeout,
            reading_timeout=self._reading_timeout,
        )
        try:
            yield connection
        finally:
            complete(connection.close())

    @asynccontextmanager
    async def in_turn(self, record_id: str) -> AsyncIterator[None]:
        """Let one task go on after the other.

        Else each would hold a connection while it waits for the lock of the row, and the one that
        has the lease would wait for a connection.
        """
        await self._enter_loop()
        turn = self._turns.setdefault(record_id, asyncio.Lock())
        async with turn:
            yield

    async def run(self, work: Work[_T], mode: Mode, client_now: float) -> _T:
        """Do work in a transaction, as `Connection.run` says."""
        await self._enter_loop()
        return await super().run(work, mode, client_now)

    async def _enter_loop(self) -> None:
        """Leave what belongs to another loop, which is closed by now."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            await self.close()
            self._loop, self._turns = loop, WeakValueDictionary()

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
