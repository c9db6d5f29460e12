"""Open connections: directly or through a proxy, with TLS or without."""

from __future__ import annotations

import asyncio
import re
import ssl
from typing import TYPE_CHECKING, Any, Final, TypeVar

from deviceflow.transports._connection import Connection
from deviceflow.transports._limits import MAX_HEAD
from deviceflow.transports._lookup import Lookup

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.transports._connection import Owner
    from deviceflow.transports._settings import Origin, Proxy, Way

_P = TypeVar("_P", bound=asyncio.Protocol)
_OPENED: Final = re.compile(rb"HTTP/1\.[01] 2\d\d[ \r]")


class Opening:
    """Opens connections to an origin.

    Args:
        origin: The origin.
        way: How it is reached.
    """

    def __init__(self, origin: Origin, way: Way) -> None:
        self._origin = origin
        self._way = way
        first = way.proxy.origin if way.proxy else origin
        self._outer = way.tls if first.scheme == "https" else None
        self._lookup = Lookup(first.host, first.port)

    async def __call__(self, owner: Owner) -> Connection:
        """Return a new connection.

        Args:
            owner: Who keeps the connection.

        Raises:
            OSError: The connection cannot be opened.
            ValueError: The address is invalid.
        """
        loop = asyncio.get_running_loop()
        origin, way = self._origin, self._way
        if way.proxy is None or origin.scheme == "http":
            _, connection = await self._connect(loop, lambda: Connection(loop, owner))
            return connection
        transport, tunnel = await self._connect(loop, lambda: _Tunnel(loop))
        try:
            await tunnel.open(origin, way.proxy)
            connection = Connection(loop, owner)
            assert way.tls is not None  # noqa: S101  # an https origin
            secured = await loop.start_tls(
                transport, connection, way.tls, server_hostname=origin.host
            )
            connection.connection_made(secured)
        except BaseException:
            transport.abort()
            raise
        return connection

    async def _connect(
        self, loop: asyncio.AbstractEventLoop, protocol: Callable[[], _P]
    ) -> tuple[Any, _P]:
        lookup, outer = self._lookup, self._outer
        name = lookup.host if outer else None
        *others, last = await lookup.addresses()
        for address in others:
            try:
                return await loop.create_connection(
                    protocol, address, lookup.port, ssl=outer, server_hostname=name
                )
            except ssl.SSLError:
                raise
            except OSError:
                continue
        return await loop.create_connection(
            protocol, last, lookup.port, ssl=outer, server_hostname=name
        )


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
