"""A PostgreSQL database for asyncio: connections with a timeout for each response; see `_pgpool`.

psycopg's own pool is not used, for the reason that `_pgpool` is not it either: not each of its
waits could be limited.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from psycopg import AsyncConnection, Error, OperationalError, waiting

from deviceflow.stores._pgpool import GRACE, LOOK, GaveUpError, Idle, bounded, parameters
from deviceflow.stores.sql.connection import Result

if TYPE_CHECKING:
    from psycopg.abc import RV, PQGen

    from deviceflow.core.secret import Secret


class BoundedAsyncConnection(AsyncConnection[Any]):
    """A connection with a timeout for each response.

    Attributes:
        until: When to stop waiting, by `time.monotonic`.
        least: The shortest time to wait for a response, in seconds.
    """

    until = 0.0
    least = GRACE

    async def wait(
        self,
        gen: PQGen[RV],
        interval: float = LOOK,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109  # psycopg's own
    ) -> RV:
        """Wait for a response. psycopg calls this method for each wait.

        Raises:
            GaveUpError: No response came in time. The connection is closed.
        """
        seconds = max(self.until - time.monotonic(), self.least)
        try:
            waited = bounded(gen, seconds)
            return await waiting.wait_async(waited, self.pgconn.socket, interval=interval)
        except BaseException as problem:
            if isinstance(problem, GaveUpError) or not isinstance(problem, Error):
                self.pgconn.finish()
            raise

    def __del__(self, *_: object) -> None:
        """Suppress psycopg's warning about connections that are open at exit."""


async def connect(url: Secret, until: float) -> BoundedAsyncConnection:
    """Open a connection.

    Args:
        url: The URL, in libpq's format.
        until: When to stop waiting, by `time.monotonic`; also for the connection's responses.

    Raises:
        psycopg.OperationalError: The connection cannot be opened.
    """
    connection = await BoundedAsyncConnection.connect(url.reveal(), **parameters(url, until))
    connection.until = until
    return connection


class Session:
    """A connection of a pool."""

    def __init__(self, connection: BoundedAsyncConnection) -> None:
        self.connection = connection

    async def execute(self, text: str, values: tuple[Any, ...] | None) -> Result:
        """Run SQL, and return its result; of several statements, the result of the last one."""
        cursor = await self.connection.execute(text, values)
        while cursor.nextset():
            pass
        rows = [] if cursor.description is None else await cursor.fetchall()
        return Result(rows, cursor.rowcount)

    def close(self) -> None:
        """Close the connection."""
        self.connection.pgconn.finish()


class AsyncPool:
    """A pool of connections for the tasks of one event loop. Connections are opened when needed.

    Args:
        url: The URL, in libpq's format.
        size: The maximum number of connections.
    """

    def __init__(self, url: Secret, size: int) -> None:
        self._url = url
        self._free_slots = size
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._idle = Idle()

    async def take(self, until: float, *, patient: bool) -> Session:
        """Return a connection, as `Pool.take`."""
        await self._take_slot(until)
        try:
            session = self._idle.take()
            session = session or Session(await self._connect(until, patient=patient))
        except BaseException:
            self._put_slot()
            raise
        session.connection.until = until
        return session

    def put(self, session: Session) -> None:
        """Take a connection back."""
        self._idle.put(session)
        self._put_slot()

    def clear(self) -> None:
        """Close idle connections."""
        self._idle.clear()

    def close(self) -> None:
        """Close all connections. Those in use are closed when they are returned."""
        self._idle.close()

    async def _take_slot(self, until: float) -> None:
        if self._free_slots:
            self._free_slots -= 1
            return
        # Not by `asyncio.timeout`: it cancels the task, which may be one that cannot be cancelled.
        loop = asyncio.get_running_loop()
        slot = loop.create_future()
        self._waiting.append(slot)
        timer = loop.call_later(max(0.0, until - time.monotonic()), _give_up, slot)
        try:
            await slot
        except asyncio.CancelledError:
            if not slot.cancelled() and slot.exception() is None:
                self._put_slot()
            raise
        finally:
            timer.cancel()

    def _put_slot(self) -> None:
        while self._waiting:
            slot = self._waiting.popleft()
            if not slot.done():
                slot.set_result(None)
                return
        self._free_slots += 1

    async def _connect(self, until: float, *, patient: bool) -> BoundedAsyncConnection:
        pause = 0.05
        while True:
            try:
                return await connect(self._url, until)
            except OperationalError as failed:
                if not patient:
                    raise
                if time.monotonic() + pause > until:
                    raise GaveUpError(str(failed)) from None
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)


def _give_up(slot: asyncio.Future[None]) -> None:
    if not slot.done():
        slot.set_exception(GaveUpError("all connections of this process are in use"))
