"""Send requests in an event loop, with `httptools` to parse the responses (extra `async`).

This transport costs about a quarter of the CPU time of aiohttp. It speaks HTTP/1.1, directly or
through http and https proxies. For HTTP/2 or another kind of proxy, use another transport.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

from deviceflow import _forks as forks
from deviceflow.core.wire import Failure
from deviceflow.transports._cause import cause_of
from deviceflow.transports._limits import CONNECTIONS
from deviceflow.transports._origins import Origins
from deviceflow.transports._pool import Pool
from deviceflow.transports._settings import REMEMBERED, Settings

try:
    import httptools

    from deviceflow.transports._opening import Opening
except ImportError:
    raise ImportError("This transport needs a library: pip install 'deviceflow[async]'") from None

if TYPE_CHECKING:
    import requests

    from deviceflow.core.wire import Request, Response
    from deviceflow.transports._connection import Connection
    from deviceflow.transports._settings import Origin, Target, Way


class HttptoolsTransport:
    """Sends with asyncio, using the proxies and certificates of a `requests.Session`.

    Redirects are not followed. Cookies are neither stored nor sent, `.netrc` is not read, and the
    session's `auth`, `params`, hooks and adapters are not applied. The session's other settings and
    the environment (`HTTPS_PROXY`, `NO_PROXY`, `REQUESTS_CA_BUNDLE`, …) are read once for each
    origin, at the first request.

    A transport belongs to one event loop. A forked child opens connections of its own.

    Args:
        session: The session to take `verify`, `cert`, `proxies`, `headers` and `trust_env` from.
            By default, the environment's settings are used. No request is sent with it.
        connections: The most connections per origin.
    """

    def __init__(
        self, session: requests.Session | None = None, *, connections: int = CONNECTIONS
    ) -> None:
        self._settings = Settings(session, f"httptools/{httptools.__version__}")
        self._connections = connections
        self._origins = Origins(self._settings, self._open, self._drop)
        self._prepared: dict[_Key, _Prepared] = {}
        forks.in_child(self._forget)

    @property
    def unverified(self) -> bool:
        """Whether certificates are not verified: the session's `verify` is false."""
        return self._settings.unverified

    async def send(self, request: Request, timeout: float) -> Response | Failure:  # noqa: ASYNC109
        """Send the request once, and return the response, or the reason why there is none.

        Args:
            request: The request. `Content-Length` and `Accept-Encoding` are added.
            timeout: The deadline for the whole exchange, in seconds: for the name lookup, the wait
                for a connection, and everything after that.

        Returns:
            The response, whatever its status, or a `Failure`.

        Raises:
            UsageError: The settings for proxies or certificates are invalid. Nothing was sent.
            BaseException: An exception from outside, such as `CancelledError`; the connection is
                closed. Its traceback is removed, because the local variables in it hold secrets.
        """
        try:
            return await self._send(request, time.monotonic() + timeout)
        except BaseException as interruption:  # noqa: BLE001  # raised again without its frames
            interruption.__context__ = interruption.__cause__ = None
            raise interruption.with_traceback(None)  # noqa: B904  # from itself

    async def _send(self, request: Request, deadline: float) -> Response | Failure:
        headers, body = request.headers, request.body
        key = (request.method, request.url, tuple(headers.items()), len(body))
        prepared = self._prepared.get(key)
        connection = prepared.pool.take() if prepared else None
        if prepared is None or connection is None:
            ready = await self._ready(request, key, deadline)
            if isinstance(ready, Failure):
                return ready
            prepared, connection = ready
        if time.monotonic() >= deadline:
            prepared.pool.free(connection)
            return Failure("timeout", sent=False)
        answer = connection.exchange(prepared.head + body, deadline)
        try:
            return await answer
        finally:
            connection.abandon(answer)

    async def _ready(
        self, request: Request, key: _Key, deadline: float
    ) -> tuple[_Prepared, Connection] | Failure:
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                prepared = await self._prepare(request, key)
                return prepared, await prepared.pool.acquire()
        except (OSError, ValueError) as trouble:
            late = isinstance(trouble, TimeoutError) or time.monotonic() >= deadline
            if late:
                return Failure("timeout", sent=False)
            return Failure("connection", sent=False, cause=cause_of(trouble))

    async def _prepare(self, request: Request, key: _Key) -> _Prepared:
        target = self._settings.target(request.url, request.headers, len(request.body))
        pool, way = await self._origins.get(target.origin)
        if len(self._prepared) >= REMEMBERED:
            self._prepared.clear()
        prepared = self._prepared[key] = _Prepared(pool, _head(request.method, target, way))
        return prepared

    async def close(self) -> None:
        """Close all idle connections. A later `send` opens new ones."""
        self._forget()
        await self._origins.close()

    def _open(self, origin: Origin, way: Way) -> tuple[Pool, Way]:
        return Pool(asyncio.get_running_loop(), Opening(origin, way), self._connections), way

    async def _drop(self, part: tuple[Pool, Way]) -> None:
        self._forget()
        await part[0].close()

    def _forget(self) -> None:
        self._prepared.clear()


_Key = tuple[str, str, tuple[tuple[str, str], ...], int]


class _Prepared(NamedTuple):
    pool: Pool
    head: bytes


def _head(method: str, target: Target, way: Way) -> bytes:
    path, headers = target.path, dict(target.headers)
    if way.proxy and target.origin.scheme == "http":
        path = target.url
        headers |= way.proxy.headers
    lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")
