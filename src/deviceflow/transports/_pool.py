"""The connections of one event loop to one origin."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from deviceflow.transports._limits import IDLE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from deviceflow.transports._connection import Connection, Owner

_TURNS: Final = 16
"""The most turns of an event loop until it has closed a connection, with TLS within TLS."""


class Pool:
    """Keeps up to `limit` connections, and closes those that have been idle for a while.

    The connection that was used last is used first, so that connections beyond those that are
    needed become idle. Requests that find no connection wait in their order.

    Args:
        loop: The event loop.
        open_connection: Opens a connection, which the pool owns.
        limit: The most connections.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        open_connection: Callable[[Owner], Awaitable[Connection]],
        limit: int,
    ) -> None:
        self._loop = loop
        self._open_connection = open_connection
        self._limit = limit
        self._idle: list[Connection] = []
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._all: set[Connection] = set()
        self._opening = 0
        self._sweeping = self._closing = False

    def take(self) -> Connection | None:
        """Return an idle connection, or None if there is none."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable():
                return connection
            connection.abort()
        return None

    async def acquire(self) -> Connection:
        """Return a connection, once one is idle or may be opened.

        Raises:
            OSError: The connection cannot be opened.
            ValueError: The address is invalid.
        """
        connection = self.take()
        while connection is None:
            if len(self._all) + self._opening < self._limit:
                self._opening += 1
                return await self._open()
            connection = await self._turn()
            if connection is None:
                return await self._open()
            if not connection.usable():  # since it became free
                connection.abort()
                connection = None
        return connection

    async def _turn(self) -> Connection | None:
        """Wait for a connection, or for the permission to open one."""
        turn: asyncio.Future[Connection | None] = self._loop.create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                pass  # it is skipped once it is its turn
            elif (connection := turn.result()) is not None:
                self.free(connection)
            else:
                self._opening -= 1
                self._admit()
            raise

    async def _open(self) -> Connection:
        try:
            connection = await self._open_connection(self)
            self._all.add(connection)
        finally:
            self._opening -= 1
            self._admit()
        return connection

    def free(self, connection: Connection) -> None:
        """Keep a connection for the next request."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(connection)
                return
        if self._closing:
            connection.abort()
            return
        connection.idle_since = time.monotonic()
        self._idle.append(connection)
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(IDLE, self._sweep)

    def lost(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._admit()

    def _admit(self) -> None:
        """Let those who wait open connections, as far as there may be more."""
        while self._waiting and len(self._all) + self._opening < self._limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self._opening += 1
                turn.set_result(None)

    def _sweep(self) -> None:
        oldest = time.monotonic() - IDLE
        while self._idle and self._idle[0].idle_since <= oldest:
            self._idle.pop(0).abort()
        self._sweeping = bool(self._idle)
        if self._sweeping:
            wait = self._idle[0].idle_since - oldest
            self._loop.call_later(max(wait, IDLE / 4), self._sweep)

    async def close(self) -> None:
        """Close the idle connections at once, and each other one when its request is done."""
        self._closing = True
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.abort()
        for _ in range(_TURNS):
            if self._all.isdisjoint(idle):
                break
            await asyncio.sleep(0)
