"""Send requests with httpx, for programs that use it anyway.

httpx takes many times the CPU time of `HttptoolsTransport`, and opens a connection per request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from deviceflow.core.wire import MAX_BODY, Response
from deviceflow.transports._limits import CONNECTIONS, TooLargeError, decoded, joined
from deviceflow.transports._origins import Attempt, Origins
from deviceflow.transports._settings import Settings

try:
    import httpx
except ModuleNotFoundError:
    raise ImportError("This transport needs a library: pip install 'deviceflow[httpx]'") from None

if TYPE_CHECKING:
    from collections.abc import Callable

    import requests

    from deviceflow.core.wire import Failure, Request
    from deviceflow.transports._settings import Origin, Way

_VERSIONS: Final = (b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2")


class HttpxTransport:
    """Sends with httpx's low-level transports, which keep no cookies and follow no redirects.

    What `HttptoolsTransport` says of `.netrc` and settings holds here, too. After the deadline, a
    response that arrived while the process was suspended is not read.

    Args:
        session: The session to take `verify`, `cert`, `proxies`, `headers` and `trust_env` from.
            By default, the environment's settings are used. No request is sent with it.
        connections: The most connections per origin.
        transport: A transport of httpx to send all requests with, such as one for HTTP/2 or a mock.
            Its own settings for proxies, certificates and connections apply. The caller closes it.
    """

    def __init__(
        self,
        session: requests.Session | None = None,
        *,
        connections: int = CONNECTIONS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._settings = Settings(session, f"httpx/{httpx.__version__}")
        # After a response that nobody asked for, httpx would take that for the next one.
        self._limits = httpx.Limits(max_connections=connections, max_keepalive_connections=0)
        self._transport = transport
        self._origins = Origins(self._settings, self._open, httpx.AsyncBaseTransport.aclose)

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
        trouble = (httpx.TransportError, httpx.InvalidURL)
        return await attempt.result(exchange, timeout, trouble)

    async def _exchange(self, request: Request, attempt: Attempt) -> Response:
        target = self._settings.target(request.url, request.headers, len(request.body))
        transport = self._transport or await self._origins.get(target.origin)
        attempt.sent = self._transport is not None  # it need not report what it does
        sent = httpx.Request(
            request.method,
            target.url,
            headers=list(target.headers.items()),
            content=request.body,
            extensions={"trace": _noting(attempt)},
        )
        response = await transport.handle_async_request(sent)
        try:
            version = response.extensions.get("http_version", b"HTTP/1.1")
            if response.status_code < 200 or version not in _VERSIONS:
                raise ValueError("The server speaks another protocol.")
            body = bytearray()
            async for piece in response.stream:  # type: ignore[union-attr]  # it is async here
                body += piece
                if len(body) > MAX_BODY:
                    raise TooLargeError(f"The body is longer than {MAX_BODY} bytes.")
        finally:
            await response.aclose()
        headers = joined(response.headers.raw)
        encoding = headers.get("content-encoding", "")
        return Response(response.status_code, headers, decoded(bytes(body), encoding))

    async def close(self) -> None:
        """Close all connections. A later `send` opens new ones."""
        await self._origins.close()

    def _open(self, _origin: Origin, way: Way) -> httpx.AsyncBaseTransport:
        proxy = None
        if way.proxy:
            there = way.proxy.origin
            proxy = httpx.Proxy(
                f"{there.scheme}://{there.authority}",
                headers=dict(way.proxy.headers),
                ssl_context=way.tls if there.scheme == "https" else None,
            )
        return httpx.AsyncHTTPTransport(
            verify=way.tls or False, trust_env=False, limits=self._limits, proxy=proxy
        )


def _noting(attempt: Attempt) -> Callable[[str, Any], Any]:
    async def trace(event: str, details: Any) -> None:
        if event.endswith(".send_request_headers.started"):
            attempt.sent = attempt.sent or details["request"].method != b"CONNECT"

    return trace
