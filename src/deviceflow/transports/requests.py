"""How requests are sent: one at a time, within a hard deadline, and reading no more than is safe.

`requests` knows only how long to wait for the next bytes, so a server that sends one byte now and
then holds a thread for as long as it likes. Here one deadline covers an exchange from the first
address tried to the last byte read. It is enforced below `requests`, in `LimitedAdapter`, which
also serves on a `Session` of one's own.
"""

from __future__ import annotations

import functools
import http.client
import io
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
from deviceflow.errors import UsageError

if TYPE_CHECKING:
    import socket

    from _typeshed import WriteableBuffer

    from deviceflow.core.wire import Request

# Of each origin, as many idle connections are kept as threads poll there at once, up to this.
_CONNECTIONS: Final = 64
_REMEMBERED: Final = 128
_MAX_WIRE: Final = 2 * MAX_BODY
"""Bytes that an answer may take on the wire: its body, its head, and what frames them."""
_GRACE: Final = 0.5
"""Seconds after the deadline in which an answer is read on that has arrived already."""
# All that servers and networks bring about; the errors of `requests` are heirs of OSError.
_TROUBLE: Final = (OSError, ValueError, http.client.HTTPException, urllib3.exceptions.HTTPError)


class RequestsTransport:
    """Sends with `requests`: with the proxies, certificates and adapters of a `Session`.

    A redirect is returned as it is. No cookie is kept or sent, no `.netrc` read, and no `auth`,
    `params` or hook of the session applied. Its other settings and the environment
    (`HTTPS_PROXY`, `NO_PROXY`, `REQUESTS_CA_BUNDLE`, …) are read once for each origin, at the
    first request there. Threads may share a transport, and so may a process and its forked
    children: each process opens connections of its own.

    Args:
        session: Where to take `verify`, `cert`, `proxies`, `headers`, `trust_env` and adapters
            from; it stays the caller's to close. An adapter that is exactly `requests`' own
            `HTTPAdapter` gives way to a `LimitedAdapter` without retries. Any other keeps its
            place, and its retries. Unless it is a `LimitedAdapter` too, the deadline binds each
            wait for bytes there, not the whole, and every `Failure` counts as sent. An adapter
            that is no `HTTPAdapter` must see to it itself that a fork shares no connection.
    """

    def __init__(self, session: requests.Session | None = None) -> None:
        if session is None:
            session = requests.Session()
            agent = f"deviceflow/{__version__} {default_user_agent()}"
            session.headers = CaseInsensitiveDict({"User-Agent": agent})
        self._session = session
        self._adapter = _CookielessAdapter(pool_maxsize=_CONNECTIONS)
        self._prepared = functools.lru_cache(_REMEMBERED)(self._prepare)
        self._settings = functools.lru_cache(_REMEMBERED)(self._settle)
        forks.in_child(self._renew)

    def send(self, request: Request, timeout: float) -> Response | Failure:
        """Send the request once, and return the answer, or why there is none.

        The bound has gaps, all before anything is sent, and a request that is late by then stays
        unsent: the system's resolver takes its own time to look a name up; each address of that
        name gets the whole time; and so does each step of a TLS handshake inside a proxy's TLS.

        Args:
            request: What to send. `Content-Length` and `Accept-Encoding` are added.
            timeout: A hard bound for the whole exchange, in seconds.

        Returns:
            The answer, whatever its status, or a `Failure`.

        Raises:
            UsageError: The settings for proxies or certificates cannot be used. Nothing was sent.
            BaseException: What came from outside meanwhile, such as `KeyboardInterrupt` or what a
                signal handler raises; without the frames that it went through, since their local
                variables hold what is secret.
        """
        exchange = _Exchange(timeout)
        try:
            return self._exchange(request, exchange)
        except _TROUBLE as trouble:
            if exchange.too_large or isinstance(trouble, BodyTooLargeError):
                return Failure("too_large", sent=exchange.sent)
            late = exchange.over() or isinstance(trouble, requests.Timeout)
            return Failure("timeout" if late else "connection", sent=exchange.sent)
        except BaseException as interruption:  # noqa: BLE001  # it goes on, but bare
            interruption.__context__ = interruption.__cause__ = None
            raise interruption.with_traceback(None)  # noqa: B904  # from itself

    @property
    def unverified(self) -> bool:
        """Whether certificates are not checked: the session's `verify` is false."""
        return self._session.verify is False

    def close(self) -> None:
        """Close the connections that are kept. A later `send` opens new ones."""
        self._adapter.close()

    def _renew(self) -> None:
        for adapter in self._session.adapters.values():
            if isinstance(adapter, HTTPAdapter) and not isinstance(adapter, LimitedAdapter):
                _renew(adapter)

    def _exchange(self, request: Request, exchange: _Exchange) -> Response:
        to = self._prepared(request.url, tuple(request.headers.items()), len(request.body))
        prepared = requests.PreparedRequest()
        prepared.method, prepared.url, prepared.body = request.method, to.url, request.body or None
        timeout: Any = exchange
        if isinstance(to.adapter, LimitedAdapter):
            prepared.headers = to.headers
        else:
            prepared.headers, timeout = to.headers.copy(), exchange.remaining()
            exchange.sent = True
        with to.adapter.send(prepared, stream=True, timeout=timeout, **to.settings) as response:
            return Response(response.status_code, response.headers, read_limited(response).content)

    def _prepare(self, url: str, headers: tuple[tuple[str, str], ...], length: int) -> _Prepared:
        model = requests.PreparedRequest()
        model.prepare_url(url, None)
        ours: Any = self._session.headers.items()  # None, as ever, means: not this one
        model.headers = CaseInsensitiveDict((k, v) for k, v in ours if v is not None)
        model.headers.update(headers)
        model.headers.update({"Accept-Encoding": "identity", "Content-Length": str(length)})
        url = str(model.url)
        adapter = self._session.get_adapter(url)
        if type(adapter) is HTTPAdapter:
            adapter = self._adapter
        settings = self._settings(urlsplit(url)._replace(path="/", query="", fragment="").geturl())
        if isinstance(adapter, LimitedAdapter):
            _check(adapter, model, **settings)
        return _Prepared(url, model.headers, adapter, settings)

    def _settle(self, origin: str) -> dict[str, Any]:
        session = self._session
        settings = session.merge_environment_settings(
            origin, dict(session.proxies), None, session.verify, session.cert
        )
        return {name: settings[name] for name in ("verify", "cert", "proxies")}


class LimitedAdapter(HTTPAdapter):
    """An adapter whose timeout bounds the whole exchange, the reading of the body included.

    It reads no more than 2 MiB of an answer, head and body as they come over the wire. Mount it to
    have that on any `Session`: `session.mount("https://", LimitedAdapter())`. Of a pair of timeouts
    the sum is the bound; a redirect followed is an exchange of its own. What escapes the bound,
    `RequestsTransport.send` says.
    """

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools for direct connections (called by `requests`)."""
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
        # Without the cookies: `http.cookiejar` warns, with a traceback, of those it fails to read.
        response = requests.Response()
        response.status_code, response.raw, response.request = resp.status, resp, req
        response.headers = CaseInsensitiveDict(resp.headers)
        return response


class BodyTooLargeError(requests.RequestException):
    """The body of an answer is longer than `MAX_BODY`."""


def read_limited(response: requests.Response, *_: Any, **__: Any) -> requests.Response:
    """Read the body, decoded, into `response.content`: `MAX_BODY` bytes at the most.

    Also serves as a hook, `session.hooks["response"].append(read_limited)`; the session should
    then ask for no encoding but gzip and deflate.

    Raises:
        BodyTooLargeError: It is longer. The connection is closed.
        requests.RequestException: It came cut short or too slowly, or cannot be decoded.
    """
    encoding = response.headers.get("Content-Encoding", "").lower()
    if "," in encoding or encoding in ("br", "zstd"):  # of these, any amount may come of a slice
        response.close()
        raise ContentDecodingError("The body is encoded in a way that is not safe to undo.")
    # urllib3 before 2.6 decodes a slice whole, and with gzip a thousandfold may come of it.
    size = 1024 if encoding else 64 * 1024
    body = bytearray()
    for chunk in response.iter_content(size):
        body += chunk
        if len(body) > MAX_BODY:
            del body, chunk
            response.close()
            raise BodyTooLargeError(f"The body is longer than {MAX_BODY} bytes.")
    if getattr(response.raw, "length_remaining", None):  # which urllib3 2 checks, and 1.26 does not
        del body
        raise ChunkedEncodingError("The body was cut short.")
    response._content = bytes(body)  # noqa: SLF001  # where `content` looks first
    return response


class _Prepared(NamedTuple):
    url: str
    headers: Any
    adapter: Any
    settings: dict[str, Any]


def _check(adapter: Any, request: Any, *, verify: Any, cert: Any, proxies: Any) -> None:
    """Tell what is wrong with this machine's settings from what is wrong with the network."""
    try:
        pool = adapter.get_connection_with_tls_context(request, verify, proxies, cert)
        adapter.cert_verify(pool, request.url, verify, cert)
    except (OSError, ValueError) as error:
        # Only `cert_verify` raises a bare OSError. The others may quote a proxy's password.
        why = f"{error}." if type(error) is OSError else "The proxy's address cannot be used."
        names = "REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, HTTP_PROXY, HTTPS_PROXY and ALL_PROXY"
        raise UsageError(why, hint=f"Check {names}, or the session's settings.") from None


class _Exchange:
    """One request on its way: when its time is up, and whether bytes of it may have left.

    Attributes:
        sent: Whether bytes of the request may have left.
        too_large: Whether the answer took more bytes than one may.
    """

    __slots__ = ("_ends", "_grace", "sent", "too_large")

    def __init__(self, seconds: float | None) -> None:
        self._ends = None if seconds is None else time.monotonic() + seconds
        self._grace: float | None = None
        self.sent = self.too_large = False

    def takes_late(self) -> bool:
        """Tell whether bytes that are there already are taken; for no more than a moment."""
        now = time.monotonic()
        if self._grace is None:
            self._grace = now + _GRACE
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


# Nothing can be handed through urllib3 to its connections, but they run in the caller's thread.
_current: Final = _Current()


class _LimitedReader(io.RawIOBase):
    def __init__(self, sock: socket.socket) -> None:
        self._exchange = _current.exchange
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._left = _MAX_WIRE

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        read = self._read(buffer)
        self._left -= read or 0
        if self._left < 0:
            # Older releases of urllib3 read lines of any length between chunks and behind them.
            self._exchange.too_large = True
            raise BodyTooLargeError(f"The answer takes more than {_MAX_WIRE} bytes.")
        return read

    def _read(self, buffer: WriteableBuffer) -> int | None:
        try:
            self._sock.settimeout(self._exchange.remaining())
            return self._raw.readinto(buffer)
        except TimeoutError:
            # A process that was suspended meanwhile may find the answer waiting for it.
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
        # `http.client` passes over 100 only (RFC 9110 section 15.2 says: over any 1xx). The answer
        # that comes after a 103 would be read as that to the connection's next request.
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                raise http.client.BadStatusLine(str(status))
            if not 101 < status < 200:
                return version, status, reason
            while self.fp.readline(_MAX_WIRE).strip():
                pass

    def begin(self) -> None:
        super().begin()
        # urllib3 would log what could not be parsed, and a code or a token may be in it.
        self.msg.defects.clear()
        self.msg.set_payload("")


class _LimitedConnection(HTTPConnection):
    response_class = _LimitedResponse
    debuglevel = 0  # set to 1 on a class above, as many do, it prints what is sent

    def connect(self) -> None:
        before = _current.exchange.sent
        try:
            super().connect()
        finally:
            # What left meanwhile, if anything did, asked a proxy for a way.
            _current.exchange.sent = before

    def _new_conn(self) -> socket.socket:
        self.timeout = self._left()
        sock = super()._new_conn()
        try:
            sock.settimeout(self._left())
        except BaseException:
            sock.close()
            raise
        return sock

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
    """Give an adapter new connections in a forked child, as if it had been pickled for it."""
    kind: Any = HTTPAdapter  # whose stub lacks both
    inherited: Any = adapter
    forks.abandon(inherited.poolmanager, inherited.proxy_manager)
    kind.__setstate__(adapter, kind.__getstate__(adapter))


@functools.cache
def _limited(pool: Any) -> Any:
    """Return the class of pools that is like `pool`, but with limited connections in it."""
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
