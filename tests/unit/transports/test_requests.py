"""What only the transport by `requests` has: threads, adapters, and sessions of one's own."""

from __future__ import annotations

import gzip
import http.client
import logging
import signal
import socket
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import requests
import urllib3
from requests.adapters import HTTPAdapter

from deviceflow.core.wire import Request
from deviceflow.transports.requests import (
    BodyTooLargeError,
    LimitedAdapter,
    RequestsTransport,
    read_limited,
)
from tests.unit.transports.serving import (
    CANARY,
    ENDLESS,
    LATE,
    OK,
    SOON,
    answer,
    failure,
    head,
    large,
    lines,
    pause_for,
    post,
    render,
    stopped,
    unused_port,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.unit.transports.serving import Serve, Server


@pytest.fixture
def transport() -> Iterator[RequestsTransport]:
    transport = RequestsTransport()
    yield transport
    transport.close()


@pytest.mark.parametrize("make", ENDLESS.values(), ids=ENDLESS)
def test_what_has_no_end_is_left_by_any_session(
    serve: Serve, limited: requests.Session, make: Callable[[], list[bytes]]
) -> None:
    with pytest.raises(requests.RequestException):
        limited.post(serve(*make()).url, timeout=30)


def test_threads_get_their_own_answers(serve: Serve, transport: RequestsTransport) -> None:
    def echo(server: Server, conn: socket.socket) -> None:
        while True:
            body = server.reads(conn).partition(b"\r\n\r\n")[2]
            conn.sendall(head(len(body)) + body)

    server = serve(answer=echo)

    def ask(body: bytes) -> bytes:
        return answer(transport.send(post(server.url, body), 30)).body

    bodies = [b"%d" % number * (number % 7 + 1) for number in range(400)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, bodies)) == bodies
    assert server.connections <= 8


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


def test_a_session_whose_request_is_late_before_it_leaves_stays_unsent(
    serve: Serve, limited: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = socket.getaddrinfo

    def slow(*args: Any, **kwargs: Any) -> Any:
        pause_for(2 * SOON)
        return resolve(*args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    server = serve(OK)
    with pytest.raises(requests.ConnectTimeout):
        limited.post(server.url, timeout=SOON)
    assert server.seen == []


def test_a_long_body_of_a_session_with_the_adapter_arrives(
    serve: Serve, limited: requests.Session
) -> None:
    server = serve(OK)
    limited.post(server.url, data=b"x" * 300_000, timeout=5)
    assert server.seen[0].endswith(b"\r\n\r\n" + b"x" * 300_000)


@pytest.mark.parametrize(
    "timeout",
    [SOON, (SOON / 2, SOON / 2), urllib3.Timeout(total=SOON)],
    ids=["one", "pair", "total"],
)
@pytest.mark.parametrize("start", [b"", head(9999)], ids=["head", "body"])
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
    end = serve(head(8), b'{"a": 1}')
    moved = f"HTTP/1.1 307 Moved\r\nLocation: {end.url}\r\nSet-Cookie: a=b\r\n"
    server = serve(f"{moved}Content-Length: 2\r\n\r\n{{}}".encode())
    for timeout in (None, 5, (5, None)):
        result = limited.post(server.url, timeout=timeout)
        assert result.json() == {"a": 1}
        assert result.history[0].content == b"{}"
    assert limited.cookies["a"] == "b"
    assert (server.connections, end.connections) == (1, 1)


def test_the_hook_drops_a_large_body(serve: Serve, limited: requests.Session) -> None:
    server = serve(*large())
    with pytest.raises(BodyTooLargeError):
        limited.post(server.url, timeout=30)


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
        "body": head(9999) + CANARY.encode(),
        "gzip": head(9999, "Content-Encoding: gzip") + gzip.compress(CANARY.encode() * 99)[:40],
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
        error = stopped(transport, url, expected)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert CANARY not in render(error)
    frames = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
    assert frames == ["stopped", "send"]
    assert error.__context__ is None
    assert error.__cause__ is None


def test_a_send_after_an_interrupted_one_gets_its_own_answer(
    serve: Serve, transport: RequestsTransport
) -> None:
    def interrupt(server: Server, conn: socket.socket) -> None:
        if b"second" in server.reads(conn):
            conn.sendall(head(6) + b"second")
        else:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            pause_for(0.2)
            conn.sendall(head(5) + b"first")

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
    server = serve(head(len(body)) + body)
    broken = serve(b"HTTP/1.1 200 OK\r\nno header\r\nContent-Length: 99\r\n\r\n" + body, keep=False)
    for url in (server.url, broken.url):
        transport.send(post(url, body, Authorization=CANARY), 5)
    assert '"POST /token HTTP/1.1" 200' in caplog.text
    assert CANARY not in caplog.text
    assert CANARY not in "".join(capfd.readouterr())


@pytest.mark.parametrize("proxied", [False, True])
def test_url_of_a_webhook_is_not_logged(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, proxied: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    server = serve(OK)
    if proxied:
        monkeypatch.setenv("HTTP_PROXY", f"http://{server.host}")
    url = "http://hooks.test" if proxied else f"http://{server.host}"
    transport = RequestsTransport()
    request = Request("notify", f"{url}/{CANARY}", {}, b"{}")

    assert answer(transport.send(request, 5)).status == 200

    transport.close()
    assert CANARY not in caplog.text + repr(request)
