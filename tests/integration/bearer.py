"""An authorization server and a resource server: what the auth objects are tested against."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

from deviceflow import OAuth
from deviceflow.testing import answer

if TYPE_CHECKING:
    from deviceflow.core.wire import Failure, Request, Response

THREADS: Final = 8
NAME: Final = "nightly"
SERVER: Final = "https://login.example.com"
PROVIDER: Final = OAuth(
    device_authorization_endpoint=f"{SERVER}/device",
    token_endpoint=f"{SERVER}/token",
    client_id="robot",
)


class Issuer:
    """A transport with a server in it, whose every login is approved at once.

    Attributes:
        logins: How many codes were asked for.
        refreshes: How many refreshes were tried.
        answer_login: What a poll is answered with, in place of a token.
        answer_refresh: Likewise, a refresh.
        refreshable: Whether refresh tokens are given out.
        lifetime: The lifetime of an access token in seconds; 0 to say nothing of it.
        token_type: The type of tokens; None to say nothing of it.
    """

    def __init__(self, accepted: set[str]) -> None:
        self.logins = 0
        self.refreshes = 0
        self.answer_login: Response | None = None
        self.answer_refresh: Response | Failure | None = None
        self.refreshable = True
        self.lifetime = 0
        self.token_type: str | None = "bearer"
        self._accepted = accepted
        self._issued = 0

    def send(self, request: Request, timeout: float) -> Response | Failure:
        if request.purpose == "code":
            self.logins += 1
            page = {"verification_uri": f"{SERVER}/go", "interval": 0, "expires_in": 900}
            return answer(200, {"device_code": "d", "user_code": "WDJB-MJHT"} | page)
        if b"grant_type=refresh_token" in request.body:
            self.refreshes += 1
            return self.answer_refresh or self._token()
        return self.answer_login or self._token()

    def _token(self) -> Response:
        self._issued += 1
        token: dict[str, Any] = {"access_token": f"access-{self._issued}"}
        if self.token_type is not None:
            token["token_type"] = self.token_type
        if self.refreshable:
            token["refresh_token"] = f"refresh-{self._issued}"
        if self.lifetime:
            token["expires_in"] = self.lifetime
        self._accepted.add(token["access_token"])
        return answer(200, token)

    def close(self) -> None:
        pass


class Resource:
    """A server of what tokens are for, on a real port.

    `/to?URL` redirects there by 307, `/see?URL` by 303; all else needs a token. The body of
    `/stream` is begun, and ended once `go_on` is set.

    Attributes:
        accepted: The tokens that it takes.
        seen: The path, the token and the body of each request that came.
        together: Where set, so many requests are answered together.
        go_on: When to end the body of `/stream`.
        refusal: The status for other tokens, and the header `WWW-Authenticate`.
    """

    def __init__(self) -> None:
        self.accepted: set[str] = set()
        self.seen: list[tuple[str, str | None, bytes]] = []
        self.together: threading.Barrier | None = None
        self.go_on = threading.Event()
        self.refusal: tuple[int, str | None] = (401, None)
        resource = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                resource.handle(self)

            do_POST = do_GET  # noqa: N815  # http.server's name

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = b""
        if request.headers.get("Transfer-Encoding") == "chunked":
            while size := int(request.rfile.readline(), 16):
                body += request.rfile.read(size)
                request.rfile.readline()
            request.rfile.readline()
        else:
            body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        token = request.headers.get("Authorization", "").removeprefix("Bearer ") or None
        path, _, target = request.path.partition("?")
        self.seen.append((path, token, body))
        if self.together is not None:
            self.together.wait(timeout=60)
        said = b"{}"
        if path in ("/to", "/see"):
            request.send_response(307 if path == "/to" else 303)
            request.send_header("Location", target)
        else:
            status, challenge = (200, None) if token in self.accepted else self.refusal
            request.send_response(status)
            if challenge is not None:
                request.send_header("WWW-Authenticate", challenge)
            said = json.dumps({"token": token}).encode()
        request.send_header("Content-Length", str(len(said)))
        request.end_headers()
        request.wfile.write(said[:1])
        if path == "/stream" and token in self.accepted:
            assert self.go_on.wait(timeout=60)
        request.wfile.write(said[1:])

    @property
    def tokens(self) -> list[str | None]:
        return [token for _, token, _ in self.seen]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
