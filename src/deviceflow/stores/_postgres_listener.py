"""Listen to the notifications that others send where a flow may be due that was not.

A pooler in transaction mode accepts LISTEN, and passes no notification on. So a listener sends one
to itself by way of another connection. While none came through, changes are polled for.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING, Final

import psycopg

from deviceflow.stores import _pgasync as pgasync

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from deviceflow.core.secret import Secret

POLL: Final = 1.0
"""Seconds between two looks while no notification comes through."""

CHECK: Final = 30.0
"""Seconds after which a listener sends itself a notification again: its connection may be dead."""


class Listener:
    """A connection that notifications come by.

    Args:
        url: The URL of the database.
        timeout: The timeout of each response, in seconds.
        send: Sends a notification by another connection.
    """

    def __init__(self, url: Secret, timeout: float, send: Callable[[str], Awaitable[None]]) -> None:
        self._url = url
        self._timeout = timeout
        self._send = send
        self._connection: pgasync.BoundedAsyncConnection | None = None
        self._opening = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._socket = -1
        self._on_change: Callable[[], None] = lambda: None
        self._sent = ""
        self._sent_at = 0.0
        self._heard = False
        self._polled_at = 0.0
        self._closed = 0

    async def look(self, on_change: Callable[[], None]) -> float:
        """Have a function called at each notification, or now if none would come.

        Returns:
            After how many seconds to call this method again.
        """
        self._on_change = on_change
        async with self._opening:  # one for all tasks that wait
            if self._connection is None:
                try:
                    await self._listen()
                except psycopg.Error:
                    on_change()
                    return POLL
                on_change()  # what was sent until now went unheard
                if self._connection is None:
                    return POLL
        since = time.monotonic() - self._sent_at
        if self._heard and since < CHECK:
            return CHECK - since
        if self._heard or not self._sent:
            self._sent, self._sent_at, self._heard = secrets.token_hex(8), time.monotonic(), False
            await self._send(self._sent)
            return POLL
        if since > CHECK:
            self.close()
        polled = time.monotonic() - self._polled_at
        if polled < POLL:
            return POLL - polled
        self._polled_at = time.monotonic()
        on_change()
        return POLL

    async def _listen(self) -> None:
        closed = self._closed
        connection = await pgasync.connect(self._url, time.monotonic() + self._timeout)
        try:
            await connection.execute("LISTEN deviceflow")
        except BaseException:
            connection.pgconn.finish()
            raise
        if closed != self._closed:  # meanwhile
            connection.pgconn.finish()
            return
        self._loop = asyncio.get_running_loop()
        # libpq forgets the number of a socket whose connection was lost.
        self._socket = connection.pgconn.socket
        self._loop.add_reader(self._socket, self._read)
        self._connection, self._sent = connection, ""

    def _read(self) -> None:
        assert self._connection is not None  # noqa: S101  # it is what can be read from
        connection = self._connection.pgconn
        try:
            connection.consume_input()
            while (notification := connection.notifies()) is not None:
                if not notification.extra:
                    self._on_change()
                elif notification.extra.decode() == self._sent:
                    self._heard = True
        except psycopg.OperationalError:
            self.close()
            self._on_change()

    def close(self) -> None:
        """Close the connection; `look` opens another one."""
        self._closed += 1
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._socket)
        connection.pgconn.finish()
