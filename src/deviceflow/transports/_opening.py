"""Open connections: directly or through a proxy, with TLS or without."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final

from deviceflow.transports._connection import Connection
from deviceflow.transports._limits import MAX_HEAD

if TYPE_CHECKING:
    from deviceflow.transports._connection import Owner
    from deviceflow.transports._settings import Origin, Proxy, Way

_OPENED: Final = re.compile(rb"HTTP/1\.[01] 2\d\d[ \r]")


async def open_connection(origin: Origin, way: Way, owner: Owner) -> Connection:
    """Return a new connection.

    Args:
        origin: The origin to connect to.
        way: How it is reached.
        owner: Who keeps the connection.

    Raises:
        OSError: The connection cannot be opened.
        ValueError: The address is invalid.
    """
    loop = asyncio.get_running_loop()
    first = way.proxy.origin if way.proxy else origin
    outer = way.tls if first.scheme == "https" else None
    if way.proxy is None or origin.scheme == "http":
        _, connection = await loop.create_connection(
            lambda: Connection(loop, owner), first.host, first.port, ssl=outer
        )
        return connection
    transport, tunnel = await loop.create_connection(
        lambda: _Tunnel(loop), first.host, first.port, ssl=outer
    )
    try:
        await tunnel.open(origin, way.proxy)
        connection = Connection(loop, owner)
        assert way.tls is not None  # noqa: S101  # an https origin
        secured = await loop.start_tls(transport, connection, way.tls, server_hostname=origin.host)
        connection.connection_made(secured)
    except BaseException:
        transport.abort()
        raise
    return connection


class _Tunnel(asyncio.Protocol):
    """Asks a proxy for a way through (RFC 9110 section 9.3.6)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._opened: asyncio.Future[None] = loop.create_future()
        self._said = b""

    async def open(self, origin: Origin, proxy: Proxy) -> None:
        name = f"[{origin.host}]" if ":" in origin.host else origin.host
        there = f"{name}:{origin.port}"
        lines = [f"CONNECT {there} HTTP/1.1", f"Host: {there}"]
        lines += [f"{name}: {value}" for name, value in proxy.headers.items()]
        self._transport.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        await self._opened

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._opened.done():
            return
        self._said += data
        head, end, rest = self._said.partition(b"\r\n\r\n")
        if end and not rest and _OPENED.match(head):
            self._opened.set_result(None)
        elif end or len(self._said) > MAX_HEAD:
            self._opened.set_exception(ConnectionError("The proxy refused the connection."))

    def connection_lost(self, _error: Exception | None) -> None:
        if not self._opened.done():
            self._opened.set_exception(ConnectionError("The proxy closed the connection."))
