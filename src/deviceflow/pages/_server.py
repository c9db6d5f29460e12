"""A small HTTP/1.1 server for a few pages: each connection has one request, and all is bounded.

The requests are read by `httptools`, which runs llhttp, the parser of Node.js (extra `async`).
There is no TLS, no compression, no keep-alive and no chunked body. A proxy adds what is wanted of
these.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

try:
    import httptools
except ImportError:
    raise ImportError("Pages need a library: pip install 'deviceflow[async]'") from None

from deviceflow.pages._limits import network_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    Handler = Callable[["PageRequest"], Awaitable["Answer"]]

MOST_CONNECTIONS: Final = 100
"""How many connections there are at a time.

If there are more, the client with the most connections loses one: the new one, or the one that has
been sending its request for the longest time.
"""

LONGEST_HEAD: Final = 16 * 1024
MOST_HEADERS: Final = 100
LONGEST_BODY: Final = 4 * 1024
LONGEST_TARGET: Final = 2 * 1024

READ_TIMEOUT: Final = 10.0
"""Seconds in which a request must have arrived as a whole."""

ANSWER_TIMEOUT: Final = 60.0
"""Seconds that making an answer may take: a code is requested of another server in that time."""

WRITE_TIMEOUT: Final = 10.0
"""Seconds in which the answer must have been taken."""

_REASONS: Final = {
    200: "OK",
    303: "See Other",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    410: "Gone",
    413: "Content Too Large",
    414: "URI Too Long",
    421: "Misdirected Request",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
}


class PageRequest(NamedTuple):
    """A request that was read as a whole.

    Attributes:
        method: The method.
        target: The path and the query, as sent.
        headers: The header fields by their names in lower case.
        body: The body.
        peer: The address of whoever is connected: a client, or a proxy.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    peer: str = ""


class Answer(NamedTuple):
    """What a request is answered with."""

    status: int
    headers: Mapping[str, str] = {}
    body: bytes = b""


class PageServer:
    """Serves what a handler answers.

    Args:
        handle: Answers a request. What it raises is answered by the status 500.
        on_problem: Called with what the handler raised.
        read_timeout: Seconds in which a request must have arrived.
        connections: How many connections there are at a time.
    """

    def __init__(
        self,
        handle: Handler,
        *,
        on_problem: Callable[[Exception], object],
        read_timeout: float = READ_TIMEOUT,
        connections: int = MOST_CONNECTIONS,
    ) -> None:
        self._handle = handle
        self._on_problem = on_problem
        self._read_timeout = read_timeout
        self._most = connections
        self._connections: dict[_Connection, None] = {}  # the oldest first
        self._server: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> int:
        """Begin to serve, and return the port.

        Raises:
            OSError: The address cannot be used.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), host, port, backlog=128)
        where: Any = self._server.sockets[0].getsockname()
        return int(where[1])

    async def close(self) -> None:
        """Stop to serve: connections are closed, and answers that are being made are given up."""
        if self._server is not None:
            self._server.close()
        for connection in [*self._connections]:
            connection.abort()
        await asyncio.sleep(0)

    def _admit(self, new: _Connection) -> bool:
        """Add a connection, at the expense of a client with more of them if there is no room."""
        if len(self._connections) >= self._most:
            each = Counter(connection.network for connection in self._connections)
            others = [one for one in self._connections if one.is_reading]
            loser = max(others, key=lambda one: each[one.network], default=None)
            if loser is None or each[loser.network] <= each[new.network] + 1:
                return False
            loser.abort()
            del self._connections[loser]
        self._connections[new] = None
        return True


class _Refused(Exception):  # noqa: N818  # an answer, not a fault
    def __init__(self, status: int) -> None:
        self.status = status


class _Connection(asyncio.Protocol):
    """One connection: a request is read, answered, and that was it."""

    def __init__(self, server: PageServer) -> None:
        self._server = server
        self._parser: Any = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = b""
        self._received = self._size = 0
        self._headed = self._complete = False
        self._task: asyncio.Task[None] | None = None
        self._peer = self.network = ""
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_reading(self) -> bool:
        """Whether the request has not arrived yet."""
        return self._task is None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._peer = str((transport.get_extra_info("peername") or ("",))[0])
        self.network = network_of(self._peer)
        if not self._server._admit(self):
            transport.abort()
            return
        self._set_timer(self._server._read_timeout)

    def _set_timer(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.abort)

    def connection_lost(self, _problem: Exception | None) -> None:
        self._parser = None
        self._server._connections.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._task is not None or self._parser is None:
            return  # one request is all that is read
        self._received += len(data)
        try:
            self._feed(data)
        except _Refused as refused:
            self._begin(self._refuse(refused.status))
            return
        if self._complete:
            self._begin(self._answer())

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if isinstance(error.__context__, _Refused):
                raise error.__context__ from None
            if not self._complete:
                raise _Refused(400) from None
        if not self._headed and self._received > LONGEST_HEAD:
            raise _Refused(431)

    # What the parser calls.

    def on_url(self, piece: bytes) -> None:
        if self._complete:
            return
        self._target += piece
        if len(self._target) > LONGEST_TARGET:
            raise _Refused(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._headed:
            self._headers.append((name.lower(), value))
            self._size += len(name) + len(value)
            if self._size > LONGEST_HEAD or len(self._headers) > MOST_HEADERS:
                raise _Refused(431)

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        self._headed = True
        names = [name for name, _ in self._headers]
        if names.count(b"host") != 1 or b"transfer-encoding" in names:
            raise _Refused(400)
        length = dict(self._headers).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > LONGEST_BODY:
            raise _Refused(413)

    def on_body(self, piece: bytes) -> None:
        if not self._complete:
            self._body += piece

    def on_message_complete(self) -> None:
        if not self._complete:
            self._complete = True
            self._method = self._parser.get_method()

    # The answer.

    def _begin(self, answer: Awaitable[None]) -> None:
        self._transport.pause_reading()
        self._set_timer(ANSWER_TIMEOUT)
        self._task = asyncio.get_running_loop().create_task(_awaited(answer))

    async def _refuse(self, status: int) -> None:
        self._write(plain(status), with_body=True)

    async def _answer(self) -> None:
        try:
            target = self._target.decode("ascii")
            headers = {
                name.decode("ascii"): value.decode("latin-1") for name, value in self._headers
            }
            method = self._method.decode("ascii")
        except UnicodeDecodeError:
            await self._refuse(400)
            return
        try:
            request = PageRequest(method, target, headers, self._body, self._peer)
            answer = await self._server._handle(request)
        except Exception as problem:  # noqa: BLE001  # one request must not end the others
            self._server._on_problem(problem)
            answer = plain(500)
        self._write(answer, with_body=method != "HEAD")

    def _write(self, answer: Answer, *, with_body: bool) -> None:
        if self._transport.is_closing():
            return
        fields = {
            **answer.headers,
            "Content-Length": str(len(answer.body)),
            "Connection": "close",
        }
        lines = [f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        self._set_timer(WRITE_TIMEOUT)
        self._transport.write(head + (answer.body if with_body else b""))
        self._transport.close()


async def _awaited(answer: Awaitable[None]) -> None:
    await answer


def plain(status: int, **headers: str) -> Answer:
    """Return an answer in plain text, for programs."""
    fields = {
        "Content-Type": "text/plain; charset=utf-8",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        **headers,
    }
    return Answer(status, fields, f"{_REASONS[status]}\n".encode())
