"""Send requests with `requests`, within a hard deadline and a limit on the response's size.

A timeout of `requests` limits the wait for the next bytes only, so a server that sends one byte
now and then blocks a thread for ever. Here one deadline covers the whole exchange, from the first
connection attempt to the last byte of the body. `LimitedAdapter` enforces the deadline below
`requests`; it can also be mounted on any other `Session`.
"""

from __future__ import annotations

import functools
import http.client
import io
import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.exceptions import ChunkedEncodingError, ContentDecodingError
from requests.structures import CaseInsensitiveDict
from requests.utils import default_user_agent
from urllib3.connection import HTTPConnection
from urllib3.exceptions import ConnectTimeoutError

from deviceflow import _forks as forks
from deviceflow._version import __version__
from deviceflow.core.wire import MAX_BODY, Failure, Response
from deviceflow.transports._cause import cause_of
from deviceflow.transports._limits import GRACE, MAX_WIRE
from deviceflow.transports._settings import REMEMBERED, wrong

if TYPE_CHECKING:
    import socket

    from _typeshed import WriteableBuffer

    from deviceflow.core.wire import Request

# The most idle connections to keep per origin: one for each thread that polls there at once.
_CONNECTIONS: Final = 64
# Everything that a server or the network can cause. The errors of `requests` derive from OSError.
_TROUBLE: Final = (OSError, ValueError, http.client.HTTPException, urllib3.exceptions.HTTPError)


class RequestsTransport:
    """Sends with `requests`, using the proxies, certificates and adapters of a `Session`.

    Redirects are not followed. Cookies are neither stored nor sent, `.netrc` is not read, and the
    session's `auth`, `params` and hooks are not applied. The session's other settings and the
    environment (`HTTPS_PROXY`, `NO_PROXY`, `REQUESTS_CA_BUNDLE`, …) are read once for each origin,
    at the first request. Threads may share a transport, and so may a process and its forked
    children: each process opens connections of its own.

    Args:
        session: The session to take `verify`, `cert`, `proxies`, `headers`, `trust_env` and
            adapters from. The caller closes it. An adapter that is exactly `requests`' own
            `HTTPAdapter` is replaced by a `LimitedAdapter` without retries. Any other adapter
            stays, and keeps its retries. Unless it is a `LimitedAdapter`, the deadline limits each
            wait for bytes instead of the whole exchange, and every `Failure` counts as sent. An
            adapter that is not an `HTTPAdapter` must itself open new connections after a fork.
    """

    def __init__(self, session: requests.Session | None = None) -> None:
        if session is None:
            session = requests.Session()
            agent = f"deviceflow/{__version__} {default_user_agent()}"
            session.headers = CaseInsensitiveDict({"User-Agent": agent})
        self._session = session
        self._adapter = _CookielessAdapter(pool_maxsize=_CONNECTIONS)
        self._prepared = functools.lru_cache(REMEMBERED)(self._prepare)
        self._settings = functools.lru_cache(REMEMBERED)(self._merge_settings)
        forks.in_child(self._renew)

    def send(self, request: Request, timeout: float) -> Response | Failure:
        """Send the request once, and return the response, or the reason why there is none.

        The deadline does not limit three things, all before the request is sent: the name lookup
        by the system's resolver; the attempts to connect, and then the TLS handshake, each of which
        gets the whole time; and the steps of a TLS handshake inside a proxy's TLS, likewise. If the
        deadline has passed by then, the request is not sent.

        Args:
            request: The request. `Content-Length` and `Accept-Encoding` are added.
            timeout: The deadline for the whole exchange, in seconds.

        Returns:
            The response, whatever its status, or a `Failure`.

        Raises:
            UsageError: The settings for proxies or certificates are invalid. Nothing was sent.
            BaseException: An exception from outside, such as `KeyboardInterrupt` or one from a
                signal handler. Its traceback is removed, because the local variables in it hold
                secrets.
        """
        exchange = _Exchange(timeout, secret=request.purpose == "notify")
        try:
            return self._exchange(request, exchange)
        except _TROUBLE as trouble:
            if exchange.too_large or isinstance(trouble, BodyTooLargeError):
                return Failure("too_large", sent=exchange.sent)
            late = exchange.over() or _is_timeout(trouble)
            if late:
                return Failure("timeout", sent=exchange.sent)
            return Failure("connection", sent=exchange.sent, cause=cause_of(trouble))
        except BaseException as interruption:  # noqa: BLE001  # raised again without its frames
            interruption.__context__ = interruption.__cause__ = None
            raise interruption.with_traceback(None)  # noqa: B904  # from itself

    @property
    def unverified(self) -> bool:
        """Whether certificates are not verified: the session's `verify` is false."""
        return self._session.verify is False

    def close(self) -> None:
        """Close all idle connections. A later `send` opens new ones."""
        self._adapter.close()
        self._prepared.cache_clear()

    def _renew(self) -> None:
        self._prepared.cache_clear()
        for adapter in self._session.adapters.values():
            if isinstance(adapter, HTTPAdapter) and not isinstance(adapter, LimitedAdapter):
                _renew(adapter)

    def _exchange(self, request: Request, exchange: _Exchange) -> Response:
        target = self._prepared(request.method, request.url, tuple(request.headers.items()))
        prepared = requests.PreparedRequest()
        prepared.method, prepared.url = request.method, target.url
        prepared.headers = target.headers.copy()
        prepared.headers["Content-Length"] = str(len(request.body))
        prepared.body = request.body or None
        timeout: Any = exchange
        if not isinstance(target.adapter, LimitedAdapter):
            timeout = exchange.remaining()
            exchange.sent = True
        sent = target.adapter.send(prepared, stream=True, timeout=timeout, **target.settings)
        with sent as response:
            status, headers = response.status_code, response.headers
            if request.purpose == "notify":
                return Response(status, headers, b"")
            return Response(status, headers, read_limited(response).content)

    def _prepare(self, method: str, url: str, headers: tuple[tuple[str, str], ...]) -> _Prepared:
        model = requests.PreparedRequest()
        model.prepare_method(method)
        model.prepare_url(url, None)
        ours: Any = self._session.headers.items()  # as in requests, None removes a header
        model.headers = CaseInsensitiveDict((k, v) for k, v in ours if v is not None)
        model.headers.update(headers)
        model.headers["Accept-Encoding"] = "identity"
        url = str(model.url)
        adapter = self._session.get_adapter(url)
        if type(adapter) is HTTPAdapter:
            adapter = self._adapter
        settings = self._settings(urlsplit(url)._replace(path="/", query="", fragment="").geturl())
        if isinstance(adapter, LimitedAdapter):
            _check(adapter, model, **settings)
        return _Prepared(url, model.headers, adapter, settings)

    def _merge_settings(self, origin: str) -> dict[str, Any]:
        session = self._session
        settings = session.merge_environment_settings(
            origin, dict(session.proxies), None, session.verify, session.cert
        )
        return {name: settings[name] for name in ("verify", "cert", "proxies")}


class LimitedAdapter(HTTPAdapter):
    """An adapter whose timeout limits the whole exchange, including the body.

    It reads at most 2 MiB of a response on the wire, headers included. Mount it on any `Session`:
    `session.mount("https://", LimitedAdapter())`. The limit is the sum of a pair of timeouts. Each
    redirect that is followed counts as a new exchange. `RequestsTransport.send` lists what the
    deadline does not limit.
    """

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Create the pools for direct connections (called by `requests`)."""
        super().init_poolmanager(*args, **kwargs)
        _limit(self.poolmanager)
        forks.in_child(self._renew)

    def _renew(self) -> None:
        _renew(self)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """Return the pools for connections through a proxy (called by `requests`)."""
        manager = super().proxy_manager_for(*args, **kwargs)
        _limit(manager)
        return manager

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> requests.Response:
        """Send the request (called by `requests`)."""
        if isinstance(timeout, _Exchange):
            exchange, timeout = timeout, timeout.remaining()
        else:
            exchange = _Exchange(_whole(timeout))
        before, _current.exchange = _current.exchange, exchange
        try:
            return super().send(request, stream, timeout, *args, **kwargs)
        finally:
            _current.exchange = before


class _CookielessAdapter(LimitedAdapter):
    def build_response(self, req: Any, resp: Any) -> requests.Response:
        # Without cookies: `http.cookiejar` prints a traceback for cookies that it cannot parse.
        response = requests.Response()
        response.status_code, response.raw, response.request = resp.status, resp, req
        response.headers = CaseInsensitiveDict(resp.headers)
        return response


class BodyTooLargeError(requests.RequestException):
    """The body of a response is longer than `MAX_BODY`."""


def read_limited(response: requests.Response, *_: Any, **__: Any) -> requests.Response:
    """Read and decode the body into `response.content`, at most `MAX_BODY` bytes.

    It can also be a hook, `session.hooks["response"].append(read_limited)`. The session should
    then accept no encodings other than gzip and deflate.

    Raises:
        BodyTooLargeError: The body is longer. The connection is closed.
        requests.RequestException: The body is incomplete, too slow, or cannot be decoded.
    """
    encoding = response.headers.get("Content-Encoding", "").lower()
    if "," in encoding or encoding in ("br", "zstd"):  # one chunk can decode to any size
        response.close()
        raise ContentDecodingError(f"The content encoding {encoding[:40]!r} is not supported.")
    # urllib3 before 2.6 decodes a chunk as a whole, and gzip can expand a chunk a thousandfold.
    size = 1024 if encoding else 64 * 1024
    body = bytearray()
    for chunk in response.iter_content(size):
        body += chunk
        if len(body) > MAX_BODY:
            del body, chunk
            response.close()
            raise BodyTooLargeError(f"The body is longer than {MAX_BODY} bytes.")
    if getattr(response.raw, "length_remaining", None):  # urllib3 2 checks this, 1.26 does not
        del body
        raise ChunkedEncodingError("The body is incomplete.")
    response._content = bytes(body)  # noqa: SLF001  # `content` returns it
    return response


class _Prepared(NamedTuple):
    url: str
    headers: Any
    adapter: Any
    settings: dict[str, Any]


def _is_timeout(trouble: Exception) -> bool:
    if isinstance(trouble, requests.Timeout):
        return True
    reason = getattr(trouble, "reason", None)  # of urllib3's error for having tried often enough
    timeout = urllib3.exceptions.TimeoutError
    refused = urllib3.exceptions.NewConnectionError  # a timeout only by its ancestry
    return any(
        isinstance(one, timeout) and not isinstance(one, refused) for one in (trouble, reason)
    )


def _check(adapter: Any, request: Any, *, verify: Any, cert: Any, proxies: Any) -> None:
    """Check the settings for a request.

    Raises:
        UsageError: This machine's settings are wrong, as opposed to its network.
    """
    try:
        pool = adapter.get_connection_with_tls_context(request, verify, proxies, cert)
        adapter.cert_verify(pool, request.url, verify, cert)
    except (OSError, ValueError) as error:
        # Only `cert_verify` raises a plain OSError. Other errors may quote a proxy's password.
        why = f"{error}." if type(error) is OSError else "The proxy's URL is invalid."
        raise wrong(why) from None


class _Exchange:
    """One request in progress: its deadline, and whether any of its bytes may have been sent.

    Attributes:
        sent: Whether bytes of the request may have been sent.
        too_large: Whether the response is longer than the limit.
        secret: Whether the URL is a secret, so that urllib3 must not log it.
    """

    __slots__ = ("_ends", "_grace", "secret", "sent", "too_large")

    def __init__(self, seconds: float | None, *, secret: bool = False) -> None:
        self.secret = secret
        self._ends = None if seconds is None else time.monotonic() + seconds
        self._grace: float | None = None
        self.sent = self.too_large = False

    def takes_late(self) -> bool:
        """Return whether bytes that have already arrived may still be read after the deadline."""
        now = time.monotonic()
        if self._grace is None:
            self._grace = now + GRACE
        return now < self._grace

    def over(self) -> bool:
        return self._ends is not None and time.monotonic() >= self._ends

    def remaining(self) -> float | None:
        if self._ends is None:
            return None
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimeoutError("The deadline has passed.")
        return left


class _Current(threading.local):
    exchange = _Exchange(None)


# urllib3 passes no extra arguments to its connections, but they run in the caller's thread.
_current: Final = _Current()


def _may_be_logged(_: logging.LogRecord) -> bool:
    return not _current.exchange.secret


# Through a proxy, urllib3 sends, and logs the whole URL.
logging.getLogger("urllib3.connectionpool").addFilter(_may_be_logged)


class _LimitedReader(io.RawIOBase):
    def __init__(self, sock: socket.socket) -> None:
        self._exchange = _current.exchange
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._left = MAX_WIRE

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        read = self._read(buffer)
        self._left -= read or 0
        if self._left < 0:
            # Older releases of urllib3 read lines of any length between and after chunks.
            self._exchange.too_large = True
            raise BodyTooLargeError(f"The response is longer than {MAX_WIRE} bytes.")
        return read

    def _read(self, buffer: WriteableBuffer) -> int | None:
        try:
            self._sock.settimeout(self._exchange.remaining())
            return self._raw.readinto(buffer)
        except TimeoutError:
            # If the process was suspended, the response may have arrived in time.
            if not self._exchange.takes_late():
                raise
        self._sock.setblocking(False)
        try:
            return self._sock.recv_into(buffer)
        except OSError:
            raise TimeoutError("The deadline has passed.") from None

    def close(self) -> None:
        self._raw.close()
        super().close()


class _LimitedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        reader: Any = _LimitedReader(sock)
        super().__init__(reader, *args, **kwargs)

    def _read_status(self) -> tuple[str, int, str]:
        # `http.client` skips only 100, but RFC 9110 section 15.2 says to skip any 1xx. Otherwise
        # the response after a 103 would be read as the one to the connection's next request.
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                raise http.client.BadStatusLine(str(status))
            if not 101 < status < 200:
                return version, status, reason
            while self.fp.readline(MAX_WIRE).strip():
                pass

    def begin(self) -> None:
        super().begin()
        # urllib3 logs headers that it cannot parse, and they may contain a code or a token.
        self.msg.defects.clear()
        self.msg.set_payload("")


class _LimitedConnection(HTTPConnection):
    response_class = _LimitedResponse
    debuglevel = 0  # if a program sets it on HTTPConnection, requests are printed

    def connect(self) -> None:
        before = _current.exchange.sent
        self.timeout = self._left()
        try:
            super().connect()
        finally:
            # Bytes sent while connecting are a CONNECT request to a proxy.
            _current.exchange.sent = before

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        self.sock.settimeout(self._left())
        _current.exchange.sent = True
        super().send(data)

    def _left(self) -> float | None:
        try:
            return _current.exchange.remaining()
        except TimeoutError:
            if _current.exchange.sent:
                raise
            raise ConnectTimeoutError(
                self, "The deadline passed before anything was sent."
            ) from None


def _renew(adapter: HTTPAdapter) -> None:
    """Give an adapter new connections in a forked child, as unpickling does."""
    kind: Any = HTTPAdapter  # its stub has neither method
    inherited: Any = adapter
    forks.abandon(inherited.poolmanager, inherited.proxy_manager)
    kind.__setstate__(adapter, kind.__getstate__(adapter))


@functools.cache
def _limited(pool: Any) -> Any:
    """Return a subclass of the pool class whose connections are limited."""
    kind = pool.ConnectionCls
    if issubclass(kind, _LimitedConnection):
        return pool
    limited = type(f"Limited{kind.__name__}", (_LimitedConnection, kind), {})
    return type(f"Limited{pool.__name__}", (pool,), {"ConnectionCls": limited})


def _limit(manager: Any) -> None:
    pools = manager.pool_classes_by_scheme
    manager.pool_classes_by_scheme = {scheme: _limited(pool) for scheme, pool in pools.items()}


def _whole(timeout: Any) -> Any:
    if isinstance(timeout, urllib3.Timeout):
        return timeout.total
    if isinstance(timeout, tuple):
        return None if None in timeout else sum(timeout)
    return timeout
