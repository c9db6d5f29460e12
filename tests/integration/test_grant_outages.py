"""Outages of a server that rotates refresh tokens: none of them costs a login."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from deviceflow import Client, LoginPending, OAuth
from deviceflow.client import recorder
from deviceflow.core.grant import Grant
from deviceflow.core.provider import Token
from deviceflow.core.secret import Secret
from deviceflow.core.states import GrantState, Loss
from deviceflow.core.wire import Failure, Response
from deviceflow.errors import UnreachableError
from deviceflow.providers.dialect import RFC8628
from deviceflow.server import LocalServer, Settings
from deviceflow.stores.memory import MemoryStore
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import VirtualClock, answer
from deviceflow.trail.verify import Verification

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deviceflow.core.notice import LoginNeed
    from deviceflow.core.wire import Request

LIFE: Final = 1000.0
WINDOW: Final = 30.0
PORTAL: Final = "<html><title>Please log in to the Wi-Fi</title></html>"
KINDS: Final[dict[str, Response | Failure]] = {
    "reset": Failure("connection", sent=True),
    "refused": Failure("connection", sent=False, cause="connection_refused"),
    "no name": Failure("connection", sent=False, cause="name_unknown"),
    "timeout": Failure("timeout", sent=True),
    "timeout before sending": Failure("timeout", sent=False),
    "502": answer(502, "<html>bad gateway</html>"),
    "503": answer(503, "<html>busy</html>", Retry_After="3"),
    "504": answer(504, "<html>gateway timeout</html>"),
    "429": answer(429, ""),
    "portal": answer(200, PORTAL),
    "redirect to a portal": answer(302, ""),
    "firewall": answer(403, "<html>blocked</html>"),
    "no route": answer(404, ""),
    "empty body": answer(200, ""),
    "cut body": answer(200, '{"access_token": "ACC'),
    "too large": Failure("too_large", sent=True),
}


class Rotating:
    """A server that rotates refresh tokens, behind a network that has an outage.

    Attributes:
        issued: How many tokens it has issued.
        refused: How many requests it has refused.
        asked: When requests were sent.
        outage: From when until when, and what comes instead of an answer; None for no outage.
        reached: How many requests still reach the server in the outage.
    """

    def __init__(self, clock: VirtualClock, grace: float) -> None:
        self.issued, self.refused, self.reached = 1, 0, 0
        self.asked: list[float] = []
        self.outage: tuple[float, float, Response | Failure] | None = None
        self._clock, self._grace, self._issued_at = clock, grace, clock.time()

    def send(self, request: Request, timeout: float) -> Response | Failure:
        now = self._clock.time()
        self.asked.append(now)
        if self.outage is not None and self.outage[0] <= now < self.outage[1]:
            spoilt = self.outage[2]
            if self.reached:
                self.reached -= 1
                self._answer(request, now)
            if isinstance(spoilt, Failure) and spoilt.kind == "timeout":
                self._clock.advance(timeout)
            return spoilt
        return self._answer(request, now)

    def _answer(self, request: Request, now: float) -> Response:
        (text,) = parse_qs(request.body.decode())["refresh_token"]
        number = int(text.removeprefix("REFRESH-"))
        again = number == self.issued - 1 and now - self._issued_at < self._grace
        if number != self.issued and not again:
            self.refused += 1
            return answer(400, {"error": "invalid_grant"})
        if not again:
            self.issued, self._issued_at = number + 1, now
        tokens = {
            "access_token": f"ACCESS-{self.issued}",
            "refresh_token": f"REFRESH-{self.issued}",
            "expires_in": LIFE,
        }
        return answer(200, tokens)

    def ends(self) -> float:
        """Return when the access token that it issued last ends."""
        return self._issued_at + LIFE

    def close(self) -> None:
        pass


class Place:
    """A grant with a token that was issued just now."""

    def __init__(self, window: float, folder: Path | None = None) -> None:
        self.clock = VirtualClock()
        self.server = Rotating(self.clock, window)
        self.told: list[LoginNeed] = []
        self.said: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.store: Any = MemoryStore()
        if folder is not None:
            self.store = SQLiteStore(folder / "grants.db", plaintext=True)
        self.client = Client(
            self.store,
            clock=self.clock,
            transport=self.server,
            on_transition=self.events.append,
            notify=self.told.append,
            outage_after=600.0,
        )
        provider = OAuth(
            client_id="robot",
            device_authorization_endpoint="https://as.example.com/device",
            token_endpoint="https://as.example.com/token",
            quirks=replace(RFC8628, replay_window=window),
        )
        now = self.clock.time()
        token = Token(Secret("ACCESS-1"), expires_at=now + LIFE, refresh_token=Secret("REFRESH-1"))
        grant = Grant("g1", "nightly", provider, now)
        given = grant.log_in(token, provider, now, flow_id="f1")
        event = recorder.render_grant(self.client._context, grant, given, "w0")
        assert self.store.commit(grant, event)

    def live_until(self, end: float, every: float = 7.0) -> None:
        """Ask for a token every so many seconds; each that is given must live."""
        while self.clock.time() < end:
            try:
                token = self.client.get_token("nightly").access_token.reveal()
                if token == f"ACCESS-{self.server.issued}":
                    assert self.clock.time() < self.server.ends()
            except UnreachableError as unreachable:
                self.said.append(str(unreachable))
            self.clock.advance(every)

    def findings(self) -> list[Any]:
        with self.store.snapshot() as seen:
            return list(Verification(*seen).findings())

    def close(self) -> None:
        self.client.close()
        self.store.close()


@pytest.fixture
def made() -> Iterator[list[Place]]:
    places: list[Place] = []
    yield places
    for place in places:
        place.close()


@pytest.mark.parametrize("window", [0.0, WINDOW], ids=["no window", "window"])
@pytest.mark.parametrize("begins", [-100.0, 1.0], ids=["before", "after"])
@pytest.mark.parametrize("lasts", [20.0, 1200.0], ids=["20 s", "20 min"])
@pytest.mark.parametrize("kind", KINDS)
def test_grant_outlives_an_outage(
    made: list[Place],
    tmp_path: Path,
    kind: str,
    lasts: float,
    begins: float,
    window: float,
) -> None:
    made.append(here := Place(window, tmp_path if kind in ("reset", "503") else None))
    start, every = here.clock.time() + LIFE + begins, max(7.0, lasts / 30)
    here.server.outage = (start, start + lasts, KINDS[kind])
    here.clock.advance(start - here.clock.time())

    here.live_until(start + lasts + 120, every)

    token = here.client.get_token("nightly")
    assert token.access_token.reveal() == f"ACCESS-{here.server.issued}"
    assert (here.server.refused, here.client.grant("nightly").state) == (0, GrantState.ACTIVE)
    assert all("no usable answer since" in said for said in here.said)
    # Asked with a back-off, and soon after the end.
    during = [at for at in here.server.asked if start <= at < start + lasts]
    assert len(during) <= 8 + lasts / 20
    assert all(after - before >= 0.9 for before, after in pairwise(during[1:]))
    assert min(at for at in here.server.asked if at >= start + lasts) < start + lasts + 85 + every
    # Somebody is told of a long outage, and nobody is asked to log in.
    here.client.sweep_grants()
    long = lasts > 600
    assert [told.kind for told in here.told] == (["outage", "outage_ended"] if long else [])
    actions = [event["action"] for event in here.events]
    assert not {"need", "lose"} & {*actions}
    assert actions.count("notify") == len(here.told)
    if here.store.keeps_trail:
        assert here.findings() == []


@pytest.mark.parametrize("window", [0.0, WINDOW], ids=["no window", "window"])
@pytest.mark.parametrize("lasts", [3.0, 20.0, 1200.0], ids=["3 s", "20 s", "20 min"])
@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind in ("reset", "timeout", "502", "504", "cut body")]
)
def test_grant_whose_successor_nobody_received_is_lost_when_the_server_says_so(
    made: list[Place], kind: str, lasts: float, window: float
) -> None:
    made.append(here := Place(window))
    start = here.clock.time() + LIFE + 1
    here.server.outage = (start, start + lasts, KINDS[kind])
    here.server.reached = 1
    here.clock.advance(LIFE + 1)
    first = here.clock.time()

    lost = None
    try:
        here.live_until(start + lasts + 300, max(7.0, lasts / 30))
    except LoginPending as pending:
        lost = pending

    if window and max(at for at in here.server.asked if at < first + window) >= start + lasts:
        assert (lost, here.server.refused) == (None, 0)
        return
    assert lost is not None
    assert "the server refuses the refresh token now: invalid_grant." in str(lost)
    assert here.server.refused == 1
    assert here.client.grant("nightly").reason is Loss.UNKNOWN
    (lose,) = [event for event in here.events if event["action"] == "lose"]
    assert lose["http_status"] == 400


def test_json_of_a_notification_says_what_it_is(made: list[Place]) -> None:
    made.append(here := Place(0.0))
    start = here.clock.time() + LIFE
    here.server.outage = (start, start + 1200, KINDS["502"])
    here.clock.advance(LIFE)
    here.live_until(start + 700)

    (told,) = here.told
    said = json.loads(json.dumps(told.to_dict()))
    assert (said["kind"], said["link"], said["end"]) == ("outage", None, None)
    assert said["command"] == "deviceflow status nightly"
    assert "last: HTTP 502. Nobody needs to log in" in said["text"]
    view = here.client.grant("nightly")
    assert (view.state, view.unanswered_since) == (GrantState.IN_DOUBT, told.since)
    assert view.unanswered > 3


# A sample over HTTP.

ANSWERS: Final[dict[str, bytes]] = {
    "reset": b"",
    "502": b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>",
    "portal": b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n<html>",
    "cut body": b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"access_token": "ACC',
}


class Gateway:
    """A port that is not always the server's: in an outage, each connection gets these bytes."""

    def __init__(self, server: str) -> None:
        self.outage: bytes | None = None
        self._server = urlsplit(server)
        gateway = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                head, length = [], 0
                while (line := self.rfile.readline()).strip():
                    head.append(line)
                    name, _, value = line.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                body = self.rfile.read(length)
                if gateway.outage is not None:
                    self.wfile.write(gateway.outage)
                    return
                place = (str(gateway._server.hostname), gateway._server.port or 80)
                with socket.create_connection(place, 60) as behind:
                    behind.sendall(b"".join([*head, b"Connection: close\r\n\r\n", body]))
                    while piece := behind.recv(65536):
                        self.wfile.write(piece)

        self._listener = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._listener.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._listener.server_address[1]}"
        threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown()
        self._listener.server_close()


def test_grant_outlives_outages_over_http() -> None:
    clock = VirtualClock()
    settings = Settings(control=True, interval=0, access_token_lifetime=int(LIFE))
    with LocalServer(settings, clock=clock.time) as server, closing(Gateway(server.url)) as gateway:
        provider = OAuth(
            client_id="robot",
            device_authorization_endpoint=f"{server.url}/oauth/device_authorization",
            token_endpoint=f"{gateway.url}/oauth/token",
            scopes="offline_access",
        )
        with Client(MemoryStore(), clock=clock) as client:
            with pytest.raises(LoginPending) as caught:
                client.get_token("nightly", provider, mint="now")
            assert caught.value.login is not None
            body = {"user_code": caught.value.login.user_code}
            requests.post(f"{server.url}/control/approve", json=body, timeout=60)
            clock.advance(caught.value.wait_seconds)
            for generation, outage in enumerate(ANSWERS.values(), 1):
                assert client.get_token("nightly").generation == generation
                clock.advance(LIFE)
                gateway.outage = outage
                for _ in range(4):
                    with pytest.raises(UnreachableError) as down:
                        client.get_token("nightly")
                    assert down.value.wait_seconds is not None
                    clock.advance(down.value.wait_seconds)
                gateway.outage = None
            assert client.get_token("nightly").generation == len(ANSWERS) + 1
        [grant] = requests.get(f"{server.url}/control/grants", timeout=60).json()["grants"]
    assert (grant["state"], grant["reuses"], grant["refreshes"]) == ("active", 0, len(ANSWERS))
