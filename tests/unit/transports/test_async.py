"""What only transports for asyncio have: tasks, cancellation, and a pool in an event loop."""

from __future__ import annotations

import asyncio
import gzip
import importlib
import itertools
import os
import socket
import ssl
import struct
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
import trustme
from blockbuster import BlockBuster
from hypothesis import given
from hypothesis import strategies as st

from deviceflow.core.wire import Response
from deviceflow.errors import UsageError
from deviceflow.transports import _pool
from deviceflow.transports._reader import Reader
from deviceflow.transports.aiohttp import AiohttpTransport
from deviceflow.transports.httptools import HttptoolsTransport
from deviceflow.transports.httpx import HttpxTransport
from tests.unit.transports.serving import (
    CANARY,
    OK,
    Server,
    Tls,
    answer,
    failure,
    head,
    pause_for,
    post,
    render,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.unit.transports.serving import Serve

    Run = Callable[[Awaitable[Any]], Any]

LOOPS: Final = ("asyncio", "uvloop")
PATIENCE: Final = 30.0


@pytest.fixture(params=LOOPS)
def runner(request: pytest.FixtureRequest) -> Any:
    factory = importlib.import_module(request.param).new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        yield runner


def silent(server: Server, conn: socket.socket) -> None:
    server.reads(conn)
    pause_for(PATIENCE)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # a thread of the server's makes it true
            await asyncio.sleep(0.005)


def test_many_tasks_share_few_connections(serve: Serve, runner: asyncio.Runner) -> None:
    all_connected = threading.Barrier(4)

    def echo(server: Server, conn: socket.socket) -> None:
        all_connected.wait(PATIENCE)  # else three could answer all before the fourth connects
        while True:
            body = server.reads(conn).partition(b"\r\n\r\n")[2]
            conn.sendall(head(len(body)) + body)

    server = serve(answer=echo)

    async def ask() -> None:
        transport = HttptoolsTransport(connections=4)
        bodies = [b"%d" % number * (number % 7 + 1) for number in range(300)]
        said = await asyncio.gather(
            *(transport.send(post(server.url, body), PATIENCE) for body in bodies)
        )
        assert [answer(one).body for one in said] == bodies
        await transport.close()

    runner.run(ask())
    assert server.connections == 4


def test_who_waits_for_a_connection_until_the_deadline_sent_nothing(
    serve: Serve, runner: asyncio.Runner
) -> None:
    server = serve(answer=silent)

    async def ask() -> None:
        transport = HttptoolsTransport(connections=1)
        first = asyncio.create_task(transport.send(post(server.url), PATIENCE))
        await until(lambda: server.seen)
        assert failure(await transport.send(post(server.url), 0.1)) == ("timeout", False)
        first.cancel()
        await transport.close()

    runner.run(ask())
    assert len(server.seen) == 1


def test_a_connection_goes_to_the_next_that_waits(serve: Serve, runner: asyncio.Runner) -> None:
    server = serve(OK, pause=0.02)

    async def ask() -> None:
        transport = HttptoolsTransport(connections=1)
        tasks = [asyncio.create_task(transport.send(post(server.url), PATIENCE)) for _ in range(6)]
        await until(lambda: server.seen)
        tasks[2].cancel()
        tasks[4].cancel()
        said = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in said].count(Response) == 4
        assert answer(await transport.send(post(server.url), PATIENCE)).status == 200
        await transport.close()

    runner.run(ask())
    assert server.connections == 1


def test_a_name_server_that_does_not_answer_holds_up_nothing_else(
    serve: Serve, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(OK)
    resolve, answers, asked = socket.getaddrinfo, threading.Event(), 0

    def hanging(host: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal asked
        if host != "hangs.invalid":
            return resolve(host, *args, **kwargs)
        asked += 1
        answers.wait(2 * PATIENCE)
        raise socket.gaierror

    async def ask() -> None:
        transport = HttptoolsTransport()
        sends = [transport.send(post("http://hangs.invalid/"), 0.3) for _ in range(40)]
        tasks = [asyncio.ensure_future(send) for send in sends]
        await until(lambda: asked)
        async with asyncio.timeout(PATIENCE):
            await asyncio.to_thread(int)
            named = server.url.replace("127.0.0.1", "localhost")
            assert answer(await transport.send(post(named), PATIENCE)).status == 200
        assert {failure(result) for result in await asyncio.gather(*tasks)} == {("timeout", False)}
        again = asyncio.ensure_future(transport.send(post("http://hangs.invalid/"), PATIENCE))
        await asyncio.sleep(0.05)
        assert asked == 1
        answers.set()
        assert failure(await again) == ("connection", False)
        await transport.close()

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    try:
        runner.run(ask())
    finally:
        answers.set()


@pytest.mark.parametrize("when", ["at once", "connected", "waiting", "body"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_cancelled_request_leaves_nothing(
    serve: Serve,
    runner: asyncio.Runner,
    monkeypatch: pytest.MonkeyPatch,
    tls: Tls,
    when: str,
    scheme: str,
) -> None:
    def slow(server: Server, conn: socket.socket) -> None:
        if b"second" in server.reads(conn):
            conn.sendall(OK)
        elif when == "body":
            conn.sendall(head(999) + CANARY.encode())
        pause_for(PATIENCE)

    monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls.bundle)
    server = serve(answer=slow, tls=tls.server if scheme == "https" else None)

    async def ask() -> BaseException:
        transport = HttptoolsTransport(connections=1)
        request = post(server.url, CANARY.encode(), Authorization=CANARY)
        task = asyncio.create_task(transport.send(request, PATIENCE))
        await asyncio.sleep(0)
        if when == "connected":
            await until(lambda: server.connections)
        elif when != "at once":
            await until(lambda: server.seen)
            await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as raised:
            await task
        second = await transport.send(post(server.url, b"second"), PATIENCE)
        assert answer(second).status == 200
        await transport.close()
        return raised.value

    assert CANARY not in render(runner.run(ask()))


def test_each_step_of_a_request_can_be_cancelled(serve: Serve, runner: asyncio.Runner) -> None:
    """After so many turns of the loop, for each number of turns until the request is done."""
    server = serve(OK)

    async def ask() -> None:
        transport = HttptoolsTransport(connections=1)
        for turns in range(1000):
            task = asyncio.create_task(transport.send(post(server.url), PATIENCE))
            for _ in range(turns):
                await asyncio.sleep(0)
            if not task.cancel():
                break
            await asyncio.wait([task])
            assert answer(await transport.send(post(server.url), PATIENCE)).status == 200
        assert answer(await task).status == 200
        await transport.close()

    runner.run(ask())


def test_an_idle_connection_is_closed_after_a_while(
    serve: Serve, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pool, "IDLE", 0.05)
    gone = []

    def once(server: Server, conn: socket.socket) -> None:
        server.reads(conn)
        conn.sendall(OK)
        gone.append(conn.recv(1))

    server = serve(answer=once)

    async def ask() -> None:
        transport = HttptoolsTransport()
        assert answer(await transport.send(post(server.url), PATIENCE)).status == 200
        await until(lambda: gone)
        assert gone == [b""]
        await transport.close()

    runner.run(ask())


@pytest.mark.parametrize("late", [False, True], ids=["with the answer", "later"])
@pytest.mark.parametrize("blocked", [False, True], ids=["seen", "not seen"])
@pytest.mark.parametrize("kind", [HttptoolsTransport, AiohttpTransport, HttpxTransport])
def test_an_answer_to_nobody_answers_no_request(
    serve: Serve, runner: asyncio.Runner, kind: Callable[[], Any], blocked: bool, late: bool
) -> None:
    forged = threading.Semaphore(0)

    def twice(server: Server, conn: socket.socket) -> None:
        number = len(server.seen)
        server.reads(conn)
        said = head(1) + b"%d" % number
        other = head(6) + b"forged"
        conn.sendall(said if late else said + other)
        pause_for(0.05)
        if late:
            conn.sendall(other)
        forged.release()
        pause_for(PATIENCE)

    server = serve(answer=twice)

    async def ask() -> None:
        transport = kind()
        for number in range(3):
            said = answer(await transport.send(post(server.url), PATIENCE))
            assert said.body == b"%d" % number
            if blocked:
                assert forged.acquire(timeout=PATIENCE)  # so the loop has not seen it yet
            else:
                assert await asyncio.to_thread(forged.acquire, timeout=PATIENCE)
        await transport.close()

    runner.run(ask())
    assert server.connections == 3


def test_an_answer_to_nobody_answers_no_request_that_waits(
    serve: Serve, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, forged = Reader.response, threading.Semaphore(0)

    def slow(reader: Reader) -> Response:
        # What comes meanwhile has not been read when the connection becomes free.
        assert forged.acquire(timeout=PATIENCE)
        return whole(reader)

    def twice(server: Server, conn: socket.socket) -> None:
        server.reads(conn)
        conn.sendall(head(4) + b"mine")
        pause_for(0.02)
        conn.sendall(head(6) + b"forged")
        forged.release()
        pause_for(PATIENCE)

    server = serve(answer=twice)
    monkeypatch.setattr(Reader, "response", slow)

    async def ask() -> None:
        transport = HttptoolsTransport(connections=1)
        sends = [transport.send(post(server.url), PATIENCE) for _ in range(3)]
        said = await asyncio.gather(*sends)
        assert [answer(one).body for one in said] == [b"mine"] * 3
        await transport.close()

    runner.run(ask())
    assert server.connections == 3


def test_a_response_that_came_while_the_process_was_suspended_counts(
    serve: Serve, runner: asyncio.Runner
) -> None:
    server = serve(head(200_000), bytes(200_000))

    async def ask() -> None:
        transport = HttptoolsTransport()
        task = asyncio.create_task(transport.send(post(server.url), 0.3))
        await until(lambda: server.seen)
        time.sleep(0.5)  # noqa: ASYNC251  # as if suspended
        assert len(answer(await task).body) == 200_000
        await transport.close()

    runner.run(ask())


def test_nothing_blocks_the_loop(serve: Serve, monkeypatch: pytest.MonkeyPatch, tls: Tls) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls.bundle)
    plain, secured = serve(OK), serve(OK, tls=tls.server)
    named = plain.url.replace("127.0.0.1", "localhost")
    detector = BlockBuster()

    async def ask() -> None:
        detector.activate()
        try:
            transport = HttptoolsTransport()
            for url in (named, secured.url, named, secured.url):
                assert answer(await transport.send(post(url), PATIENCE)).status == 200
            await transport.close()
        finally:
            detector.deactivate()

    asyncio.run(ask())


WHOLE: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    b'\r\n9\r\n{"error":\r\n6\r\n "no"}\r\n0\r\nX-Trailer: 1\r\n\r\n'
)


def test_a_connection_cut_at_any_byte_gives_no_answer(runner: asyncio.Runner) -> None:
    cuts = iter(range(len(WHOLE)))

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(WHOLE[: next(cuts)])
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await writer.drain()
        writer.transport.abort()

    async def ask() -> None:
        transport = HttptoolsTransport()
        async with await asyncio.start_server(cut, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            for _ in WHOLE:
                said = await transport.send(post(url), PATIENCE)
                assert failure(said) == ("connection", True)
        await transport.close()

    runner.run(ask())


@given(st.lists(st.integers(1, len(WHOLE) - 1), max_size=20), st.booleans())
def test_a_response_is_the_same_in_any_pieces(places: list[int], interim: bool) -> None:
    whole = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" * interim + WHOLE
    reader = Reader()
    for _ in range(2):
        reader.begin()
        ends = [0, *sorted(set(places)), len(whole)]
        for start, end in itertools.pairwise(ends):
            assert not reader.complete
            reader.feed(whole[start:end])
        assert reader.complete
        assert reader.keep
        response = reader.response()
        assert (response.status, response.body) == (400, b'{"error": "no"}')
        assert response.headers == {
            "content-type": "application/json",
            "transfer-encoding": "chunked",
        }


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 2\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 2",
        b"Content-Length: 2\r\nContent-Length: 3",
        b"Content-Length: +2",
        b"Content-Length: 2 2",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding:\x0bchunked",
        b"Content-Length: 2\nX: y",
        b"Content-Length: 2\r\n : y",
        b"X\0: y\r\nContent-Length: 2",
    ],
)
def test_ambiguous_framing_is_refused(framing: bytes) -> None:
    reader = Reader()
    with pytest.raises(ValueError, match=r"response|transfer encoding"):
        reader.feed(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n2\r\n{}\r\n0\r\n\r\n")


def test_an_empty_header_leaves_the_others_alone() -> None:
    reader = Reader()
    reader.feed(b"HTTP/1.1 200 OK\r\nX:\r\nY: \r\nX: a\r\nx: b\r\nContent-Length: 0\r\n\r\n")
    assert reader.response().headers == {"x": ", a, b", "y": "", "content-length": "0"}


def test_a_certificate_for_another_host_is_refused(
    serve: Serve, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("elsewhere.test").configure_cert(context)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    server = serve(OK, tls=context)

    async def ask() -> None:
        transport = HttptoolsTransport()
        assert failure(await transport.send(post(server.url), 5)) == ("connection", False)
        await transport.close()

    runner.run(ask())
    assert server.seen == []


def _between(conn: socket.socket, tls: Tls) -> Any:
    """Return the server's side of TLS over a connection, which may be TLS itself."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    inner = tls.server.wrap_bio(incoming, outgoing, server_side=True)

    def do(what: Callable[..., Any], *args: Any) -> Any:
        while True:
            try:
                return what(*args)
            except ssl.SSLWantReadError:
                conn.sendall(outgoing.read())
                incoming.write(conn.recv(65536))
            finally:
                if outgoing.pending:
                    conn.sendall(outgoing.read())

    class Peer:
        def recv(self, size: int) -> bytes:
            return bytes(do(inner.read, size))

        def sendall(self, data: bytes) -> None:
            do(inner.write, data)

    do(inner.do_handshake)
    return Peer()


@pytest.mark.parametrize("of_proxy", ["http", "https"])
def test_a_way_through_a_proxy_with_a_password(
    serve: Serve,
    runner: asyncio.Runner,
    monkeypatch: pytest.MonkeyPatch,
    tls: Tls,
    of_proxy: str,
) -> None:
    def connect(proxy: Server, conn: socket.socket) -> None:
        proxy.reads(conn)
        conn.sendall(b"HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n")
        peer = _between(conn, tls)
        for _ in range(2):
            proxy.reads(peer)
            peer.sendall(OK)

    proxy = serve(answer=connect, tls=tls.server if of_proxy == "https" else None)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls.bundle)
    monkeypatch.setenv("HTTPS_PROXY", f"{of_proxy}://me:p%40ss@{proxy.host}")

    async def ask() -> None:
        transport = HttptoolsTransport()
        for _ in range(2):
            url = "https://127.0.0.1:4443/token"
            assert answer(await transport.send(post(url), PATIENCE)).body == b"{}"
        await transport.close()

    runner.run(ask())
    assert b"CONNECT 127.0.0.1:4443 HTTP/1.1" in proxy.seen[0]
    assert b"\r\nProxy-Authorization: Basic bWU6cEBzcw==\r\n" in proxy.seen[0]
    assert len(proxy.seen) == 3
    assert not any(b"Proxy-Auth" in seen for seen in proxy.seen[1:])


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"SSH-2.0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 500_000,
        b"",
    ],
    ids=["407", "early bytes", "no HTTP", "endless head", "nothing"],
)
def test_a_proxy_that_does_not_let_through_sent_nothing(
    serve: Serve, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    proxy = serve(said, keep=False)
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.host}")

    async def ask() -> None:
        transport = HttptoolsTransport()
        result = await transport.send(post("https://a.test/"), PATIENCE)
        assert failure(result) == ("connection", False)
        await transport.close()

    runner.run(ask())


def test_a_proxy_of_another_kind_is_refused(
    runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")

    async def ask() -> None:
        with pytest.raises(UsageError, match="not one of http or https"):
            await HttptoolsTransport().send(post("https://a.test/"), PATIENCE)

    runner.run(ask())


def test_an_address_of_ipv6(runner: asyncio.Runner) -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    seen = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"{}"))
        writer.write(OK)
        await writer.drain()
        writer.transport.abort()

    async def ask() -> None:
        transport = HttptoolsTransport()
        port = listener.getsockname()[1]
        async with await asyncio.start_server(serve, sock=listener):
            result = await transport.send(post(f"http://[::1]:{port}/"), PATIENCE)
            assert answer(result).status == 200
        assert f"\r\nHost: [::1]:{port}\r\n".encode() in seen[0]
        await transport.close()

    runner.run(ask())


@pytest.mark.parametrize("header", ["a\r\nX: y", "a\nb", "a\0b", "\u20ac"])
def test_a_header_that_would_break_out_is_not_sent(
    serve: Serve, runner: asyncio.Runner, header: str
) -> None:
    server = serve(OK)

    async def ask() -> None:
        transport = HttptoolsTransport()
        result = await transport.send(post(server.url, Authorization=header), PATIENCE)
        assert failure(result) == ("connection", False)
        await transport.close()

    runner.run(ask())
    assert server.seen == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_opens_connections_of_its_own(serve: Serve) -> None:
    server = serve(OK)
    transport = HttptoolsTransport()

    async def once() -> int:
        return answer(await transport.send(post(server.url), PATIENCE)).status

    with asyncio.Runner() as runner:
        assert runner.run(once()) == 200
        child = os.fork()
        if child == 0:
            status = 1
            try:
                asyncio.events._set_running_loop(None)
                loop = asyncio.new_event_loop()
                status = 0 if loop.run_until_complete(once()) == 200 else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert runner.run(once()) == 200
        runner.run(transport.close())
    assert server.connections == 2


def test_a_transport_of_httpx_can_be_passed(runner: asyncio.Runner) -> None:
    httpx: Any = importlib.import_module("httpx")
    kind = importlib.import_module("deviceflow.transports.httpx").HttpxTransport

    def respond(request: Any) -> Any:
        assert request.content == b"{}"
        return httpx.Response(
            200, content=gzip.compress(b"hi"), headers={"Content-Encoding": "gzip"}
        )

    async def ask() -> None:
        transport = kind(transport=httpx.MockTransport(respond))
        assert answer(await transport.send(post("https://a.test/"), PATIENCE)).body == b"hi"
        await transport.close()

    runner.run(ask())
