"""What is secret, or for the person, is seen only where it may be, whatever happens to a login.

What that is, and where it may appear, is read from the table in `deviceflow.core.data`. The three
functions and the engine go through logins that end in every way, against a server that repeats
their codes and tokens wherever it can: in error texts, headers, the reason phrase, and in
what is no HTTP at all. Afterwards all that a program, a log collector or a crash reporter could
have got hold of is searched for them: log records at DEBUG (of `requests` and `transitions` too),
stdout and stderr, every exception raised, what hangs on it, its tracebacks rendered with the
locals of all frames but the tests' own, the reprs of what passed through the library, what a store
keeps in clear, and what a job would give to a broker.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import logging
import re
import socket
import struct
import sys
import threading
import time
import traceback
import webbrowser
from dataclasses import replace
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any, Final

import pytest
import requests
import structlog
from rich.pretty import pretty_repr
from rich.traceback import Traceback

from deviceflow import Client, OAuth, Studio, auth, export
from deviceflow.core import text
from deviceflow.core.data import DATA, Place, Sensitivity
from deviceflow.core.flow import Flow
from deviceflow.core.login import Login
from deviceflow.core.secret import Secret
from deviceflow.integrations import studio as studio_login
from deviceflow.providers.dialect import RFC8628
from deviceflow.stores.memory import MemoryStore
from deviceflow.testing import VirtualClock
from deviceflow.transports.requests import RequestsTransport
from tests.facade import AsyncFacade

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping

    Way = Callable[["Server"], None]
    Watch = Callable[[Way, "Server"], list[str]]

TESTS: Final = str(Path(__file__).parents[1])

CODE: Final = "dc-7Qm3xW9bT2kLzP5vH8"
USER: Final = "WXYZ-K7QX"
TOKEN: Final = "isat_4fH8sJ2nV6yR1dG0"
REFRESH: Final = "rt-9Zq1Lw6Kc8Xb3Nv5"
CLAIMS: Final = {"iss": "https://as.example.com", "aud": "robot", "exp": 4_000_000_000}
ID_TOKEN: Final = ".".join(
    base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
    for part in ({"alg": "none"}, CLAIMS, "Jw5Tn8Rk3Yb6Hs9c")
)
CLIENT_SECRET: Final = "cs-6Vd4Mf7Pj1Gz2Et"
LINK: Final = "lnk-5Gd8sQ2w"
ECHO: Final = f"{CODE} {USER} {TOKEN} {REFRESH} {ID_TOKEN}"

CANARIES: Final = {
    "device code": CODE,
    "user code": USER,
    "access token": TOKEN,
    "refresh token": REFRESH,
    "id token": ID_TOKEN,
    "client secret": CLIENT_SECRET,
    "verification link": LINK,
}
NEEDLES: Final = {
    "device code": "7Qm3xW9b",
    "user code": "K7QX",
    "access token": "4fH8sJ2n",
    "refresh token": "9Zq1Lw6K",
    "id token": ID_TOKEN[-12:],
    "client secret": "6Vd4Mf7P",
    "verification link": "5Gd8sQ2w",
}
"""A part of each, so that what was cut short is found as well."""

ELSEWHERE: Final = {
    "PKCE verifier": "found in the requests of a login, below",
    "complete verification link": "has the verification link and the user code in it",
    "other fields of the token response": "not sent",
    "sealed part of a row": "test_seal_canary",
    "private key": "test_client_auth",
    "sealing keys": "test_seal_canary",
    "audit key": "test_seal_canary",
    "signing key": "test_digest",
    "database password": "test_command_store",
    "link of a need": "test_store_grants",
    "URL to notify": "test_needs",
}
"""What the logins here do not have, and where it is looked for."""

MAY_BE: Final = {datum.name: datum.places for datum in DATA}


def test_all_that_is_not_public_is_looked_for() -> None:
    assert {*CANARIES} == {*NEEDLES}
    assert {*NEEDLES, *ELSEWHERE} == {
        datum.name for datum in DATA if datum.sensitivity is not Sensitivity.PUBLIC
    }


SOON: Final = 0.2
"""Seconds that a request may take, where it takes as long as it may."""


class Evidence:
    """All that could be got hold of, as texts, and where.

    Attributes:
        texts: What place of the table it is, if one; a name for it; the text.
        needles: What to look for.
    """

    def __init__(self) -> None:
        self.texts: list[tuple[Place | None, str, str]] = []
        self.needles = dict(NEEDLES)

    def leaks(self) -> list[str]:
        """Return what was seen where the table does not let it be."""
        return [
            f"{what} in {name}"
            for place, name, text in self.texts
            for what, part in self.needles.items()
            if part in text and place not in MAY_BE[what]
        ]

    def add(self, name: str, *things: object, at: Place | None = None) -> None:
        for thing in things:
            self.texts.append((at, name, thing if isinstance(thing, str) else repr(thing)))

    def add_object(self, place: str, thing: object) -> None:
        """Add what a debugger and a pretty printer show of it."""
        self.add(place, repr(thing), str(thing), pretty_repr(thing))

    def add_record(self, record: logging.LogRecord) -> None:
        place = f"the log of {record.name}"
        self.add(place, record.getMessage(), record.args, vars(record), at=Place.LOG)
        if record.exc_info and record.exc_info[1]:
            self.add_error(record.exc_info[1], place)

    def add_error(self, error: BaseException, place: str = "what was raised") -> None:
        self.add(f"{place}, rendered by rich", *_by_rich(error), at=Place.EXCEPTION)
        links, known = [error], set[int]()
        while links:
            link = links.pop()
            if id(link) in known:
                continue
            known.add(id(link))
            where = f"{place} ({type(link).__name__})"
            self.add(where, str(link), repr(link), link.args, vars(link), at=Place.EXCEPTION)
            self.add(f"{where}, rendered", *_by_traceback(link), at=Place.EXCEPTION)
            for hanging in (getattr(link, "request", None), getattr(link, "response", None)):
                self.add_message(f"{where}, hanging on it", hanging)
            links += [one for one in (link.__cause__, link.__context__) if one is not None]
            links += [one for one in link.args if isinstance(one, BaseException)]

    def add_message(self, place: str, message: Any) -> None:
        if message is None:
            return
        self.add(place, message, vars(message), dict(message.headers))
        if isinstance(message, requests.Response):
            self.add(place, message.content, message.text)
            self.add_message(place, message.request)


def _by_traceback(error: BaseException) -> list[str]:
    summary = traceback.TracebackException.from_exception(error, capture_locals=True)
    summary.stack[:] = [one for one in summary.stack if not one.filename.startswith(TESTS)]
    return list(summary.format(chain=False))


def _by_rich(error: BaseException) -> list[str]:
    """Return what rich shows of it and of its causes, but for the lines of source code."""
    trace = Traceback.extract(
        type(error),
        error,
        error.__traceback__,
        show_locals=True,
        locals_max_length=None,  # type: ignore[arg-type]  # it means: all
        locals_max_string=None,  # type: ignore[arg-type]
        locals_hide_dunder=False,
    )
    frames = [one for stack in trace.stacks for one in stack.frames if one.locals]
    return [
        *(f"{stack.exc_type} {stack.exc_value}" for stack in trace.stacks),
        *(
            f"{frame.name}: {name} = {node.render(max_width=1000)}"
            for frame in frames
            if not frame.filename.startswith(TESTS)
            for name, node in (frame.locals or {}).items()
        ),
    ]


class Collector(logging.Handler):
    """Keeps every record for the evidence."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


# The server.

RESET: Final = b"<reset>"
HANG: Final = b"<hang>"
ECHOES: Final = b"<echoes>"


def raw(start: str, body: bytes, *headers: str) -> bytes:
    lines = [start, f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def says(status: int, body: Any, *headers: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return raw(f"HTTP/1.1 {status} Whatever", content, *headers)


class Server:
    """Gives raw answers from a script, one for each request."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.script: list[bytes] = []
        self.bodies: list[bytes] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def answer(self, **fields: Any) -> dict[str, Any]:
        return {
            "device_code": CODE,
            "user_code": USER,
            "verification_uri": f"{self.url}/{LINK}",
            "token_uri": f"{self.url}/token",
            "token_name": "robot",
        } | fields

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener was shut down
            while True:
                conn, _ = self._listener.accept()
                with contextlib.suppress(OSError):
                    self._serve(conn)

    def _serve(self, conn: socket.socket) -> None:
        conn.settimeout(5)
        with conn.makefile("rb") as request:
            length = 0
            while (line := request.readline().strip().lower()) != b"":
                if line.startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            self.bodies.append(request.read(length))
        reply = self.script.pop(0) if self.script else EXPIRED
        if reply == ECHOES:
            reply = says(400, {"detail": self.bodies[-1].decode()})
        if reply == HANG:
            self._open.append(conn)
            return
        with conn:
            if reply == RESET:
                conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                conn.sendall(reply)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for one in [*self._open, self._listener]:
            one.close()


PENDING: Final = says(400, {"detail": "authorization_pending"})
EXPIRED: Final = says(400, {"detail": "authorization_expired", "of": ECHO})
GRANTED: Final = says(
    200, {"access_token": TOKEN, "refresh_token": REFRESH, "id_token": ID_TOKEN, "scope": ECHO}
)
HEADERS: Final = (
    f"X-Echo: {ECHO}",
    f"Set-Cookie: code={CODE}; token={TOKEN}",
    f"WWW-Authenticate: Bearer {TOKEN}",
    f"Date: {CODE}",
    f"Retry-After: {CODE}",
    f"Location: /{CODE}?token={TOKEN}&user={USER}",
    f"Content-Type: application/json; for={CODE}",
)

CHUNKED: Final = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

POLLS: Final[dict[str, list[bytes]]] = {
    "granted": [PENDING, GRANTED],
    "echo while pending": [says(400, {"detail": "authorization_pending", "of": ECHO}), GRANTED],
    "expired": [PENDING, EXPIRED],
    "denied": [PENDING, says(400, {"detail": "access_denied", "of": ECHO})],
    "rejected": [says(400, {"detail": f"{CODE}, {USER} and {TOKEN} are unknown"})],
    "rejected, code hidden in the text": [
        says(403, {"detail": f"no:\u200b{CODE[:9]}\u200b{CODE[9:]}"})
    ],
    "rejected, code escaped": [says(403, {"detail": f"code%3D{CODE.replace('-', '%2D')}"})],
    "rejected, in base64": [
        says(403, {"detail": f"no {base64.b64encode(ECHO.encode()).decode()}"})
    ],
    "rejected, with the request": [ECHOES],
    "rejected, in a JSON of its own": [says(401, {"detail": {"code": CODE}, "error": ECHO})],
    "broken": [says(500, {"detail": ECHO}), EXPIRED],
    "busy": [says(503, ECHO.encode(), *HEADERS), GRANTED],
    "slow down": [says(400, {"error": "slow_down", "detail": "", "of": ECHO}), GRANTED],
    "reason phrase": [raw(f"HTTP/1.1 400 {ECHO}", b'{"detail": "no"}')],
    "reason phrase of a 500": [raw(f"HTTP/1.1 500 {ECHO}", b""), EXPIRED],
    "headers": [says(403, {"detail": "no"}, *HEADERS)],
    "redirect": [says(302, ECHO.encode(), *HEADERS), EXPIRED],
    "token under another name": [says(200, {"token": TOKEN, "detail": ECHO})] * 3,
    "token in an object": [says(200, {"access_token": {"value": TOKEN}})] * 3,
    "token with another status": [says(201, {"access_token": TOKEN})] * 3,
    "token in HTML": [says(200, f"<p>{ECHO}</p>".encode())] * 3,
    "token in an error": [says(400, {"detail": "used already", "access_token": TOKEN})],
}

UNANSWERED: Final[dict[str, bytes]] = {
    "no HTTP": ECHO.encode() + b"\r\n\r\n",
    "status line": f"HTTP/1.1 {CODE} {TOKEN}\r\n\r\n".encode(),
    "version": f"HTTP/{TOKEN} 200 {CODE}\r\n\r\n".encode(),
    "stray line": f"HTTP/1.1 400 Bad\r\n{ECHO}\r\nX: {ECHO}\r\n\r\n{{}}".encode(),
    "length": f"HTTP/1.1 200 OK\r\nContent-Length: {TOKEN}\r\n\r\n".encode(),
    "chunk": f"{CHUNKED}{ECHO}\r\n".encode(),
    "encoding": says(200, ECHO.encode(), "Content-Encoding: gzip", f"X: {CODE}"),
    "encoding by name": says(200, b"x", f"Content-Encoding: gzip, {TOKEN}"),
    "cut": says(200, b"").replace(b"Length: 0", b"Length: 99") + GRANTED[-30:],
    "reset": RESET,
    "closed": b"",
    "timeout": HANG,
    "bad location": says(302, b"", f"Location: http://[{CODE}/{TOKEN}"),
    "bytes in the location": says(302, b"", "Location: /x").replace(
        b"/x", b"/\xff" + CODE.encode()
    ),
}
"""What is no answer, and is borne a few times."""


FIRST: Final[dict[str, Callable[[Server], bytes]]] = {
    "refused": lambda _: says(400, {"detail": f"{CODE} {TOKEN}"}),
    "broken": lambda _: says(500, {"detail": f"no room for {CODE}"}, f"X-Echo: {ECHO}"),
    "HTML": lambda _: says(200, ECHO.encode()),
    "no object": lambda _: says(200, [ECHO]),
    "no page": lambda server: says(200, server.answer(verification_uri=None)),
    "half a character": lambda server: says(200, server.answer(user_code=f"{USER}\ud800")),
    "half of the code": lambda server: says(200, server.answer(device_code=f"{CODE}\ud800")),
    "code in token_uri": lambda server: says(200, server.answer(token_uri=f"ftp://{CODE}/{USER}")),
    "code as token_uri": lambda server: says(200, server.answer(token_uri=f"{CODE} {USER}")),
    "reason phrase": lambda _: raw(f"HTTP/1.1 400 {ECHO}", b""),
    "status line": lambda _: f"HTTP/1.1 {ECHO}\r\n\r\n".encode(),
    "chunk": lambda _: f"{CHUNKED}{ECHO}\r\n".encode(),
    "cut": lambda _: says(200, b"").replace(b"Length: 0", b"Length: 999") + ECHO.encode(),
    "reset": lambda _: RESET,
    "timeout": lambda _: HANG,
}
"""What a server may say instead of giving the code that it has made all the same."""


# The ways through.


def start(server: Server) -> None:
    auth.start_device_login(client_name="test", base_url=server.url)


def _without_the_user_code(server: Server) -> None:
    """Let somebody else have been given the code: nobody here knows the user code then."""
    server.script = [one.replace(USER.encode(), b"ABCD-EFGH") for one in server.script[1:]]


def check_begun(server: Server) -> None:
    begun = auth.start_device_login(client_name="test", base_url=server.url)
    auth.check_token_authentication(uri=begun["token_uri"], device_code=begun["device_code"])


def check_adopted(server: Server) -> None:
    _without_the_user_code(server)
    auth.check_token_authentication(uri=f"{server.url}/token", device_code=CODE)


def get(server: Server) -> None:
    auth.get_access_token(hostname=server.url)


def _client(**parts: Any) -> Client:
    parts.setdefault("clock", VirtualClock())
    deadline = studio_login.TIMEOUT
    return Client(MemoryStore(), transport=RequestsTransport(), deadline=deadline, **parts)


def _started(client: Client, server: Server) -> Login:
    return client.start(Studio(server.url), client_name="test", scopes=["experiments"])


def engine_waits(server: Server) -> None:
    client = _client()
    client.wait_for_token(_started(client, server).id)


def engine_steps(server: Server) -> None:
    clock = VirtualClock()
    client = _client(clock=clock)
    flow_id = client.create(Studio(server.url), client_name="test").id
    while not (done := client.step(flow_id)).state.ended:
        clock.advance(done.wait_seconds)
    client.collect_token(flow_id)


def engine_cancels(server: Server) -> None:
    client = _client()
    flow = _started(client, server)
    client.step(flow.id)
    client.cancel(flow.id, f"no more of {CODE} for {USER}")
    client.wait_for_token(flow.id)


def engine_adopts(server: Server) -> None:
    _without_the_user_code(server)
    client = _client()
    uri = f"{server.url}/token"
    flow = client.adopt(Studio(server.url), token_endpoint=uri, device_code=Secret(CODE))
    client.wait_for_token(flow.id)


def engine_with_secrets(server: Server) -> None:
    """Log in by OAuth, as a client with a secret, with PKCE and an id token."""
    errors = {"authorization_expired": "expired_token"}
    provider = OAuth(
        client_id="robot",
        device_authorization_endpoint=f"{server.url}/code",
        token_endpoint=f"{server.url}/token",
        client_secret="env:CANARY_SECRET",
        pkce="on",
        scopes=["a"],
        quirks=replace(RFC8628, error_fields=("detail", "error"), errors=errors),
    )
    client = _client()
    client.wait_for_token(client.start(provider).id)


def async_engine_logs_in(server: Server) -> None:
    """Log in by an async client, over its own transport."""
    parts = {"clock": VirtualClock(), "deadline": studio_login.TIMEOUT}
    shown: list[str] = []
    with AsyncFacade(browser=lambda page: False, output=shown.append, **parts) as client:
        client.login(Studio(server.url), client_name="test")


def engine_logs_in(server: Server) -> None:
    shown: list[str] = []
    client = _client(browser=lambda page: False, output=shown.append)
    client.login(Studio(server.url), client_name="test")


FACADES: Final = (check_begun, check_adopted, get)
ENGINE: Final = (
    engine_waits,
    engine_steps,
    engine_cancels,
    engine_adopts,
    engine_with_secrets,
    engine_logs_in,
    async_engine_logs_in,
)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("CANARY_SECRET", CLIENT_SECRET)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(webbrowser, "open", lambda _: False)
    running = Server()
    running.script = [says(200, running.answer())]
    yield running
    running.close()
    for flow_id in list(studio_login._STORE._entries[Flow]):
        studio_login._forget(flow_id)


@pytest.fixture
def hurry(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait long where the server says nothing."""
    if request.getfixturevalue("how") == "timeout":
        monkeypatch.setattr(studio_login, "TIMEOUT", SOON)


@pytest.fixture
def evidence(monkeypatch: pytest.MonkeyPatch) -> Evidence:
    """Tap what passes through the library's own seams."""
    gathered = Evidence()
    for owner, name in (
        (MemoryStore, "commit"),
        (MemoryStore, "claim"),
        (MemoryStore, "load"),
        (Studio, "read_code"),
        (Studio, "read_token"),
        (Studio, "token_request"),
        (studio_login._Wire, "send"),
        (RequestsTransport, "send"),
        (Client, "step"),
        (Client, "wait"),
        (Client, "wait_for_token"),
    ):
        monkeypatch.setattr(owner, name, _tapped(gathered, getattr(owner, name)))
    return gathered


def _tapped(evidence: Evidence, function: Callable[..., Any]) -> Callable[..., Any]:
    def tap(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        for thing in (*args, *kwargs.values(), result):
            evidence.add_object(f"a repr at {function.__qualname__}", thing)
            if isinstance(thing, Flow):
                evidence.add("a row, in clear", json.dumps(export.to_dict(thing)), at=Place.ROW)
            if isinstance(thing, Login):
                evidence.add("what a broker is given", json.dumps(thing.to_dict()), at=Place.BROKER)
        return result

    return tap


@pytest.fixture(params=["logging", "structlog"])
def watch(
    request: pytest.FixtureRequest,
    evidence: Evidence,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Watch]:
    """Go a way, gather what could be got hold of, and return what was leaked where."""
    handler, root = Collector(), logging.getLogger()
    level = root.level
    root.setLevel(logging.DEBUG)
    root.addHandler(handler)
    events: list[MutableMapping[str, Any]] = []

    def keep(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        events.append(event)
        raise structlog.DropEvent

    if request.param == "structlog":
        structlog.configure(processors=[keep])

    def go(way: Way, server: Server) -> list[str]:
        try:
            way(server)
        except BaseException as error:  # noqa: BLE001  # whatever it is, it is searched
            evidence.add_error(error)
        for record in handler.records:
            evidence.add_record(record)
            evidence.add("an event", vars(record).get("deviceflow"), at=Place.TRAIL)
        for event in events:
            evidence.add_object("an event", dict(event))
        said = capfd.readouterr()
        # Only get_access_token prompts by itself.
        evidence.add("stdout", said.out, at=Place.PROMPT if way is get else None)
        evidence.add("stderr", said.err)
        if verifiers := re.findall(rb"code_verifier=([\w~.-]+)", b"&".join(server.bodies)):
            evidence.needles["PKCE verifier"] = verifiers[0].decode()[:8]
        transitions = [one for one in handler.records if hasattr(one, "deviceflow")] or events
        assert transitions, "nothing was logged, so nothing was tested"
        return evidence.leaks()

    yield go
    root.removeHandler(handler)
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("way", [*FACADES, *ENGINE])
@pytest.mark.parametrize("how", [*POLLS, *UNANSWERED])
def test_nothing_leaks_however_a_login_ends(
    watch: Watch, server: Server, way: Way, how: str
) -> None:
    # So often does check_token_authentication bear it, and no other.
    times = 4 if way in (check_begun, check_adopted) else 1
    server.script += POLLS.get(how) or [UNANSWERED[how]] * times

    assert watch(way, server) == []
    assert any(CODE.encode() in body for body in server.bodies)


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("way", [start, get, engine_waits, engine_steps, async_engine_logs_in])
@pytest.mark.parametrize("how", FIRST)
def test_nothing_leaks_where_no_code_came(watch: Watch, server: Server, way: Way, how: str) -> None:
    server.script = [FIRST[how](server)] * 5

    assert watch(way, server) == []


@pytest.mark.parametrize("way", [*FACADES, *ENGINE])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError, MemoryError, SystemExit])
@pytest.mark.parametrize("where", ["endheaders", "getresponse"])
def test_nothing_leaks_where_a_request_is_torn_off(
    watch: Watch,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    way: Way,
    stop: type[BaseException],
    where: str,
) -> None:
    calls = 0 if way in (check_adopted, engine_adopts) else 1
    original = getattr(http.client.HTTPConnection, where)

    def torn(connection: http.client.HTTPConnection, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls -= 1
        if calls < 0:
            raise stop
        return original(connection, *args, **kwargs)

    monkeypatch.setattr(http.client.HTTPConnection, where, torn)
    assert watch(way, server) == []


@pytest.mark.parametrize("way", FACADES)
def test_nothing_leaks_where_the_waiting_is_interrupted(
    watch: Watch,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    way: Way,
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    server.script.append(PENDING)
    monkeypatch.setattr(time, "sleep", interrupt)

    assert watch(way, server) == []


# That a leak would be found.

PLANTS: Final = {
    "a log line": "logging.getLogger('urllib3.deep').debug('sent %s', secret)",
    "an argument that the line does not show": "logging.getLogger('x').debug('sent%.0s', [secret])",
    "an attribute of a log record": "logging.getLogger('x').info('sent', extra={'body': secret})",
    "a logged exception": (
        "try: raise ValueError(secret)\n"
        "except ValueError: logging.getLogger('x').exception('failed')"
    ),
    "stdout": "print(secret)",
    "stderr": "print(secret, file=sys.stderr)",
    "a message": "raise ValueError(f'no {secret}')",
    "an argument": "raise OSError(5, 'no', [secret])",
    "an attribute": "error = ValueError(); error.body = {'code': secret}; raise error",
    "a note": "error = ValueError(); error.add_note(secret); raise error",
    "a cause": "raise ValueError from KeyError(secret)",
    "a context that is not shown": (
        "try: raise KeyError(secret)\nexcept KeyError: raise ValueError from None"
    ),
    "an inner exception": "raise requests.ConnectionError(OSError(secret))",
    "a request": (
        "request = Request('POST', url, json={'code': secret}).prepare()\n"
        "raise HTTPError(request=request)"
    ),
    "a response's body": "response._content = secret.encode(); raise HTTPError(response=response)",
    "a response's header": "response.headers['X'] = secret; raise HTTPError(response=response)",
    "a response's reason": "response.reason = secret; raise HTTPError(response=response)",
    "a local variable": "def send(body): raise ValueError\nsend([{'code': secret.encode()}])",
    "a local variable of a cause": (
        "def send(body): raise OSError\n"
        "try: send(secret)\n"
        "except OSError as error: raise ValueError from error"
    ),
    "a local variable in a logged traceback": (
        "def send(body):\n"
        "  try: raise OSError\n"
        "  except OSError: logging.getLogger('x').debug('failed', exc_info=True)\n"
        "send(secret)"
    ),
}


@pytest.mark.parametrize(("what", "secret"), CANARIES.items())
@pytest.mark.parametrize("plant", PLANTS)
def test_a_leak_that_is_planted_is_found(
    watch: Watch, server: Server, plant: str, what: str, secret: str
) -> None:
    def leak(server: Server) -> None:
        engine_waits(server)
        known: dict[str, Any] = {
            "HTTPError": requests.HTTPError,
            "Request": requests.Request,
            "logging": logging,
            "requests": requests,
            "response": requests.Response(),
            "sys": sys,
            "url": server.url,
        }
        # Its globals are not its locals, as in any library; and its file is none of the tests'.
        library = compile(f"def leak(secret):\n{indent(PLANTS[plant], ' ')}", "/lib/x.py", "exec")
        exec(library, known)
        known["leak"](secret)

    server.script.append(GRANTED)

    assert {one.split(" in ")[0] for one in watch(leak, server)} == {what}


def _shown(secret: Secret) -> str:
    return f"Secret({secret.reveal()!r})"


SABOTAGE: Final[dict[str, tuple[Any, str, Any, Way, str]]] = {
    "secrets that show": (Secret, "__repr__", _shown, engine_waits, "granted"),
    "requests' own errors": (studio_login, "_bare", lambda e, _: e, check_begun, "reset"),
    "errors that quote the server": (
        studio_login,
        "_quotes",
        lambda _: False,
        check_begun,
        "status line",
    ),
    "words that are not cleaned": (
        Flow,
        "_clean",
        lambda _, text, *__: text,
        engine_waits,
        "rejected",
    ),
    "tokens that nobody knew of": (
        text,
        "hidden_if_random",
        lambda text: text,
        engine_waits,
        "rejected",
    ),
}


@pytest.mark.parametrize("how", SABOTAGE)
def test_a_library_that_hides_less_is_found_out(
    watch: Watch, server: Server, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    owner, name, instead, way, polls = SABOTAGE[how]
    monkeypatch.setattr(owner, name, instead)
    server.script += POLLS.get(polls) or [UNANSWERED[polls]] * 4

    assert watch(way, server) != []
