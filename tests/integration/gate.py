"""A gate before the local server, by which tests see and hold the requests of many processes."""

from __future__ import annotations

import contextlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final

import requests

if TYPE_CHECKING:
    from deviceflow.server import LocalServer

_SECRETS: Final = frozenset({"device_code", "user_code", "access_token", "refresh_token"})
_PATIENCE: Final = 60.0  # seconds, for what takes a few


class Gate:
    """Stands before a server. It can hold a request, and knows which ones overlapped.

    Attributes:
        url: The server's address, by way of the gate.
        seen: The codes and tokens that went through, by the names of their fields.
        overlaps: How often two requests with the same code or refresh token were under way.
        polls: How many polls went through.
    """

    def __init__(self, server: LocalServer) -> None:
        self.seen: dict[str, set[str]] = {name: set() for name in _SECRETS}
        self.overlaps = 0
        self.polls = 0
        self._server = server
        self._lock = threading.Lock()
        self._under_way: list[str] = []
        self._wanted: str | None = None
        self._caught = threading.Event()
        gate = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_GET(self) -> None:
                gate.handle(self, b"")

            def do_POST(self) -> None:
                gate.handle(self, self.rfile.read(int(self.headers["Content-Length"])))

            def log_message(self, *args: object) -> None:
                """Print nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url: Final = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    @property
    def secrets(self) -> set[str]:
        """All codes and tokens that went through."""
        return set().union(*self.seen.values())

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def hold(self, kind: str) -> threading.Event:
        """Hold the next request of a kind, and never answer: the event says that it is there."""
        self._caught = threading.Event()
        self._wanted = kind
        return self._caught

    def handle(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        form = dict(re.findall(r"([a-z_]+)=([^&]*)", body.decode()))
        kind = form.get("grant_type", "").rpartition("%3A")[2]
        sent = form.get("device_code") or form.get("refresh_token")
        with self._lock:
            self.polls += "device_code" in form
            self.overlaps += sent is not None and sent in self._under_way
            if sent is not None:
                self._under_way.append(sent)
            held = self._wanted is not None and kind == self._wanted
            if held:
                self._wanted = None
        try:
            if held:
                self._caught.set()
                handler.connection.settimeout(_PATIENCE)
                with contextlib.suppress(OSError):
                    handler.connection.recv(1)  # until whoever asked is gone
                return
            self._forward(handler, body)
        finally:
            if sent is not None:
                with self._lock:
                    self._under_way.remove(sent)

    def _forward(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        headers = {
            name: value
            for name in ("Authorization", "Content-Type", "Host")
            if (value := handler.headers.get(name))
        }
        url = self._server.url + handler.path
        answer = requests.request(handler.command, url, headers=headers, data=body, timeout=60)
        with contextlib.suppress(ValueError):
            found = answer.json()
            with self._lock:
                for name in _SECRETS & found.keys():
                    self.seen[name].add(found[name])
        with contextlib.suppress(OSError):
            handler.send_response(answer.status_code)
            handler.send_header("Content-Type", answer.headers["Content-Type"])
            handler.send_header("Content-Length", str(len(answer.content)))
            handler.end_headers()
            handler.wfile.write(answer.content)
