"""The three documented functions, against a server on a real socket that plays Studio."""

from __future__ import annotations

import contextlib
import functools
import gzip
import http.server
import json
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import requests

from deviceflow import auth
from deviceflow.core.flow import Flow
from deviceflow.core.wire import MAX_BODY
from deviceflow.integrations import studio as studio_login

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from email.message import Message

    Reply = Callable[["Handler"], None]

SOON = 0.3
"""Seconds that stand for the five of a request's deadline, where it is run into."""

LATE = 30.0
"""Seconds that nothing here may take, however slow the machine."""

PATH = "/api/device-login/token"
NONE: tuple[Any, ...] = (None, [], {})


class Seen(NamedTuple):
    """One request, as the server got it."""

    method: str
    path: str
    headers: Message
    body: Any


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers from the script, and keeps what was asked."""

    server: Server

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.seen.append(Seen(self.command, self.path, self.headers, body))
        script = self.server.code if self.path == "/api/device-login" else self.server.polls
        with contextlib.suppress(OSError):
            script.pop(0)(self)

    do_GET = do_POST  # noqa: N815

    def log_message(self, *args: object) -> None:
        """Be silent."""


class Server(http.server.ThreadingHTTPServer):
    """Studio, by a script: what to say when a code is asked for, and to each poll."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.seen: list[Seen] = []
        self.sent = 0
        self.over = threading.Event()
        self.code: list[Reply] = [says(200, self.answer())]
        self.polls: list[Reply] = []

    def answer(self, **fields: Any) -> dict[str, Any]:
        return {
            "device_code": "d-123",
            "user_code": "ABCD-EFGH",
            "verification_uri": f"{self.url}/auth/device-login",
            "token_uri": f"{self.url}{PATH}",
            "token_name": "robot",
            "expires_in": 1500,
        } | fields

    @property
    def polled(self) -> int:
        return sum(one.path == PATH for one in self.seen)

    def close(self) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()


def says(status: int, body: Any = b"", **headers: str) -> Reply:
    """Answer with JSON, or with `body` as it is where that is bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    def reply(handler: Handler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return reply


def sends(*pieces: bytes) -> Reply:
    """Write `pieces` as they are, then close the connection."""

    def reply(handler: Handler) -> None:
        for piece in pieces:
            handler.wfile.write(piece)

    return reply


def resets(handler: Handler) -> None:
    """Tear the connection down, so that the client is told at once."""
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()


def hangs(handler: Handler) -> None:
    """Keep the connection, and say nothing."""
    handler.server.over.wait(LATE)


def trickles(head: bytes, drop: bytes) -> Reply:
    """Send a little again and again: never so slowly that a wait for bytes runs out."""

    def reply(handler: Handler) -> None:
        handler.wfile.write(head)
        until = time.monotonic() + LATE
        while time.monotonic() < until and not handler.server.over.wait(SOON / 6):
            handler.wfile.write(drop)

    return reply


def floods(handler: Handler) -> None:
    """Send 50 MB, or as much of it as is taken."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n")
    for _ in range(500):
        handler.wfile.write(b" " * 100_000)
        handler.server.sent += 100_000


PENDING = says(400, {"detail": "authorization_pending"})
EXPIRED = says(400, {"detail": "authorization_expired"})
DENIED = says(400, {"detail": "access_denied"})
GRANTED = says(200, {"access_token": "isat_token"})
HTML = b"<!doctype html><title>Sign in</title>"
CUT = sends(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"access_tok')
BODY_TRICKLES = trickles(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b" ")
HEAD_TRICKLES = trickles(b"HTTP/1.1 200 OK\r\n", b"X-Wait: 1\r\n")
STATUS_TRICKLES = trickles(b"HTTP/1.1 200 ", b"O")

NO_ANSWER: dict[str, Reply] = {
    "reset": resets,
    "closed": sends(),
    "cut": CUT,
    "no HTTP": sends(b"220 mail.example.com ESMTP\r\n"),
    "bad chunks": sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"),
    "bad gzip": says(200, b"not gzip", Content_Encoding="gzip"),
    "hangs": hangs,
    "body trickles": BODY_TRICKLES,
    "headers trickle": HEAD_TRICKLES,
    "status trickles": STATUS_TRICKLES,
    "flood": floods,
    "gzip flood": says(200, gzip.compress(b" " * 20_000_000), Content_Encoding="gzip"),
    "location without host": says(302, Location="http://[bad/"),
    "location not UTF-8": sends(
        b"HTTP/1.1 302 Found\r\nLocation: /\xff\r\nContent-Length: 0\r\n\r\n"
    ),
}


SLOW = {"hangs", "body trickles", "headers trickle", "status trickles"}


@pytest.fixture
def studio(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serve on a free port until the test is over."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.close()
    thread.join()


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Take no time to sleep, and keep for how long it was meant to be."""
    times: list[float] = []

    def sleep(seconds: float) -> None:
        # A sleep may end microseconds too early by the other clock, and what is left follows.
        if seconds > 0.001:
            times.append(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    yield times
    for flow_id in list(studio_login._STORE._entries[Flow]):
        studio_login._forget(flow_id)


@pytest.fixture
def hurry(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait long where the server is slow."""
    if request.getfixturevalue("how") in SLOW:
        monkeypatch.setattr(studio_login, "TIMEOUT", SOON)


def start(studio: Server, **given: Any) -> auth.DeviceLoginResponse:
    return auth.start_device_login(client_name="test", base_url=studio.url, **given)


def check(studio: Server) -> str | None:
    return auth.check_token_authentication(uri=f"{studio.url}{PATH}", device_code="d-123")


def get(studio: Server, **given: Any) -> tuple[str, str]:
    return auth.get_access_token(hostname=studio.url, open_browser=False, **given)


def test_a_login_from_the_code_to_the_token(
    studio: Server, slept: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    studio.polls = [PENDING, PENDING, GRANTED]

    assert get(studio, scopes="experiments", token_name="mine") == ("robot", "isat_token")
    assert [(one.method, one.path) for one in studio.seen] == [
        ("POST", "/api/device-login"),
        *[("POST", PATH)] * 3,
    ]
    assert studio.seen[0].body == {
        "client_name": "client",
        "token_name": "mine",
        "scopes": ["experiments"],
    }
    assert [one.body for one in studio.seen[1:]] == [{"code": "d-123"}] * 3
    assert {one.headers["Content-Type"] for one in studio.seen} == {"application/json"}
    assert slept == [5, 5]
    page = f"{studio.url}/auth/device-login?code=ABCD-EFGH"
    assert f"\n{page}\nABCD-EFGH\n" in capsys.readouterr().out


def test_a_login_in_two_calls(studio: Server) -> None:
    begun = start(studio)
    assert begun == studio.answer()
    studio.polls = [PENDING, GRANTED]

    token = auth.check_token_authentication(
        uri=begun["token_uri"], device_code=begun["device_code"]
    )
    assert token == "isat_token"


def test_the_answer_may_come_with_a_byte_order_mark_or_in_utf_16(studio: Server) -> None:
    text = json.dumps(studio.answer())
    studio.code = [says(200, text.encode("utf-8-sig")), says(200, text.encode("utf-16"))]

    assert start(studio) == start(studio) == studio.answer()


def test_expiry(studio: Server) -> None:
    studio.polls = [PENDING, EXPIRED]
    assert check(studio) is None

    studio.polls = [PENDING, EXPIRED]
    with pytest.raises(auth.AuthorizationExpiredError):
        get(studio)


def test_denial(studio: Server) -> None:
    studio.polls = [PENDING, DENIED]
    with pytest.raises(requests.HTTPError, match="400"):
        check(studio)

    studio.polls = [PENDING, DENIED]
    with pytest.raises(auth.StudioAuthError, match="denied"):
        get(studio)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, {"detail": "broken"}),
        (500, HTML),
        (503, b""),
        (429, {}),
        (404, HTML),
        (401, {"detail": "no"}),
        (200, {}),
        (200, {"access_token": None}),
        (200, HTML),
        (200, b""),
        (200, b"\xff\xfe\xff"),
        (200, b"[" * 100_000),
        (200, b"1" * 10_000),
        (204, b""),
    ],
    ids=str,
)
def test_an_answer_that_is_none_is_an_http_error_of_one_poll_at_once(
    studio: Server, slept: list[float], status: int, body: Any
) -> None:
    studio.polls = [says(status, body), GRANTED]

    with pytest.raises(requests.HTTPError) as caught:
        check(studio)

    assert caught.value.response.status_code == status
    assert (studio.polled, slept) == (1, [])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_polls_follow_no_redirect(studio: Server, status: int) -> None:
    studio.polls = [says(status, Location=f"{studio.url}/elsewhere"), GRANTED]

    with pytest.raises(requests.HTTPError) as caught:
        check(studio)

    assert caught.value.response.status_code == status
    assert [one.path for one in studio.seen] == [PATH]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", ["/api/device-login", "http://127.0.0.1:9/"])
def test_the_code_request_follows_no_redirect(studio: Server, status: int, where: str) -> None:
    studio.code = [says(status, Location=where)] * 2

    for begin in (start, get):
        with pytest.raises(requests.HTTPError, match=f"{status} .* with neither a code") as caught:
            begin(studio)
        assert caught.value.response.status_code == status
    assert [one.path for one in studio.seen] == ["/api/device-login"] * 2


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("how", NO_ANSWER)
def test_the_code_request_is_limited_as_polls_are(studio: Server, how: str) -> None:
    studio.code = [NO_ANSWER[how]]
    began = time.monotonic()

    with pytest.raises(requests.RequestException):
        start(studio)

    assert time.monotonic() - began < LATE
    assert studio.sent < MAX_BODY + 20_000_000


def test_a_patched_post_is_called_as_ever(studio: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    post, calls = requests.post, []

    @functools.wraps(post)
    def patched(*args: Any, **given: Any) -> requests.Response:
        calls.append((args, given))
        return post(*args, **given)

    for module in (requests, requests.api):
        monkeypatch.setattr(module, "post", patched)
    studio.code = [says(307, Location="/api/device-login"), says(200, studio.answer())]

    assert start(studio) == studio.answer()
    ((args, given),) = calls
    assert args == ()
    assert given == {
        "url": f"{studio.url}/api/device-login",
        "json": {"client_name": "test"},
        "headers": {"Content-type": "application/json"},
        "timeout": 5,
    }


def test_a_patched_session_post_is_given_polls_only(
    studio: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = []

    def patched(_: requests.Session, url: str, **given: Any) -> requests.Response:
        urls.append(url)
        return requests.post(url, **given)

    monkeypatch.setattr(requests.Session, "post", patched)
    studio.polls = [GRANTED]

    assert get(studio) == ("robot", "isat_token")
    assert urls == [f"{studio.url}{PATH}"]


def test_what_is_nested_too_deeply_costs_no_login(studio: Server) -> None:
    deep = b'{"deep":' + b"[" * 9_000 + b"]" * 9_000 + b',"long":' + b"9" * 5000 + b","
    code, token = (json.dumps(one).encode() for one in (studio.answer(), {"access_token": "t"}))
    studio.code = [says(200, deep + code[1:])] * 2
    studio.polls = [says(200, deep + token[1:])]

    assert start(studio) == studio.answer(deep=None, long=None)
    assert get(studio) == ("robot", "t")


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("how", NO_ANSWER)
def test_check_bears_a_lost_answer_three_times_then_raises(
    studio: Server, slept: list[float], how: str
) -> None:
    studio.polls = [NO_ANSWER[how]] * 5
    began = time.monotonic()

    with pytest.raises(requests.RequestException) as caught:
        check(studio)

    assert not isinstance(caught.value, requests.HTTPError)
    assert (studio.polled, len(slept)) == (4, 3)
    assert time.monotonic() - began < LATE

    studio.polls = [PENDING, GRANTED]
    assert check(studio) == "isat_token"


@pytest.mark.parametrize("path", ["", "/tök/ën", "/a%20b/../c?d=é"])
def test_polls_are_limited_whatever_their_address_looks_like(
    studio: Server, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(studio_login, "TIMEOUT", SOON)
    studio.polls = [BODY_TRICKLES] * 4
    began = time.monotonic()

    with pytest.raises(requests.RequestException):
        auth.check_token_authentication(uri=f"{studio.url}{path}", device_code="d-123")

    assert time.monotonic() - began < LATE


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("how", NO_ANSWER)
def test_get_waits_through_lost_answers(studio: Server, slept: list[float], how: str) -> None:
    studio.polls = [PENDING, NO_ANSWER[how], NO_ANSWER[how], GRANTED]

    assert get(studio) == ("robot", "isat_token")
    assert len(slept) == 3
    assert min(slept) >= 5


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_get_waits_through_a_server_that_is_busy_or_broken(
    studio: Server, slept: list[float], status: int
) -> None:
    studio.polls = [says(status, HTML, Retry_After="77"), says(status, {}), PENDING, GRANTED]

    assert get(studio) == ("robot", "isat_token")
    assert slept[0] == pytest.approx(77, abs=1)


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("how", ["cut", "reset", "hangs", "flood"])
def test_expiry_after_a_lost_answer_says_that_a_token_may_exist(studio: Server, how: str) -> None:
    studio.polls = [NO_ANSWER[how], EXPIRED]
    with pytest.raises(auth.StudioAuthError, match="token may exist"):
        check(studio)

    studio.polls = [NO_ANSWER[how], EXPIRED]
    with pytest.raises(auth.StudioAuthError, match="token may exist"):
        get(studio)


def test_a_flood_is_not_read_to_its_end(studio: Server) -> None:
    studio.polls = [floods, GRANTED]

    assert check(studio) == "isat_token"
    # What the kernel buffers between the two is beyond us.
    assert studio.sent < MAX_BODY + 20_000_000


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("how", ["reset", "closed", "cut", "no HTTP", "hangs", "bad gzip"])
def test_a_code_request_without_an_answer_fails_at_once(studio: Server, how: str) -> None:
    studio.code = [NO_ANSWER[how]] * 2

    with pytest.raises(requests.RequestException):
        start(studio)

    assert len(studio.seen) == 1


def test_nobody_listens(studio: Server, slept: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"

    with pytest.raises(requests.ConnectionError):
        auth.start_device_login(client_name="test", base_url=url)
    with pytest.raises(requests.ConnectionError):
        auth.get_access_token(hostname=url)
    assert slept == []
    with pytest.raises(requests.ConnectionError):
        auth.check_token_authentication(uri=url, device_code="d-123")
    assert len(slept) == 3


@pytest.mark.parametrize("field", ["device_code", "user_code", "verification_uri", "token_uri"])
@pytest.mark.parametrize("wrong", [None, "", 5, 5.5, True, [], ["d-123"], {}, {"a": "b"}], ids=str)
def test_a_needed_field_of_a_wrong_type_is_no_device_code(
    studio: Server, field: str, wrong: Any
) -> None:
    studio.code = [says(200, studio.answer(**{field: wrong}))] * 2

    with pytest.raises(requests.RequestException, match="no device code"):
        start(studio)
    with pytest.raises(requests.RequestException, match="no device code"):
        get(studio)


@pytest.mark.parametrize(
    "fields",
    [
        *({"token_name": wrong} for wrong in (*NONE, 5)),
        *({"expires_in": odd} for odd in (*NONE, "1500", "soon", 1500.5, -1, True, 10**400)),
        *({"interval": odd} for odd in (*NONE, "5", "soon", -5, 0, True)),
        {"unknown": {"nested": [1, 2, 3]}},
    ],
    ids=lambda fields: str(fields)[:40],
)
def test_another_field_of_a_wrong_type_is_returned_as_it_came_and_stops_no_login(
    studio: Server, fields: dict[str, Any]
) -> None:
    studio.code = [says(200, studio.answer(**fields))] * 2
    studio.polls = [PENDING, GRANTED]

    assert start(studio) == studio.answer(**fields)
    assert get(studio)[1] == "isat_token"


@pytest.mark.parametrize("body", [b"", HTML, b"null", b"[]", b'"text"', b"5", b"{", b"\xff"])
@pytest.mark.parametrize("status", [200, 201, 400, 403, 404, 500, 503])
def test_a_first_answer_that_is_none_is_a_request_exception_at_once(
    studio: Server, status: int, body: bytes
) -> None:
    studio.code = [says(status, body)] * 2

    with pytest.raises(requests.RequestException) as caught:
        start(studio)

    assert isinstance(caught.value, requests.HTTPError) == (status != 200)
    assert len(studio.seen) == 1
