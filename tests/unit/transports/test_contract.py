"""What holds for each transport, against servers on loopback that misbehave on purpose."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import re
import secrets
import socket
import struct
import sys
import threading
import time
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import pytest
import requests

from deviceflow import __version__
from deviceflow.core.wire import MAX_BODY, Request
from deviceflow.errors import UsageError
from tests.unit.transports.serving import (
    CANARY,
    ENDLESS,
    LATE,
    OK,
    SOON,
    answer,
    bomb,
    cause,
    failure,
    head,
    large,
    large_chunks,
    lines,
    one_large_chunk,
    pause_for,
    post,
    render,
    stopped,
    unused_port,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deviceflow.core.ports import Transport
    from tests.unit.transports.conftest import Make
    from tests.unit.transports.serving import Serve, Server, Tls


@pytest.mark.parametrize(
    ("start", "then"),
    [
        (b"", b""),
        (b"HTTP/1.1 200 ", b"O"),
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
    serve: Serve, transport: Transport, start: bytes, then: bytes
) -> None:
    server = serve(start, *[then] * 2000, pause=0.02)
    began = time.monotonic()
    result = transport.send(post(server.url), SOON)
    assert failure(result) == ("timeout", True)
    assert SOON <= time.monotonic() - began < LATE


def test_a_server_that_does_not_read_is_left_at_the_deadline(
    serve: Serve, transport: Transport
) -> None:
    left = threading.Event()  # a connection that the server ends first is no timeout

    def wait(*_: object) -> None:
        left.wait(2 * LATE)

    server = serve(answer=wait)
    began = time.monotonic()
    result = transport.send(post(server.url, bytes(50_000_000)), SOON)
    took = time.monotonic() - began
    left.set()
    assert failure(result) == ("timeout", True)
    assert took < LATE


def test_without_time_nothing_is_sent(serve: Serve, transport: Transport) -> None:
    server = serve(OK)
    assert failure(transport.send(post(server.url), 0.0)) == ("timeout", False)
    assert failure(transport.send(post(server.url), -1.0)) == ("timeout", False)
    assert server.connections == 0


@pytest.mark.skipif(sys.platform != "linux", reason="fills a backlog as Linux counts it")
def test_a_connection_that_does_not_come_about_is_given_up_at_the_deadline(
    transport: Transport,
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
def test_a_handshake_ends_at_the_deadline(serve: Serve, transport: Transport, hello: bytes) -> None:
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
def test_a_request_late_before_it_leaves_stays_unsent(serve: Serve, transport: Transport) -> None:
    server = serve(OK)
    named = server.host.replace("127.0.0.1", "localhost")
    assert failure(transport.send(post(f"http://{named}"), SOON)) == ("timeout", False)
    assert failure(transport.send(post(f"https://{named}"), SOON)) == ("timeout", False)
    assert server.seen == []


def test_each_request_has_its_own_deadline(serve: Serve, transport: Transport) -> None:
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
    serve: Serve, transport: Transport, bytes_sent: bytes
) -> None:
    server = serve(bytes_sent, keep=False)
    assert failure(transport.send(post(server.url), 5)) == ("connection", True)
    assert len(server.seen) == 1


def test_a_reset_is_a_failure(serve: Serve, transport: Transport) -> None:
    server = serve(answer=_reset)
    assert failure(transport.send(post(server.url), 5)) == ("connection", True)


def test_a_server_that_hangs_up_at_once_may_have_got_the_request(
    serve: Serve, transport: Transport
) -> None:
    server = serve(answer=lambda _, conn: conn.close())
    assert failure(transport.send(post(server.url), 5)) == ("connection", True)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_refused_connection_sent_nothing(transport: Transport, scheme: str) -> None:
    url = f"{scheme}://127.0.0.1:{unused_port()}/"
    result = transport.send(post(url), 5)
    assert failure(result) == ("connection", False)
    assert cause(result) == "connection_refused"


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 70, "a..b"])
def test_a_name_without_address_sent_nothing(transport: Transport, host: str) -> None:
    result = transport.send(post(f"http://{host}/"), 5)
    kind, sent = failure(result)
    if (kind, host) == ("connection", "nowhere.invalid"):  # the others are no names at all
        assert cause(result) == "name_unknown"
    assert kind in ("connection", "timeout")  # some resolvers are slow to say no
    assert not sent


def test_https_to_a_plain_port_sent_nothing(serve: Serve, transport: Transport) -> None:
    server = serve(answer=lambda _, conn: conn.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    result = transport.send(post(f"https://{server.host}/"), 5)
    assert failure(result) == ("connection", False)
    assert cause(result) == "no_tls"


def test_a_connection_closed_unannounced_is_not_used_again(
    serve: Serve, transport: Transport
) -> None:
    server = serve(OK, keep=False)
    for number in range(1, 4):
        assert answer(transport.send(post(server.url), 5)).body == b"{}"
        assert server.connections == number
        pause_for(0.1)


def test_a_request_is_never_sent_twice(serve: Serve, transport: Transport) -> None:
    def once(server: Server, conn: socket.socket) -> None:
        server.reads(conn)
        conn.sendall(OK)
        server.reads(conn)

    server = serve(answer=once)
    assert answer(transport.send(post(server.url), 5)).status == 200
    assert failure(transport.send(post(server.url), 5)) == ("connection", True)
    assert len(server.seen) == 2


@pytest.mark.parametrize("pieces", ENDLESS.values(), ids=ENDLESS)
def test_what_has_no_end_takes_no_memory(
    serve: Serve, transport: Transport, pieces: Callable[[], list[bytes]]
) -> None:
    server = serve(*pieces())
    tracemalloc.start()
    try:
        result = transport.send(post(server.url), 30)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert failure(result) in [("too_large", True), ("connection", True)]
    assert peak < 20 * MAX_BODY  # the headers of an answer have a limit of their own, 6.5 MB


@pytest.mark.parametrize("pieces", [large, large_chunks, one_large_chunk, bomb])
def test_a_large_body_is_dropped_and_takes_no_memory(
    serve: Serve, transport: Transport, pieces: Callable[[], list[bytes]]
) -> None:
    server = serve(*pieces())
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
    serve: Serve, transport: Transport, encoding: str
) -> None:
    body = gzip.compress(bomb()[1])
    server = serve(head(len(body), f"Content-Encoding: {encoding}"), body)
    assert failure(transport.send(post(server.url), 5)) == ("connection", True)


def test_the_connection_of_a_large_body_is_closed(serve: Serve, transport: Transport) -> None:
    server = serve(head(2 * MAX_BODY), bytes(2 * MAX_BODY))
    for number in range(1, 3):
        assert failure(transport.send(post(server.url), 5)) == ("too_large", True)
        assert server.connections == number


def test_the_largest_body_is_read(serve: Serve, transport: Transport) -> None:
    body = secrets.token_bytes(MAX_BODY)
    server = serve(head(MAX_BODY), body)
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
    serve: Serve, transport: Transport, encoding: str, body: bytes
) -> None:
    server = serve(head(len(body), f"Content-Encoding: {encoding}"), body)
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
    serve: Serve, transport: Transport, status: int, reason: str, body: bytes
) -> None:
    other = serve(OK)
    head = f"HTTP/1.1 {status} {reason}\r\nLocation: {other.url}\r\nX-Note: hi\r\n"
    server = serve(f"{head}Content-Length: {len(body)}\r\n\r\n".encode(), body)
    result = answer(transport.send(post(server.url), 5))
    assert (result.status, result.body) == (status, body)
    assert result.header("x-note") == "hi"
    assert len(server.seen) == 1
    assert other.connections == 0


def test_an_answer_without_content(serve: Serve, transport: Transport) -> None:
    server = serve(b"HTTP/1.1 204 No Content\r\n\r\n")
    for _ in range(2):
        result = answer(transport.send(post(server.url), 5))
        assert (result.status, result.body) == (204, b"")
    assert server.connections == 1


def test_what_comes_before_the_answer_is_not_taken_for_it(
    serve: Serve, transport: Transport
) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    server = serve(hints, b"HTTP/1.1 100 Continue\r\n\r\n", hints, OK, pause=0.05)
    for _ in range(2):
        assert answer(transport.send(post(server.url), 5)).status == 200
    assert server.connections == 1


def test_another_protocol_is_no_answer(serve: Serve, transport: Transport) -> None:
    server = serve(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n")
    for number in (1, 2):
        assert failure(transport.send(post(server.url), 5)) == ("connection", True)
        assert server.connections == number


def test_an_answer_in_chunks(serve: Serve, transport: Transport) -> None:
    chunks = b"2\r\n{}\r\n1;note=1\r\n \r\n0\r\nTrailer: x\r\n\r\n"
    server = serve(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunks)
    for _ in range(2):
        assert answer(transport.send(post(server.url), 5)).body == b"{} "
    assert server.connections == 1


def test_the_request_on_the_wire(serve: Serve, transport: Transport) -> None:
    server = serve(OK)
    headers = {"Accept": "application/json", "Content-type": "application/json"}
    for body in (b'{"code": "a"}', b'{"code": "abc"}', b""):
        transport.send(Request("token", server.url, headers, body), 5)
        seen = lines(server.seen[-1])
        assert re.fullmatch(rf"User-Agent: deviceflow/{__version__} [a-z-]+/[0-9.]+", seen.pop(2))
        assert seen == [
            "POST /token HTTP/1.1",
            f"Host: {server.host}",
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
    serve: Serve, transport: Transport, length: int
) -> None:
    server, body = serve(OK), b"x" * length

    answer(transport.send(post(server.url, body), 5))

    for seen in server.seen:
        head, _, sent = seen.partition(b"\r\n\r\n")
        assert f"Content-Length: {length}".encode() in head
        assert sent == body


def test_many_servers_are_asked_again(serve: Serve, transport: Transport) -> None:
    """More than there are pools of connections: those of the first are closed by then."""
    servers = [serve(OK, OK) for _ in range(12)]

    for server in servers * 2:
        answer(transport.send(post(server.url), 5))

    assert [len(server.seen) for server in servers] == [2] * 12


def test_the_address_is_kept_as_it_is(serve: Serve, transport: Transport) -> None:
    server = serve(OK)
    transport.send(post(f"http://{server.host}/a%2Fb/?x=1&y=%20#part"), 5)
    assert server.seen[0].startswith(b"POST /a%2Fb/?x=1&y=%20 HTTP/1.1\r\n")


@pytest.mark.parametrize("cookie", ["a=b", "a=b; expires=Wed, 09-Juk-2021 10:18:14 GMT"])
def test_cookies_are_not_kept(serve: Serve, transport: Transport, cookie: str) -> None:
    server = serve(head(2, f"Set-Cookie: {cookie}"), b"{}")
    for _ in range(2):
        assert answer(transport.send(post(server.url), 5)).header("Set-Cookie") == cookie
    assert not any("cookie" in line.lower() for line in lines(server.seen[1]))


def test_netrc_is_not_read(
    serve: Serve, transport: Transport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
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
    serve: Serve, transport: Transport, monkeypatch: pytest.MonkeyPatch
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
    serve: Serve, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, server = serve(OK), serve(OK)
    monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.host}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert answer(transport.send(post(server.url), 5)).status == 200
    assert (proxy.connections, len(server.seen)) == (0, 1)


def test_a_proxy_that_trickles_is_left_at_the_deadline(
    serve: Serve, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve(b"HTTP/1.1 200 ", *[b"O"] * 2000, pause=0.02)
    monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.host}")
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.host}")
    began = time.monotonic()
    assert failure(transport.send(post("http://a.test/"), SOON)) == ("timeout", True)
    assert failure(transport.send(post("https://a.test/"), SOON)) == ("timeout", False)
    assert time.monotonic() - began < 2 * LATE


def test_a_proxy_that_refuses_the_way_sent_nothing(
    serve: Serve, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve(b"HTTP/1.1 403 Forbidden\r\n\r\n", keep=False)
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.host}")
    assert failure(transport.send(post("https://a.test/"), 5)) == ("connection", False)
    assert proxy.seen[0].startswith(b"CONNECT a.test:443 ")


def test_a_proxy_that_is_not_there_sent_nothing(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{unused_port()}")
    for url in ("http://a.test/", "https://a.test/"):
        assert failure(transport.send(post(url), 5)) == ("connection", False)


@pytest.mark.parametrize("proxy", ["http://me:{}@:80", "http://me:{}@a:999999", "ftp://me:{}@a"])
def test_a_proxy_setting_that_means_nothing_is_the_callers_to_mend(
    transport: Transport, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.format(CANARY))
    error = stopped(transport, "https://a.test/", UsageError)
    assert "Check" in str(error)
    assert "HTTPS_PROXY" in str(error)
    assert CANARY not in render(error)


def test_a_ca_bundle_that_is_not_there_is_the_callers_to_mend(
    serve: Serve, transport: Transport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
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


def test_https(
    serve: Serve, transport: Transport, monkeypatch: pytest.MonkeyPatch, tls: Tls
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls.bundle)
    server = serve(OK, tls=tls.server)
    for _ in range(2):
        assert answer(transport.send(post(server.url), 5)).body == b"{}"
    assert server.connections == 1


def test_a_session_that_checks_no_certificates_makes_that_known(make: Make) -> None:
    careless = requests.Session()
    careless.verify = False

    assert make(careless).unverified
    assert not make(requests.Session()).unverified
    assert not make().unverified


def test_a_certificate_of_nobody_known_is_refused_before_anything_is_sent(
    serve: Serve, transport: Transport, tls: Tls
) -> None:
    server = serve(OK, tls=tls.server)
    assert failure(transport.send(post(server.url), 5)) == ("connection", False)
    assert server.seen == []


def test_a_name_in_the_subject_of_a_certificate_does_not_count(
    serve: Serve, transport: Transport, monkeypatch: pytest.MonkeyPatch, tls: Tls
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls.bundle)
    server = serve(OK, tls=tls.named_in_subject_only("localhost"))
    url = server.url.replace("127.0.0.1", "localhost")

    assert cause(transport.send(post(url), 5)) == "certificate"
    assert server.seen == []


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 ", head(999)], ids=["head", "body"])
def test_https_that_trickles_ends_at_the_deadline(
    serve: Serve,
    transport: Transport,
    monkeypatch: pytest.MonkeyPatch,
    tls: Tls,
    start: bytes,
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls.bundle)
    server = serve(start, *[b"O"] * 2000, pause=0.02, tls=tls.server)
    began = time.monotonic()
    assert failure(transport.send(post(server.url), 2 * SOON)) == ("timeout", True)
    assert time.monotonic() - began < LATE


def test_https_cut_short(
    serve: Serve, transport: Transport, monkeypatch: pytest.MonkeyPatch, tls: Tls
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls.bundle)
    server = serve(head(999), b"x", keep=False, tls=tls.server)
    assert failure(transport.send(post(server.url), 5)) == ("connection", True)


def test_https_through_a_proxy(
    serve: Serve, transport: Transport, monkeypatch: pytest.MonkeyPatch, tls: Tls
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


def test_the_settings_of_a_session_hold(serve: Serve, make: Make, tls: Tls) -> None:
    server, proxy = serve(OK, tls=tls.server), serve(OK)
    with requests.Session() as session:
        session.verify = tls.bundle
        session.headers.update({"X-Team": "a", "Accept": "text/html", "User-Agent": "mine"})
        session.headers["Connection"] = None  # type: ignore[assignment]  # requests' way to say no
        session.cookies.set("a", "b")
        session.auth = ("me", "secret")
        session.proxies = {"http": f"http://{proxy.host}"}
        transport = make(session)
        answer(transport.send(post(server.url, accept="application/json"), 5))
        answer(transport.send(post("http://a.test/"), 5))
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
    serve: Serve, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, server = serve(OK), serve(OK)
    monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.host}")
    with requests.Session() as session:
        session.trust_env = False
        transport = make(session)
        answer(transport.send(post(server.url), 5))
    assert (proxy.connections, len(server.seen)) == (0, 1)
