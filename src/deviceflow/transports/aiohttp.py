"""Send requests with aiohttp, for programs that use it anyway."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from deviceflow.core.wire import MAX_BODY, Response
from deviceflow.transports._limits import (
    CONNECTIONS,
    IDLE,
    MAX_LINE,
    TooLargeError,
    decoded,
    joined,
)
from deviceflow.transports._origins import Attempt, Origins
from deviceflow.transports._settings import Settings
from deviceflow.transports._sockets import look

try:
    import aiohttp
    from yarl import URL
except ModuleNotFoundError:
    raise ImportError("This transport needs a library: pip install aiohttp") from None

if TYPE_CHECKING:
    import asyncio

    import requests

    from deviceflow.core.wire import Failure, Request
    from deviceflow.transports._settings import Origin, Way

_SHORT: Final = 64 * 1024
"""The longest body in bytes that aiohttp sends in one piece."""


class AiohttpTransport:
    """Sends with aiohttp, using the proxies and certificates of a `requests.Session`.

    What `HttptoolsTransport` says of redirects, cookies, `.netrc` and settings holds here, too.
    After the deadline, a response that arrived while the process was suspended is not read.

    Args:
        session: The session to take `verify`, `cert`, `proxies`, `headers` and `trust_env` from.
            By default, the environment's settings are used. No request is sent with it.
        connections: The most connections per origin.
    """

    def __init__(
        self, session: requests.Session | None = None, *, connections: int = CONNECTIONS
    ) -> None:
        self._settings = Settings(session, f"aiohttp/{aiohttp.__version__}")
        self._connections = connections
        self._origins = Origins(self._settings, self._open, _close)

    @property
    def unverified(self) -> bool:
        """Whether certificates are not verified: the session's `verify` is false."""
        return self._settings.unverified

    async def send(self, request: Request, timeout: float) -> Response | Failure:  # noqa: ASYNC109
        """Send the request once, and return the response or failure.

        `HttptoolsTransport.send` describes the arguments and exceptions.
        """
        attempt = Attempt()
        exchange = self._exchange(request, attempt)
        return await attempt.result(exchange, timeout, (aiohttp.ClientError,))

    async def _exchange(self, request: Request, attempt: Attempt) -> Response:
        target = self._settings.target(request.url, request.headers, len(request.body))
        session, way = await self._origins.get(target.origin)
        headers, for_proxy = dict(target.headers), dict(way.proxy.headers if way.proxy else {})
        tunnelled = target.origin.scheme == "https"
        body = request.body
        while True:
            try:
                async with session.request(
                    request.method,
                    URL(target.url, encoded=True),
                    headers=headers if tunnelled else headers | for_proxy,
                    proxy_headers=for_proxy if tunnelled else None,
                    data=body if len(body) <= _SHORT else io.BytesIO(body),
                    allow_redirects=False,
                    trace_request_ctx=attempt,
                ) as response:
                    return await _read(response)
            except _UnusableError:  # nothing was sent, and this connection is closed
                continue

    async def close(self) -> None:
        """Close all connections. A later `send` opens new ones."""
        await self._origins.close()

    def _open(self, _origin: Origin, way: Way) -> _Part:
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_note)
        proxy = way.proxy
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._connections, keepalive_timeout=IDLE, ssl=way.tls or True
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            trace_configs=[trace],
            request_class=_Request,
            proxy=f"{proxy.origin.scheme}://{proxy.origin.authority}" if proxy else None,
        )
        return session, way


async def _read(response: aiohttp.ClientResponse) -> Response:
    if response.status < 200:
        response.close()
        raise ValueError("The server switched to another protocol.")
    read = bytearray()
    async for piece in response.content.iter_any():
        read += piece
        if len(read) > MAX_BODY:
            response.close()
            raise TooLargeError(f"The body is longer than {MAX_BODY} bytes.")
    got = joined(response.raw_headers)
    encoding = got.get("content-encoding", "")
    return Response(response.status, got, decoded(bytes(read), encoding))


class _UnusableError(aiohttp.ClientConnectionError):
    """The server has closed an idle connection, or has sent something that nobody asked for."""


_used: Final[WeakSet[Any]] = WeakSet()
"""The connections on which a request was sent."""


class _Request(aiohttp.ClientRequest):
    """A request that is not sent on a connection where a response is there already.

    aiohttp would take that for the response to this request.
    """

    async def send(self, conn: Any) -> aiohttp.ClientResponse:
        protocol = conn.protocol
        if protocol in _used and (protocol.should_close or _has_come(conn.transport)):
            raise _UnusableError
        _used.add(protocol)
        return await super().send(conn)


def _has_come(transport: asyncio.Transport | None) -> bool:
    return transport is None or bool(look(transport.get_extra_info("socket").fileno())())


_Part = tuple[aiohttp.ClientSession, "Way"]


async def _close(part: _Part) -> None:
    await part[0].close()


async def _note(_session: object, context: Any, _parameters: object) -> None:
    context.trace_request_ctx.sent = True
