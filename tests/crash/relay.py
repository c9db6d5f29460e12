"""A proxy before a server that rotates refresh tokens: it cuts answers, and watches refreshes."""

from __future__ import annotations

import http.client
import json
import socket
import socketserver
import struct
import threading
import time
from typing import TYPE_CHECKING, Final, Literal, Self
from urllib.parse import parse_qs, urlsplit

from tests.crash.gate import CANARY, PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

Cut = Literal["head", "nothing", "half", "reset", "late", "held"]
"""How an answer is spoilt.

`head` sends no more than the head, `nothing` not even that, `half` half of the body; `reset` sends
everything and resets the connection. `late` sends nothing until the client has given up, and `held`
nothing until the answer is let go.
"""

CUTS: Final[tuple[Cut, ...]] = ("head", "nothing", "half", "reset", "late")

_HIDDEN: Final = ("access_token", "refresh_token", "device_code")


class Relay:
    """Passes requests on to a server, one at a time for each refresh token, and answers back.

    Every secret begins with the canary for whoever is behind the proxy, and without it for the
    server.

    Attributes:
        url: Where it is.
        cuts: What is to happen to the next answers to refreshes.
        held: Set while an answer is kept back.
        let_go: To be set to send it.
        refreshes: The refresh tokens that came, in their order.
        wrong: What a server must not see.
    """

    def __init__(self, server: str, watch: Callable[[str], str | None] = lambda _: None) -> None:
        """Begin to listen.

        Args:
            server: The server's address.
            watch: Given each refresh token on its way to the server, says what is wrong with it.
        """
        self._server = urlsplit(server).netloc
        self._watch = watch
        self._lock = threading.Lock()
        self._open: dict[str, int] = {}
        self._connections = 0
        self.cuts: list[Cut] = []
        self.held = threading.Event()
        self.let_go = threading.Event()
        self.refreshes: list[str] = []
        self.wrong: list[str] = []
        serve, relay = self._serve, self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                try:
                    serve(self.request)
                except OSError:
                    pass  # whoever asked was killed
                finally:
                    with relay._lock:
                        relay._connections -= 1

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 256

            def process_request(self, request: object, client_address: object) -> None:
                with relay._lock:
                    relay._connections += 1
                super().process_request(request, client_address)  # type: ignore[arg-type]

        self._listener = Server(("127.0.0.1", 0), Handler)
        self._port = int(self._listener.server_address[1])
        self.url = f"http://127.0.0.1:{self._port}"
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.01,))
        self._thread.start()

    def settle(self) -> None:
        """Wait until whatever dead processes had sent is dealt with."""
        self.let_go.set()
        # Connections are accepted in their order: behind ours, none of theirs is waiting.
        with socket.create_connection(("127.0.0.1", self._port)) as own:
            own.sendall(b"GET /settle HTTP/1.1\r\n\r\n")
            own.recv(1)
        until = time.monotonic() + PATIENCE
        while self._connections:
            assert time.monotonic() < until, "a connection stays open"
            time.sleep(0.0005)
        self.held.clear()
        self.let_go.clear()

    def close(self) -> None:
        """Stop listening."""
        self.let_go.set()
        self._listener.shutdown()
        self._listener.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _serve(self, client: socket.socket) -> None:
        stream = client.makefile("rb")
        while line := stream.readline():
            method, path, _ = line.decode().split(" ", 2)
            headers = http.client.parse_headers(stream)
            if path == "/settle":
                client.sendall(b".")
                return
            body = stream.read(int(headers.get("Content-Length", "0")))
            refresh = parse_qs(body.decode()).get("refresh_token", [None])[0]
            is_refresh = refresh is not None and path.endswith("/token")
            cut: Cut | None = None
            with self._lock:
                if is_refresh and refresh is not None:
                    self._note(refresh)
                    cut = self.cuts.pop(0) if self.cuts else None
            try:
                status, sent = self._pass_on(method, path, dict(headers), body)
            finally:
                with self._lock:
                    if is_refresh and refresh is not None:
                        self._open[refresh] -= 1
            if self._answer(client, status, sent, cut):
                return

    def _note(self, refresh: str) -> None:
        self.refreshes.append(refresh)
        self._open[refresh] = self._open.get(refresh, 0) + 1
        if self._open[refresh] > 1:
            self.wrong.append("two requests with one refresh token were in flight")
        try:
            found = self._watch(refresh)
        except Exception as error:  # noqa: BLE001  # this is not the test's thread
            found = f"what is stored cannot be looked at: {error!r}"
        if found is not None:
            self.wrong.append(found)

    def _pass_on(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes]:
        canary = CANARY.encode()
        body = body.replace(canary, b"")
        passed = {
            name: value.replace(CANARY, "")
            for name, value in headers.items()
            if name.lower() in ("authorization", "content-type", "accept")
        }
        server = http.client.HTTPConnection(self._server, timeout=PATIENCE)
        try:
            server.request(method, path, body or None, passed | {"Connection": "close"})
            answer = server.getresponse()
            sent = answer.read()
        finally:
            server.close()
        fields = json.loads(sent) if sent.startswith(b"{") else None
        if isinstance(fields, dict):
            fields |= {n: CANARY + str(fields[n]) for n in _HIDDEN if n in fields}
            sent = json.dumps(fields).encode()
        return answer.status, sent

    def _answer(self, client: socket.socket, status: int, sent: bytes, cut: Cut | None) -> bool:
        """Send an answer, or what is left of it; return whether the connection is to be closed."""
        head = f"HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\n".encode()
        head += f"Content-Length: {len(sent)}\r\n\r\n".encode()
        match cut:
            case "nothing":
                return True
            case "head":
                client.sendall(head)
                return True
            case "half":
                client.sendall(head + sent[: len(sent) // 2])
                return True
            case "reset":
                client.sendall(head + sent)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return True
            case "late":
                client.settimeout(PATIENCE)
                client.recv(1)  # nothing comes, until the client has given up
                return True
            case "held":
                self.held.set()
                self.let_go.wait(PATIENCE)
        client.sendall(head + sent)
        return False
