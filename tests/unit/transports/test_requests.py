"""The transport, against servers on loopback that misbehave on purpose."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import itertools
import logging
import secrets
import signal
import socket
import ssl
import struct
import sys
import threading
import time
import traceback
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Protocol

import pytest
import requests
import trustme
import urllib3
from requests.adapters import HTTPAdapter
from rich.console import Console
from rich.traceback import Traceback

from deviceflow import __version__
from deviceflow.core.wire import MAX_BODY, Failure, Request, Response
from deviceflow.errors import UsageError
from deviceflow.transports.requests import (
    BodyTooLargeError,
    LimitedAdapter,
    RequestsTransport,
    read_limited,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SOON = 0.3
"""The deadline, in seconds, of requests that run into it."""

LATE = 20.0
"""What no such request takes on any machine: half of what the servers here trickle for."""


# Not `time.sleep`: a server's thread may outlive its test by a moment, and other tests patch that.
def pause_for(seconds: float) -> None:
    threading.Event().wait(seconds)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
CANARY = secrets.token_hex(8)


class Server:
    """Deals with each connection in a thread of its own."""

    def __init__(self, answer: Callable[[socket.socket], None], tls: ssl.SSLContext | None) -> None:
        self._answer, self._tls = answer, tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = f"{'https' if tls else 'http'}://{self.host}/token"
        self.connections = 0
        self.seen: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                conn, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn: socket.socket) -> None:
        conn.settimeout(10)
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError), conn, self._secured(conn) as peer:
            self._answer(peer)

    def _secured(self, conn: socket.socket) -> socket.socket:
        return self._tls.wrap_socket(conn, server_side=True) if self._tls else conn

    def reads(self, conn: socket.socket) -> bytes:
        """Read one request and keep it."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more(conn)
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in [*head.lower().split(b"\r\n"), b"content-length:0"]
            if line.startswith(b"content-length:")
        )
        while len(body) < length:
            body += self._more(conn)
        self.seen.append(head + b"\r\n\r\n" + body)
        return self.seen[-1]

    def _more(self, conn: socket.socket) -> bytes:
        data = conn.recv(65536)
        if not data:
            raise ConnectionResetError
        return data

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class Serve(Protocol):
    def __call__(
        self,
        *pieces: bytes,
        pause: float = ...,
        keep: bool = ...,
        answer: Callable[[Server, socket.socket], None] | None = ...,
        tls: ssl.SSLContext | None = ...,
    ) -> Server: ...


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server that answers each request with `pieces`, one every `pause` seconds.

    Then it closes the connection, unless it is to `keep` it.
    """
    servers: list[Server] = []

    def start(
        *pieces: bytes,
        pause: float = 0.0,
        keep: bool = True,
        answer: Callable[[Server, socket.socket], None] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> Server:
        def simple(conn: socket.socket) -> None:
            server.reads(conn)
            for piece in pieces:
                conn.sendall(piece)
                pause_for(pause)
            if keep:
                simple(conn)

        server = Server(lambda conn: answer(server, conn) if answer else simple(conn), tls)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.close()


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def transport() -> Iterator[RequestsTransport]:
    transport = RequestsTransport()
    yield transport
    transport.close()


def post(url: str, body: bytes = b"{}", **headers: str) -> Request:
    return Request("token", url, {k.replace("_", "-"): v for k, v in headers.items()}, body)


def failure(result: Response | Failure) -> tuple[str, bool]:
    assert isinstance(result, Failure), result
    return result.kind, result.sent


def answer(result: Response | Failure) -> Response:
    assert isinstance(result, Response), result
    return result


def lines(request: bytes) -> list[str]:
    return request.decode().split("\r\n")


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("start", "then"),
    [
        (b"", b""),
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 9999\r\n\r\n", b"\x1f"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
    ],
    ids=["silence", "status", "headers", "body", "chunks", "gzip", "continue", "endless"],
)
def test_a_server_that_trickles_does_not_outlive_the_deadline(
    serve: Serve, transport: RequestsTransport, start: bytes, then: bytes
) -> None:
    server = serve(start, *[then] * 2000, pause=0.02)
    began = time.monotonic()
    result = transport.send(post(server.url), SOON)
    assert failure(result) == ("timeout", True)
    assert SOON <= time.monotonic() - began < LATE


def test_a_server_that_does_not_read_is_left_at_the_deadline(
    serve: Serve, transport: RequestsTransport
) -> None:
    server = serve(answer=lambda _, conn: pause_for(1))
    began = time.monotonic()
    result = transport.send(post(server.url, bytes(50_000_000)), SOON)
    assert failure(result) == ("timeout", True)
    assert time.monotonic() - began < LATE


def test_without_time_nothing_is_sent(serve: Serve, transport: RequestsTransport) -> None:
    server = serve(OK)
    assert failure(transport.send(post(server.url), 0.0)) == ("timeout", False)
    assert failure(transport.send(post(server.url), -1.0)) == ("timeout", False)
    assert server.connections == 0


@pytest.mark.skipif(sys.platform != "linux", reason="fills a backlog as Linux counts it")
def test_a_connection_that_does_not_come_about_is_given_up_at_the_deadline(
    transport: RequestsTransport,
) -> None:
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            queued = stack.enter_context(socket.socket())
            queued.setblocking(False)
            queued.connect_ex(listener.getsockname())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        began = time.monotonic()
        assert failure(transport.send(post(url), SOON)) == ("timeout", False)
        assert time.monotonic() - began < LATE


@pytest.mark.parametrize("hello", [b"", b"\x16\x03\x03\x3f\xff"], ids=["silence", "trickle"])
def test_a_handshake_ends_at_the_deadline(
    serve: Serve, transport: RequestsTransport, hello: bytes
) -> None:
    def trickle(_server: Server, conn: socket.socket) -> None:
        conn.recv(1)
        for byte in itertools.islice(itertools.chain(hello, itertools.repeat(0)), 2000):
            conn.sendall(bytes([byte]) if hello else b"")
            pause_for(0.02)

    server = serve(answer=trickle)
    began = time.monotonic()
    result = transport.send(post(f"https://{server.host}/"), SOON)
    assert failure(result) == ("timeout", False)
    assert time.monotonic() - began < LATE


@pytest.fixture
def _slow_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo

    def slow(*args: Any, **kwargs: Any) -> Any:
        pause_for(2 * SOON)
        return resolve(*args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slow)


@pytest.mark.usefixtures("_slow_resolver")
def test_a_request_late_before_it_leaves_stays_unsent(
    serve: Serve, transport: RequestsTransport, limited: requests.Session
) -> None:
    server = serve(OK)
    assert failure(transport.send(post(server.url), SOON)) == ("timeout", False)
    assert failure(transport.send(post(f"https://{server.host}"), SOON)) == ("timeout", False)
    with pytest.raises(requests.ConnectTimeout):
        limited.post(server.url, timeout=SOON)
    assert server.seen == []


def test_each_request_has_its_own_deadline(serve: Serve, transport: RequestsTransport) -> None:
    server = serve(OK)
    for _ in range(3):
        assert answer(transport.send(post(server.url), SOON)).status == 200
        pause_for(SOON)
    assert server.connections == 1


def _reset(server: Server, conn: socket.socket) -> None:
    server.reads(conn)
    conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(
    "bytes_sent",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n{}\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\n{}",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/3.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
    ids=[
        "closed",
        "cut",
        "cut-chunks",
        "cut-chunk",
        "bad-chunk",
        "negative-chunk",
        "bad-gzip",
        "two-lengths",
        "other-protocol",
        "bad-status",
        "bad-version",
        "many-headers",
        "long-header",
    ],
)
def test_an_answer_that_cannot_be_read_is_a_failure(
    serve: Serve, transport: RequestsTransport, bytes_sent: bytes
) -> None:
    server = serve(bytes_sent, keep=False)
    assert failure(transport.send(post(server.url), 5)) == ("connection", True)
    assert len(server.seen) == 1


def test_a_reset_is_a_failure(serve: Serve, transport: RequestsTransport) -> None:
    server = serve(answer=_reset)
    assert failure(transport.send(post(server.url), 5)) == ("connection", True)


def test_a_server_that_hangs_up_at_once_may_have_got_the_request(
    serve: Serve, transport: RequestsTransport
) -> None:
    server = serve(answer=lambda _, conn: conn.close())
    assert failure(transport.send(post(server.url), 5)) == ("connection", True)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_refused_connection_sent_nothing(transport: RequestsTransport, scheme: str) -> None:
    url = f"{scheme}://127.0.0.1:{unused_port()}/"
    assert failure(transport.send(post(url), 5)) == ("connection", False)


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 70, "a..b"])
def test_a_name_without_address_sent_nothing(transport: RequestsTransport, host: str) -> None:
    kind, sent = failure(transport.send(post(f"http://{host}/"), 5))
    assert kind in ("connection", "timeout")  # some resolvers are slow to say no
    assert not sent


def test_https_to_a_plain_port_sent_nothing(serve: Serve, transport: RequestsTransport) -> None:
    server = serve(answer=lambda _, conn: conn.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    result = transport.send(post(f"https://{server.host}/"), 5)
    assert failure(result) == ("connection", False)


def test_a_connection_closed_unannounced_is_not_used_again(
    serve: Serve, transport: RequestsTransport
) -> None:
    server = serve(OK, keep=False)
    for number in range(1, 4):
        assert answer(transport.send(post(server.url), 5)).body == b"{}"
        assert server.connections == number
        pause_for(0.1)


def test_a_request_is_never_sent_twice(serve: Serve, transport: RequestsTransport) -> None:
    def once(server: Server, conn: socket.socket) -> None:
        server.reads(conn)
        conn.sendall(OK)
        server.reads(conn)

    server = serve(answer=once)
    assert answer(transport.send(post(server.url), 5)).status == 200
    assert failure(transport.send(post(server.url), 5)) == ("connection", True)
    assert len(server.seen) == 2


def _head(length: int, *headers: str) -> bytes:
    fields = [f"Content-Length: {length}", *headers]
    return "\r\n".join(["HTTP/1.1 200 OK", *fields, "", ""]).encode()


def _bomb() -> list[bytes]:
    body = gzip.compress(bytes(50_000_000))
    return [_head(len(body), "Content-Encoding: gzip"), body]


def _large() -> list[bytes]:
    return [_head(50_000_000), *[bytes(65536)] * 800]


def _large_chunks() -> list[bytes]:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return [head, *[b"10000\r\n" + bytes(65536) + b"\r\n"] * 800]


def _one_large_chunk() -> list[bytes]:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return [head, b"3000000\r\n", *[bytes(65536)] * 800]


_CHUNKED: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def _endless(start: bytes, then: bytes) -> Callable[[], list[bytes]]:
    return lambda: [start, *[then] * (50_000_000 // len(then))]


_ENDLESS: Final = {
    "chunk size": _endless(_CHUNKED, b"1" * 65536),
    "chunk size with zeros": _endless(_CHUNKED, b"0" * 65536),
    "chunk extension": _endless(_CHUNKED + b"1;a=", b"b" * 65536),
    "end of a chunk": _endless(_CHUNKED + b"1\r\nx", b"y" * 65536),
    "empty chunk sizes": _endless(_CHUNKED, b"\r\n" * 32768),
    "small chunks": _endless(_CHUNKED, b"1;%s\r\n \r\n" % (b"x" * 60_000)),
    "trailer": _endless(_CHUNKED + b"0\r\nX: ", b"y" * 65536),
    "trailers": _endless(_CHUNKED + b"0\r\n", b"X: y\r\n" * 10_000),
    "1xx": _endless(b"", b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" * 1000),
    "long 1xx": _endless(b"", b"HTTP/1.1 100 C\r\nX: %s\r\n\r\n" % (b"y" * 60_000)),
    "103": _endless(b"", b"HTTP/1.1 103 Hints\r\nX: y\r\n\r\n" * 1000),
    "headers": _endless(b"HTTP/1.1 200 OK\r\n", b"X: %s\r\n" % (b"y" * 60_000)),
}


@pytest.mark.parametrize("make", _ENDLESS.values(), ids=_ENDLESS)
def test_what_has_no_end_takes_no_memory(
    serve: Serve, transport: RequestsTransport, make: Callable[[], list[bytes]]
) -> None:
    server = serve(*make())
    tracemalloc.start()
    try:
        result = transport.send(post(server.url), 30)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert failure(result) in [("too_large", True), ("connection", True)]
    assert peak < 20 * MAX_BODY  # the headers of an answer have a limit of their own, 6.5 MB


@pytest.mark.parametrize("make", _ENDLESS.values(), ids=_ENDLESS)
def test_what_has_no_end_is_left_by_any_session(
    serve: Serve, limited: requests.Session, make: Callable[[], list[bytes]]
) -> None:
    with pytest.raises(requests.RequestException):
        limited.post(serve(*make()).url, timeout=30)


@pytest.mark.parametrize("make", [_large, _large_chunks, _one_large_chunk, _bomb])
def test_a_large_body_is_dropped_and_takes_no_memory(
    serve: Serve, transport: RequestsTransport, make: Callable[[], list[bytes]]
) -> None:
    server = serve(*make())
    tracemalloc.start()
    try:
        result = transport.send(post(server.url), 30)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert failure(result) == ("too_large", True)
    assert peak < 6 * MAX_BODY


@pytest.mark.parametrize("encoding", ["gzip, gzip", "BR", "zstd"])
def test_an_encoding_that_cannot_be_bounded_is_a_failure(
    serve: Serve, transport: RequestsTransport, encoding: str
) -> None:
    body = gzip.compress(gzip.compress(bytes(50_000_000)))
    server = serve(_head(len(body), f"Content-Encoding: {encoding}"), body)
    assert failure(transport.send(post(server.url), 5)) == ("connection", True)


def test_the_connection_of_a_large_body_is_closed(
    serve: Serve, transport: RequestsTransport
) -> None:
    server = serve(_head(2 * MAX_BODY), bytes(2 * MAX_BODY))
    for number in range(1, 3):
        assert failure(transport.send(post(server.url), 5)) == ("too_large", True)
        assert server.connections == number


def test_the_largest_body_is_read(serve: Serve, transport: RequestsTransport) -> None:
    body = secrets.token_bytes(MAX_BODY)
    server = serve(_head(MAX_BODY), body)
    assert answer(transport.send(post(server.url), 30)).body == body


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(b'{"a": 1}')),
        ("x-gzip", gzip.compress(b'{"a": 1}')),
        ("deflate", zlib.compress(b'{"a": 1}')),
        ("identity", b'{"a": 1}'),
    ],
    ids=["gzip", "x-gzip", "deflate", "identity"],
)
def test_an_encoding_not_asked_for_is_decoded(
    serve: Serve, transport: RequestsTransport, encoding: str, body: bytes
) -> None:
    server = serve(_head(len(body), f"Content-Encoding: {encoding}"), body)
    assert answer(transport.send(post(server.url), 5)).body == b'{"a": 1}'


@pytest.mark.parametrize(
    ("status", "reason", "body"),
    [
        (302, "Found", b"moved"),
        (307, "Temporary Redirect", b""),
        (400, "Bad Request", b'{"error": "authorization_pending"}'),
        (500, "Internal Server Error", b"<html>oops</html>"),
    ],
)
def test_whatever_the_status_the_answer_comes_back(
    serve: Serve, transport: RequestsTransport, status: int, reason: str, body: bytes
) -> None:
    other = serve(OK)
    head = f"HTTP/1.1 {status} {reason}\r\nLocation: {other.url}\r\nX-Note: hi\r\n"
    server = serve(f"{head}Content-Length: {len(body)}\r\n\r\n".encode(), body)
    result = answer(transport.send(post(server.url), 5))
    assert (result.status, result.body) == (status, body)
    assert result.header("x-note") == "hi"
    assert len(server.seen) == 1
    assert other.connections == 0


def test_an_answer_without_content(serve: Serve, transport: RequestsTransport) -> None:
    server = serve(b"HTTP/1.1 204 No Content\r\n\r\n")
    for _ in range(2):
        result = answer(transport.send(post(server.url), 5))
        assert (result.status, result.body) == (204, b"")
    assert server.connections == 1


def test_what_comes_before_the_answer_is_not_taken_for_it(
    serve: Serve, transport: RequestsTransport
) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    server = serve(hints, b"HTTP/1.1 100 Continue\r\n\r\n", hints, OK, pause=0.05)
    for _ in range(2):
        assert answer(transport.send(post(server.url), 5)).status == 200
    assert server.connections == 1


def test_another_protocol_is_no_answer(serve: Serve, transport: RequestsTransport) -> None:
    server = serve(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n")
    for number in (1, 2):
        assert failure(transport.send(post(server.url), 5)) == ("connection", True)
        assert server.connections == number


def test_an_answer_in_chunks(serve: Serve, transport: RequestsTransport) -> None:
    chunks = b"2\r\n{}\r\n1;note=1\r\n \r\n0\r\nTrailer: x\r\n\r\n"
    server = serve(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunks)
    for _ in range(2):
        assert answer(transport.send(post(server.url), 5)).body == b"{} "
    assert server.connections == 1


def test_the_request_on_the_wire(serve: Serve, transport: RequestsTransport) -> None:
    server = serve(OK)
    headers = {"Accept": "application/json", "Content-type": "application/json"}
    for body in (b'{"code": "a"}', b'{"code": "abc"}', b""):
        transport.send(Request("token", server.url, headers, body), 5)
        assert lines(server.seen[-1]) == [
            "POST /token HTTP/1.1",
            f"Host: {server.host}",
            f"User-Agent: deviceflow/{__version__} python-requests/{requests.__version__}",
            "Accept: application/json",
            "Content-type: application/json",
            "Accept-Encoding: identity",
            f"Content-Length: {len(body)}",
            "",
            body.decode(),
        ]
    assert server.connections == 1


@pytest.mark.parametrize("length", [1, 64 * 1024, 64 * 1024 + 1, 300_000])
def test_a_body_of_any_length_arrives_behind_its_head(
    serve: Serve, transport: RequestsTransport, length: int
) -> None:
    server, body = serve(OK), b"x" * length

    answer(transport.send(post(server.url, body), 5))
    with requests.Session() as session:
        session.mount("http://", LimitedAdapter())
        session.post(server.url, data=body, timeout=5)

    for seen in server.seen:
        head, _, sent = seen.partition(b"\r\n\r\n")
        assert f"Content-Length: {length}".encode() in head
        assert sent == body


def test_a_short_request_leaves_in_one_piece(
    serve: Serve, transport: RequestsTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, pieces = serve(OK), list[int]()
    send = http.client.HTTPConnection.send

    def counting(connection: Any, data: Any) -> None:
        pieces.append(len(data))
        send(connection, data)

    monkeypatch.setattr(http.client.HTTPConnection, "send", counting)

    answer(transport.send(post(server.url), 5))

    assert pieces == [len(server.seen[0])]


def test_many_servers_are_asked_again(serve: Serve, transport: RequestsTransport) -> None:
    """More than there are pools of connections: those of the first are closed by then."""
    servers = [serve(OK, OK) for _ in range(12)]

    for server in servers * 2:
        answer(transport.send(post(server.url), 5))

    assert [len(server.seen) for server in servers] == [2] * 12


def test_the_address_is_kept_as_it_is(serve: Serve, transport: RequestsTransport) -> None:
    server = serve(OK)
    transport.send(post(f"http://{server.host}/a%2Fb/?x=1&y=%20#part"), 5)
    assert server.seen[0].startswith(b"POST /a%2Fb/?x=1&y=%20 HTTP/1.1\r\n")


def test_threads_get_their_own_answers(serve: Serve, transport: RequestsTransport) -> None:
    def echo(server: Server, conn: socket.socket) -> None:
        while True:
            body = server.reads(conn).partition(b"\r\n\r\n")[2]
            conn.sendall(_head(len(body)) + body)

    server = serve(answer=echo)

    def ask(body: bytes) -> bytes:
        return answer(transport.send(post(server.url, body), 30)).body

    bodies = [b"%d" % number * (number % 7 + 1) for number in range(400)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, bodies)) == bodies
    assert server.connections <= 8


@pytest.mark.parametrize("cookie", ["a=b", "a=b; expires=Wed, 09-Juk-2021 10:18:14 GMT"])
def test_cookies_are_not_kept(serve: Serve, transport: RequestsTransport, cookie: str) -> None:
    server = serve(_head(2, f"Set-Cookie: {cookie}"), b"{}")
    for _ in range(2):
        assert answer(transport.send(post(server.url), 5)).header("Set-Cookie") == cookie
    assert not any("cookie" in line.lower() for line in lines(server.seen[1]))


def test_netrc_is_not_read(
    serve: Serve, transport: RequestsTransport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = serve(OK)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    requests.post(server.url, timeout=5)
    transport.send(post(server.url), 5)
    theirs, ours = ("authorization" in seen.decode().lower() for seen in server.seen)
    assert theirs
    assert not ours


def test_the_proxy_is_looked_up_once(
    serve: Serve, transport: RequestsTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, server = serve(OK), serve(OK)
    monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@{proxy.host}")
    transport.send(post(server.url), 5)
    monkeypatch.delenv("HTTP_PROXY")
    transport.send(post(server.url, b"{} "), 5)
    transport.send(post(f"http://{server.host}/other"), 5)
    assert [lines(seen)[0] for seen in proxy.seen] == [
        f"POST {server.url} HTTP/1.1",
        f"POST {server.url} HTTP/1.1",
        f"POST http://{server.host}/other HTTP/1.1",
    ]
    assert "Proxy-Authorization: Basic bWU6c2VjcmV0" in lines(proxy.seen[0])
    assert server.connections == 0


def test_no_proxy_is_honoured(
    serve: Serve, transport: RequestsTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, server = serve(OK), serve(OK)
    monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.host}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert answer(transport.send(post(server.url), 5)).status == 200
    assert (proxy.connections, len(server.seen)) == (0, 1)


def test_a_proxy_that_trickles_is_left_at_the_deadline(
    serve: Serve, transport: RequestsTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve(*[b"H"] * 2000, pause=0.02)
    monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.host}")
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.host}")
    began = time.monotonic()
    assert failure(transport.send(post("http://a.test/"), SOON)) == ("timeout", True)
    assert failure(transport.send(post("https://a.test/"), SOON)) == ("timeout", False)
    assert time.monotonic() - began < 2 * LATE


def test_a_proxy_that_refuses_the_way_sent_nothing(
    serve: Serve, transport: RequestsTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve(b"HTTP/1.1 403 Forbidden\r\n\r\n", keep=False)
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.host}")
    assert failure(transport.send(post("https://a.test/"), 5)) == ("connection", False)
    assert proxy.seen[0].startswith(b"CONNECT a.test:443 ")


def test_a_proxy_that_is_not_there_sent_nothing(
    transport: RequestsTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{unused_port()}")
    for url in ("http://a.test/", "https://a.test/"):
        assert failure(transport.send(post(url), 5)) == ("connection", False)


@pytest.mark.parametrize("proxy", ["http://me:{}@:80", "http://me:{}@a:999999", "ftp://me:{}@a"])
def test_a_proxy_setting_that_means_nothing_is_the_callers_to_mend(
    transport: RequestsTransport, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.format(CANARY))
    error = _interrupted(transport, "https://a.test/", UsageError)
    assert "Check" in str(error)
    assert "HTTPS_PROXY" in str(error)
    assert CANARY not in render(error)


def test_a_ca_bundle_that_is_not_there_is_the_callers_to_mend(
    serve: Serve, transport: RequestsTransport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = serve(OK)
    missing = tmp_path / "missing.pem"
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(missing))
    with pytest.raises(UsageError, match=r"missing\.pem.*Check REQUESTS_CA_BUNDLE"):
        transport.send(post(f"https://{server.host}/"), 5)
    assert server.connections == 0
    assert answer(transport.send(post(server.url), 5)).status == 200
    missing.write_text("")
    assert failure(transport.send(post(f"https://{server.host}/"), 5)) == ("connection", False)


class _Tls:
    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.bundle = str(folder / "ca.pem")
        authority.cert_pem.write_to_path(self.bundle)
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(self.server)


@pytest.fixture
def tls(tmp_path: Path) -> _Tls:
    return _Tls(tmp_path)


def test_https(
    serve: Serve, transport: RequestsTransport, monkeypatch: pytest.MonkeyPatch, tls: _Tls
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls.bundle)
    server = serve(OK, tls=tls.server)
    for _ in range(2):
        assert answer(transport.send(post(server.url), 5)).body == b"{}"
    assert server.connections == 1


def test_a_session_that_checks_no_certificates_makes_that_known() -> None:
    careless = requests.Session()
    careless.verify = False

    assert RequestsTransport(careless).unverified
    assert not RequestsTransport(requests.Session()).unverified
    assert not RequestsTransport().unverified


def test_a_certificate_of_nobody_known_is_refused_before_anything_is_sent(
    serve: Serve, transport: RequestsTransport, tls: _Tls
) -> None:
    server = serve(OK, tls=tls.server)
    assert failure(transport.send(post(server.url), 5)) == ("connection", False)
    assert server.seen == []


@pytest.mark.parametrize("start", [b"", _head(999)], ids=["head", "body"])
def test_https_that_trickles_ends_at_the_deadline(
    serve: Serve,
    transport: RequestsTransport,
    monkeypatch: pytest.MonkeyPatch,
    tls: _Tls,
    start: bytes,
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls.bundle)
    server = serve(start, *[b"H"] * 2000, pause=0.02, tls=tls.server)
    began = time.monotonic()
    assert failure(transport.send(post(server.url), 2 * SOON)) == ("timeout", True)
    assert time.monotonic() - began < LATE


def test_https_cut_short(
    serve: Serve, transport: RequestsTransport, monkeypatch: pytest.MonkeyPatch, tls: _Tls
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls.bundle)
    server = serve(_head(999), b"x", keep=False, tls=tls.server)
    assert failure(transport.send(post(server.url), 5)) == ("connection", True)


def test_https_through_a_proxy(
    serve: Serve, transport: RequestsTransport, monkeypatch: pytest.MonkeyPatch, tls: _Tls
) -> None:
    def connect(proxy: Server, conn: socket.socket) -> None:
        proxy.reads(conn)
        conn.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with tls.server.wrap_socket(conn, server_side=True) as peer:
            proxy.reads(peer)
            peer.sendall(OK[:-1])

    proxy = serve(answer=connect)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls.bundle)
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.host}")
    result = transport.send(post("https://127.0.0.1:4443/token"), 5)
    assert failure(result) == ("connection", True)
    assert proxy.seen[0].startswith(b"CONNECT 127.0.0.1:4443 ")
    assert proxy.seen[1].startswith(b"POST /token ")


def test_the_settings_of_a_session_hold(serve: Serve, tls: _Tls) -> None:
    server, proxy = serve(OK, tls=tls.server), serve(OK)
    with requests.Session() as session:
        session.verify = tls.bundle
        session.headers.update({"X-Team": "a", "Accept": "text/html", "User-Agent": "mine"})
        session.headers["Connection"] = None  # type: ignore[assignment]  # requests' way to say no
        session.cookies.set("a", "b")
        session.auth = ("me", "secret")
        session.proxies = {"http": f"http://{proxy.host}"}
        transport = RequestsTransport(session)
        answer(transport.send(post(server.url, accept="application/json"), 5))
        answer(transport.send(post("http://a.test/"), 5))
        transport.close()
    assert sorted(lines(server.seen[0])[1:-2]) == [
        "Accept-Encoding: identity",
        "Content-Length: 2",
        f"Host: {server.host}",
        "User-Agent: mine",
        "X-Team: a",
        "accept: application/json",
    ]
    assert lines(proxy.seen[0])[0] == "POST http://a.test/ HTTP/1.1"


def test_a_session_may_distrust_the_environment(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, server = serve(OK), serve(OK)
    monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.host}")
    with requests.Session() as session:
        session.trust_env = False
        transport = RequestsTransport(session)
        answer(transport.send(post(server.url), 5))
        transport.close()
    assert (proxy.connections, len(server.seen)) == (0, 1)


class _Signing(HTTPAdapter):
    sent = 0

    def add_headers(self, request: requests.PreparedRequest, **kwargs: Any) -> None:
        self.sent += 1
        request.headers[f"X-Signature-{self.sent}"] = "sealed"


def test_an_adapter_of_ones_own_keeps_its_place(serve: Serve) -> None:
    server, other = serve(OK), serve(OK)
    with requests.Session() as session:
        session.mount(f"http://{server.host}/", _Signing())
        transport = RequestsTransport(session)
        for _ in range(2):
            answer(transport.send(post(server.url), 5))
        answer(transport.send(post(other.url), 5))
        url = f"http://127.0.0.1:{unused_port()}/"
        session.mount(url, _Signing())
        assert failure(transport.send(post(url), 5)) == ("connection", True)
        transport.close()
    assert "X-Signature-1: sealed" in lines(server.seen[0])
    assert "X-Signature-2: sealed" in lines(server.seen[1])
    assert "X-Signature-1: sealed" not in lines(server.seen[1])
    assert not any("Signature" in line for line in lines(other.seen[0]))


def test_what_was_sent_once_counts_as_sent_whatever_a_retry_met(serve: Serve) -> None:
    def vanish(server: Server, conn: socket.socket) -> None:
        server.reads(conn)
        server.close()

    server = serve(answer=vanish)
    with requests.Session() as session:
        retries = urllib3.Retry(total=2, read=2, allowed_methods=None)
        session.mount("http://", LimitedAdapter(max_retries=retries))
        transport = RequestsTransport(session)
        assert failure(transport.send(post(server.url), 5)) == ("connection", True)
        transport.close()


def test_closing_leaves_a_session_of_ones_own_open(serve: Serve) -> None:
    server = serve(OK)
    with requests.Session() as session:
        session.post(server.url, timeout=5)
        transport = RequestsTransport(session)
        transport.send(post(server.url), 5)
        transport.close()
        session.post(server.url, timeout=5)
        assert server.connections == 2
        assert answer(transport.send(post(server.url), 5)).status == 200
        assert server.connections == 3
        transport.close()


@pytest.fixture
def limited() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.mount("http://", LimitedAdapter())
        session.hooks["response"].append(read_limited)
        yield session


@pytest.mark.parametrize(
    "timeout",
    [SOON, (SOON / 2, SOON / 2), urllib3.Timeout(total=SOON)],
    ids=["one", "pair", "total"],
)
@pytest.mark.parametrize("start", [b"", _head(9999)], ids=["head", "body"])
def test_the_adapter_bounds_any_session(
    serve: Serve, limited: requests.Session, start: bytes, timeout: Any
) -> None:
    server = serve(start, *[b"H"] * 2000, pause=0.02)
    began = time.monotonic()
    with pytest.raises(requests.RequestException):
        limited.post(server.url, timeout=timeout)
    assert time.monotonic() - began < LATE


def test_any_session_with_the_adapter_works_as_ever(
    serve: Serve, limited: requests.Session
) -> None:
    end = serve(_head(8), b'{"a": 1}')
    moved = f"HTTP/1.1 307 Moved\r\nLocation: {end.url}\r\nSet-Cookie: a=b\r\n"
    server = serve(f"{moved}Content-Length: 2\r\n\r\n{{}}".encode())
    for timeout in (None, 5, (5, None)):
        result = limited.post(server.url, timeout=timeout)
        assert result.json() == {"a": 1}
        assert result.history[0].content == b"{}"
    assert limited.cookies["a"] == "b"
    assert (server.connections, end.connections) == (1, 1)


def test_the_hook_drops_a_large_body(serve: Serve, limited: requests.Session) -> None:
    server = serve(*_large())
    with pytest.raises(BodyTooLargeError):
        limited.post(server.url, timeout=30)


def render(error: BaseException) -> str:
    """Return all that a log could show of the error, with every local variable."""
    console = Console(width=200, record=True, quiet=True)
    trace = error.__traceback__
    console.print(Traceback.from_exception(type(error), error, trace, show_locals=True))
    plain = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(plain.format()) + console.export_text()


class _SoftTimeLimit(Exception):  # noqa: N818  # as Celery's, which a signal handler raises
    pass


# `ssl` leaves a socket whose handshake was interrupted to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed <ssl:ResourceWarning")
@pytest.mark.parametrize("expected", [KeyboardInterrupt, SystemExit, _SoftTimeLimit])
@pytest.mark.parametrize("when", ["connecting", "waiting", "headers", "body", "gzip"])
def test_an_interruption_shows_nothing_of_what_was_sent_or_read(
    serve: Serve,
    transport: RequestsTransport,
    expected: type[BaseException],
    when: str,
) -> None:
    begun = {
        "connecting": b"",
        "waiting": b"",
        "headers": b"HTTP/1.1 200 OK\r\nX-Note: " + CANARY.encode(),
        "body": _head(9999) + CANARY.encode(),
        "gzip": _head(9999, "Content-Encoding: gzip") + gzip.compress(CANARY.encode() * 99)[:40],
    }

    def interrupt(server: Server, conn: socket.socket) -> None:
        if when != "connecting":
            server.reads(conn)
        conn.sendall(begun[when])
        pause_for(0.1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        pause_for(1)

    def handler(*_: object) -> None:
        raise expected

    server = serve(answer=interrupt)
    url = f"https://{server.host}/" if when == "connecting" else server.url
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        error = _interrupted(transport, url, expected)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert CANARY not in render(error)
    frames = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
    assert frames == ["_interrupted", "send"]
    assert error.__context__ is None
    assert error.__cause__ is None


def _interrupted(
    transport: RequestsTransport, url: str, expected: type[BaseException]
) -> BaseException:
    request = post(url, CANARY.encode(), Authorization=CANARY)
    try:
        transport.send(request, 20)
    except expected as error:
        return error
    raise AssertionError


def test_a_send_after_an_interrupted_one_gets_its_own_answer(
    serve: Serve, transport: RequestsTransport
) -> None:
    def interrupt(server: Server, conn: socket.socket) -> None:
        if b"second" in server.reads(conn):
            conn.sendall(_head(6) + b"second")
        else:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            pause_for(0.2)
            conn.sendall(_head(5) + b"first")

    server = serve(answer=interrupt)
    with pytest.raises(KeyboardInterrupt):
        transport.send(post(server.url, b"first"), 20)
    assert answer(transport.send(post(server.url, b"second"), 5)).body == b"second"


def test_neither_logs_nor_debug_prints_show_a_body(
    serve: Serve,
    transport: RequestsTransport,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    caplog.set_level(logging.DEBUG)
    body = CANARY.encode()
    server = serve(_head(len(body)) + body)
    broken = serve(b"HTTP/1.1 200 OK\r\nno header\r\nContent-Length: 99\r\n\r\n" + body, keep=False)
    for url in (server.url, broken.url):
        transport.send(post(url, body, Authorization=CANARY), 5)
    assert f"POST {server.url}: 200" in caplog.text
    assert CANARY not in caplog.text
    assert CANARY not in "".join(capfd.readouterr())
