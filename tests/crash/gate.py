"""The local server, watched: who asks is played by rules, and an answer can be kept back."""

from __future__ import annotations

import io
import json
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Self
from urllib.parse import parse_qs

import requests
from werkzeug.test import Client as Caller
from werkzeug.test import run_wsgi_app
from werkzeug.wrappers import Request

from deviceflow.server import LocalServer, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.crash.clock import SharedClock

CANARY: Final = "canary-"
"""What every device code and every token begins with, so that one search finds any of them."""

PATIENCE: Final = 60.0  # seconds, for what takes a fraction of one

Decision = Literal["approve", "deny", "expire"]
Kind = Literal["code", "pending", "issued", "other"]
Spoilt = Literal["503", "slow_down"]

_CODE_PATHS: Final = ("/oauth/device_authorization", "/api/device-login")
_TOKEN_PATHS: Final = ("/oauth/token", "/api/device-login/token")


@dataclass
class Rule:
    """What is to happen to the logins of one client.

    Attributes:
        decision: What the person decides; None for a person who never comes.
        after: How many seconds after the code was issued.
        hold: The first answer of this kind is kept back, until it is let go.
        spoil: By the number of a token request: what it is answered instead of 'pending'.
    """

    decision: Decision | None = "approve"
    after: float = 0.0
    hold: Kind | None = None
    spoil: dict[int, Spoilt] = field(default_factory=dict)


@dataclass
class Seen:
    """A login as the server knows it.

    Attributes:
        client: The client that asked.
        user_code: Its user code.
        issued_at: When its code was issued, by the clock.
        polls: How many token requests came.
        token: The token that was issued.
        undecided: Whether the person has not decided yet.
    """

    client: str
    user_code: str
    issued_at: float
    polls: int = 0
    token: str | None = None
    undecided: bool = True


class Gate:
    """StoredFlow before the server's application.

    Attributes:
        rules: What is to happen, by client.
        seen: The logins, by device code.
        held: Set while an answer is kept back.
        let_go: To be set to send it.
    """

    def __init__(self, application: Any, clock: SharedClock) -> None:
        self._application = application
        self._clock = clock
        self._caller = Caller(application)
        self.rules: dict[str, Rule] = {}
        self.seen: dict[str, Seen] = {}
        self.held = threading.Event()
        self.let_go = threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"].rstrip("/")
        if path not in _CODE_PATHS + _TOKEN_PATHS:
            answer: Iterable[bytes] = self._application(environ, start_response)
            return answer
        body = Request(environ).get_data().replace(CANARY.encode(), b"")
        environ = environ | {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        login = self.seen.get(_device_code(body)) if path in _TOKEN_PATHS else None
        if login is not None:
            login.polls += 1
            self._decide(login)
        parts, status, headers = run_wsgi_app(self._application, environ, buffered=True)
        fields = json.loads(b"".join(parts))
        kind, client = self._apply_response(login, fields)
        rule = self.rules.get(client, Rule())
        if login is not None and kind == "pending" and login.polls in rule.spoil:
            status, fields = _SPOILT[rule.spoil[login.polls]]
        if kind == rule.hold:
            rule.hold = None
            self.held.set()
            self.let_go.wait(PATIENCE)
        sent = json.dumps(fields).encode()
        headers["Content-Length"] = str(len(sent))
        start_response(status, list(headers))
        return [sent]

    def _apply_response(self, login: Seen | None, fields: dict[str, Any]) -> tuple[Kind, str]:
        """Remember what the answer says, put the canary into it, and tell what kind it is."""
        if code := fields.get("device_code"):
            fields["device_code"] = CANARY + code
            client = self._client_of(fields["user_code"])
            self.seen[code] = Seen(client, fields["user_code"], self._clock.time())
            return "code", client
        client = login.client if login else ""
        if login is not None and "access_token" in fields:
            login.token = fields["access_token"] = CANARY + fields["access_token"]
            return "issued", client
        pending = "authorization_pending" in (fields.get("error"), fields.get("detail"))
        return ("pending" if pending else "other"), client

    def _client_of(self, user_code: str) -> str:
        logins = self._caller.get("/control/log", environ_base=_HERE).get_json()["logins"]
        return next(str(one["client"]) for one in logins if one["user_code"] == user_code)

    def _decide(self, login: Seen) -> None:
        """Have the person decide, if it is time: nobody could tell if they had done it before."""
        rule = self.rules.get(login.client, Rule())
        due = self._clock.time() >= login.issued_at + rule.after
        if rule.decision is not None and due and login.undecided:
            login.undecided = False
            self._caller.post(
                f"/control/{rule.decision}",
                json={"user_code": login.user_code},
                environ_base=_HERE,
            )


class WatchedServer:
    """The local server behind a port, with a gate before it.

    Attributes:
        url: Where it is.
        gate: The gate.
    """

    def __init__(self, clock: SharedClock, **settings: Any) -> None:
        self._server = LocalServer(
            Settings(control=True, open_logins=100_000, **settings), clock=clock.time
        )
        self.url = self._server.url
        self.gate = Gate(self._server._server.application, clock)
        self._server._server.application = self.gate

    def log(self, client: str) -> list[dict[str, Any]]:
        """Return what the server says of a client's logins, the oldest first."""
        answer = requests.get(
            f"{self.url}/control/log", headers={"Connection": "close"}, timeout=PATIENCE
        )
        return [login for login in answer.json()["logins"] if login["client"] == client]

    def settle(self) -> None:
        """Wait until whatever dead processes had sent is dealt with."""
        self.gate.let_go.set()
        # Connections are accepted in their order: behind ours, none of theirs is waiting.
        self.log("")
        until = time.monotonic() + PATIENCE
        while len(self._server._sockets) > _OWN_SOCKETS:
            assert time.monotonic() < until, "a connection stays open"
            time.sleep(0.0005)
        self.gate.held.clear()
        self.gate.let_go.clear()

    def close(self) -> None:
        """Stop serving."""
        self.gate.let_go.set()
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_HERE: Final = {"REMOTE_ADDR": "127.0.0.1"}
_OWN_SOCKETS: Final = 2  # where it listens, and where its threads wake it
_SPOILT: Final[dict[Spoilt, tuple[str, dict[str, str]]]] = {
    "503": ("503 SERVICE UNAVAILABLE", {}),
    "slow_down": ("400 BAD REQUEST", {"error": "slow_down"}),
}


def _device_code(body: bytes) -> str:
    try:
        return str(json.loads(body)["code"])
    except ValueError:
        return parse_qs(body.decode()).get("device_code", [""])[0]
