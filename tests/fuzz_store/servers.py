"""Two servers: the one that the logins are at, and the attacker's. Both remember what was sent."""

from __future__ import annotations

import base64
import json
import re
import threading
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import unquote_plus, urlsplit

from deviceflow.core.wire import Response

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from deviceflow.core.wire import Failure, Request

# Each login has a client id and secrets of its own, so that a request says whose it is.
CLIENT: Final = "robot.{}."
DEVICE: Final = "DEVICE.{}."
TOKEN: Final = "TOKEN.{}."
REFRESH: Final = "REFRESH.{}."
VERIFIER: Final = "VERIFIER.{}." + "v" * 40
SECRET: Final = re.compile(r"(?:DEVICE|TOKEN|REFRESH|VERIFIER|CANARY)\.\w+\.")
"""What is a secret of a login, or of the worker."""

_LOGIN: Final = re.compile(r"(?:robot|DEVICE|TOKEN|REFRESH|VERIFIER)\.(\w+)\.")


class Sent(NamedTuple):
    """A request.

    Attributes:
        honest: Whether it went to the logins' own server.
        text: All of it, decoded.
        logins: The logins that it names.
    """

    honest: bool
    text: str
    logins: frozenset[str]


class Servers:
    """The two servers, at once a `deviceflow.Transport` and real sockets.

    Attributes:
        honest: The address of the logins' server.
        evil: The address of the attacker's.
        sent: What was sent to either.
        granting: The logins that were approved.
    """

    def __init__(self, honest: str, evil: str) -> None:
        self.honest = honest
        self.evil = evil
        self.sent: list[Sent] = []
        self.granting: set[str] = set()

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Servers]:
        """Serve both on loopback."""
        with ExitStack() as stack:
            sockets = [ThreadingHTTPServer(("127.0.0.1", 0), _Handler) for _ in range(2)]
            servers = cls(*(f"http://127.0.0.1:{socket.server_port}" for socket in sockets))
            for socket, base in zip(sockets, (servers.honest, servers.evil), strict=True):
                stack.callback(socket.server_close)
                socket.answer = lambda path, headers, body, base=base: (  # type: ignore[attr-defined]
                    servers.answer(base + path, headers, body)
                )
                threading.Thread(target=socket.serve_forever, daemon=True).start()
                stack.callback(socket.shutdown)
            yield servers

    def send(self, request: Request, timeout: float) -> Response | Failure:
        """Answer at once, without a socket."""
        return self.answer(request.url, request.headers, request.body)

    def close(self) -> None:
        """Do nothing."""

    def answer(self, url: str, headers: Mapping[str, str], body: bytes) -> Response:
        """Remember the request and answer it."""
        honest = url.startswith(f"{self.honest}/")
        text = "\n".join(
            [url, *map(_readable, headers.values()), unquote_plus(body.decode(errors="replace"))]
        )
        logins = frozenset(_LOGIN.findall(text))
        self.sent.append(Sent(honest, text, logins))
        path = urlsplit(url).path
        if path.endswith(("/code", "/api/device-login")):
            return self._code(honest, next(iter(logins), "nobody"))
        if path.endswith("/revoke"):
            return _json(200, {})
        if not honest or logins & self.granting:
            name = next(iter(logins), "nobody")
            return _json(200, token_of(name) if honest else token_of("evil"))
        studio = body.startswith(b"{")
        pending = {"detail" if studio else "error": PENDING}
        return _json(400, pending)

    def _code(self, honest: bool, name: str) -> Response:
        return _json(200, code_of(name, self.honest if honest else self.evil))


PENDING: Final = "authorization_pending"


def code_of(name: str, base: str) -> dict[str, Any]:
    """Return what a server sends with the code for a login."""
    return {
        "device_code": DEVICE.format(name),
        "user_code": "WDJB-MJHT",
        "verification_uri": f"{base}/device",
        "token_uri": f"{base}/token",
        "token_name": "nightly",
        "interval": 5,
        "expires_in": 86400,
    }


def token_of(name: str) -> dict[str, Any]:
    """Return what a server sends with the token of a login."""
    return {
        "access_token": TOKEN.format(name),
        "refresh_token": REFRESH.format(name),
        "token_type": "bearer",
        "expires_in": 3600,
    }


def _json(status: int, said: Any) -> Response:
    return Response(status, {"Content-Type": "application/json"}, json.dumps(said).encode())


def _readable(header: str) -> str:
    if header.startswith("Basic "):
        with suppress(ValueError):
            return unquote_plus(base64.b64decode(header.removeprefix("Basic ")).decode())
    return header


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        response = self.server.answer(self.path, dict(self.headers), body)  # type: ignore[attr-defined]
        self.send_response(response.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        self.wfile.write(response.body)

    do_GET = do_POST  # noqa: N815  # http.server's name

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's
        pass
