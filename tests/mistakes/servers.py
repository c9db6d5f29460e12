"""Servers that answer as the first part of the path says, and addresses where none answers."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self

_HTML: Final = "<html>Please sign in to the network</html>"
_CODE: Final = {"device_code": "D", "user_code": "WDJB-MJHT", "expires_in": 600, "interval": 0}


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        parts = self.path.strip("/").split("/")
        case = parts[-1] if parts[0] == ".well-known" else parts[0]
        at = f"http://{self.headers['Host']}/{case}"
        metadata = {"issuer": at, "token_endpoint": f"{at}/token"}
        if case != "no-device":
            metadata["device_authorization_endpoint"] = f"{at}/device"
        match case:
            case "metadata-502":
                self._answer(502, _HTML)
            case "metadata-html":
                self._answer(200, _HTML)
            case "metadata-404":
                self._answer(404, _HTML)
            case _:
                self._answer(200, metadata)

    def do_POST(self) -> None:
        _, case, endpoint = self.path.split("/")
        length = int(self.headers["Content-Length"] or 0)
        self.rfile.read(length)
        status, answer = _ANSWERS.get(f"{case} {endpoint}", (200, None))
        if answer is None and endpoint == "device":
            at = f"http://{self.headers['Host']}/{case}"
            answer = _CODE | {"verification_uri": f"{at}/page"}
        self._answer(status, answer)

    def _answer(self, status: int, body: Any) -> None:
        sent = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        if status == 307:
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
        self.send_header(
            "Content-Type", "text/html" if isinstance(body, str) else "application/json"
        )
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name there
        pass


_ANSWERS: Final[dict[str, tuple[int, Any]]] = {
    "gateway device": (502, _HTML),
    "portal device": (200, _HTML),
    "gone device": (404, _HTML),
    "moved device": (307, ""),
    "client device": (401, {"error": "invalid_client"}),
    "grant device": (400, {"error": "unauthorized_client"}),
    "scope device": (400, {"error": "invalid_scope", "error_description": "no such scope: admin"}),
    "denied token": (400, {"error": "access_denied"}),
    "expired token": (400, {"error": "expired_token"}),
    "forgotten token": (400, {"error": "invalid_grant"}),
}


class Servers:
    """A server that answers wrongly, and a port that nobody listens at.

    Attributes:
        names: What stands for their addresses in the table.
    """

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            closed = free.getsockname()[1]
        self.names = {
            "TROUBLE": f"http://127.0.0.1:{self._server.server_address[1]}",
            "WITHOUT-TLS": f"https://127.0.0.1:{self._server.server_address[1]}",
            "CLOSED": f"http://127.0.0.1:{closed}",
        }

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
