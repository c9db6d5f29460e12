"""Each transport, and servers for it."""

from __future__ import annotations

import asyncio
import gc
import importlib
import warnings
from typing import TYPE_CHECKING, Any, Final, Protocol

import pytest

from deviceflow.core.wire import Request
from deviceflow.transports.requests import RequestsTransport
from tests.unit.transports.serving import Server, Tls, pause_for, unused_port

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import requests

    from deviceflow.core.ports import AsyncTransport
    from deviceflow.core.wire import Failure, Response
    from tests.unit.transports.serving import Serve

KINDS: Final = ("requests", "httptools", "httptools on uvloop", "aiohttp", "httpx")

_FRESH: Final = "it opens a connection per request"
_INTERIM: Final = "it skips interim responses until the deadline"
WEAKER: Final = {
    ("aiohttp", "test_another_protocol_is_no_answer"): "it keeps the connection after a 101",
    ("aiohttp", "test_what_has_no_end_takes_no_memory"): _INTERIM,
    ("httpx", "test_what_has_no_end_takes_no_memory"): _INTERIM,
    ("httpx", "test_each_request_has_its_own_deadline"): _FRESH,
    ("httpx", "test_a_request_is_never_sent_twice"): _FRESH,
    ("httpx", "test_an_answer_without_content"): _FRESH,
    ("httpx", "test_what_comes_before_the_answer_is_not_taken_for_it"): _FRESH,
    ("httpx", "test_an_answer_in_chunks"): _FRESH,
    ("httpx", "test_the_request_on_the_wire"): _FRESH,
    ("httpx", "test_https"): _FRESH,
}
"""What a library does not do, by the test that asks for it."""


class InLoop:
    """An async transport, used as a sync one."""

    def __init__(self, make: Callable[[], AsyncTransport], loop: str) -> None:
        factory = importlib.import_module(loop).new_event_loop
        self._runner = asyncio.Runner(loop_factory=factory)
        self._transport = self._runner.run(self._made(make))

    async def _made(self, make: Callable[[], AsyncTransport]) -> AsyncTransport:
        return make()

    def send(self, request: Request, timeout: float) -> Response | Failure:
        return self._runner.run(self._transport.send(request, timeout))

    @property
    def unverified(self) -> bool:
        return bool(getattr(self._transport, "unverified", False))

    def close(self) -> None:
        self._runner.run(self._transport.close())
        self._runner.close()


class Make(Protocol):
    def __call__(self, session: requests.Session | None = None) -> Any: ...


_warmed: Final[set[str]] = set()


def _warm(kind: Callable[[], AsyncTransport], library: str) -> None:
    """Make a library import what it imports at the first request, which may take long."""
    if library not in _warmed:
        _warmed.add(library)
        transport = InLoop(kind, "asyncio")
        transport.send(Request("token", f"http://127.0.0.1:{unused_port()}/", {}, b""), 30)
        transport.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what a library does not do."""
    items[:] = [item for item in items if not _is_beyond(item)]


def _is_beyond(item: pytest.Item) -> bool:
    kind = getattr(item, "callspec", None) and item.callspec.params.get("make")  # type: ignore[attr-defined]
    return (kind, getattr(item, "originalname", "")) in WEAKER


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Make a transport of each kind, with the settings of a session."""
    library, _, loop = request.param.partition(" on ")
    made: list[Any] = []
    if library != "requests":
        module = importlib.import_module(f"deviceflow.transports.{library}")
        kind = getattr(module, f"{library.capitalize()}Transport")
        _warm(kind, library)

    def one(session: requests.Session | None = None) -> Any:
        if library == "requests":
            made.append(RequestsTransport(session))
        else:
            made.append(InLoop(lambda: kind(session), loop or "asyncio"))
        return made[-1]

    yield one
    for transport in made:
        transport.close()
    if library in ("aiohttp", "httpx"):  # they leave sockets to the garbage collector
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            made.clear()
            gc.collect(1)


@pytest.fixture
def transport(make: Any) -> Any:
    return make()


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
def tls(tmp_path: Path) -> Tls:
    return Tls(tmp_path)
