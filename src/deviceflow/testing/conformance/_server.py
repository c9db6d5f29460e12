"""A server that does what one check says, and notes what it was asked, and when."""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, Literal, Self
from urllib.parse import parse_qsl

from deviceflow.testing.conformance._checks import DEVICE_CODE, SILENCE, SLOWER, Answer

if TYPE_CHECKING:
    import ssl

    from deviceflow.testing.conformance._checks import Check

_CHUNK: Final = b" " * (1 << 20)


@dataclass
class Sent:
    """A request of the client.

    Attributes:
        at: When it came, by `time.monotonic()`.
        method: Its HTTP method.
        form: The fields of its form; None if the body is none.
        content_type: Its header `Content-Type`.
        authorization: Whether it has the header `Authorization`.
        answer: How a poll was answered; None for a request for a code.
        left_at: When the client gave up a connection on which nothing came.
    """

    at: float
    method: str
    form: dict[str, str] | None
    content_type: str = ""
    authorization: bool = False
    answer: Answer | None = None
    left_at: float | None = None


@dataclass
class Record:
    """What one server has seen.

    Attributes:
        check: What it does.
        codes: The requests for a code.
        polls: The polls.
        strays: How many requests with the device code came where it had redirected to.
        client_id: The client id that the client was given; None if it has one of its own.
    """

    check: Check
    codes: list[Sent] = field(default_factory=list)
    polls: list[Sent] = field(default_factory=list)
    strays: int = 0
    client_id: str | None = None

    def gaps(self) -> list[tuple[float, float]]:
        """Return the seconds between each two polls, with those that the server had asked for."""
        interval, gaps = self.check.interval, []
        for one, other in zip(self.polls, self.polls[1:], strict=False):
            answer = one.answer or Answer()
            if answer.slow_down:
                interval += SLOWER
            gaps.append((other.at - one.at, max(interval, answer.retry_after)))
        return gaps

    def after_final(self) -> int:
        """Return how many polls came after an answer that was final."""
        ended = [n for n, poll in enumerate(self.polls) if poll.answer and poll.answer.final]
        return len(self.polls) - 1 - ended[0] if ended else 0


class Server:
    """Serves one check on a free port of 127.0.0.1, until it is closed.

    Args:
        check: The check.
        context: What to speak TLS with; None for plain http.
        client_id: The client id that the client is given, if any.
    """

    def __init__(
        self,
        check: Check,
        context: ssl.SSLContext | None = None,
        *,
        client_id: str | None = None,
    ) -> None:
        self.record = Record(check, client_id=client_id)
        self._http = _HTTP(self.record, context)
        scheme, port = ("https" if context else "http"), self._http.server_address[1]
        self.url = self._http.url = f"{scheme}://localhost:{port}/tenant"
        self._http.elsewhere = f"{scheme}://127.0.0.1:{port}/elsewhere"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


class _HTTP(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    url = elsewhere = ""

    def __init__(self, record: Record, context: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.record = record
        self.context = context
        self.closing = threading.Event()
        self.lock = threading.Lock()

    def next_answer(self) -> Answer:
        answers = self.record.check.answers
        return answers[min(len(self.record.polls), len(answers) - 1)]

    def polled(self, sent: Sent) -> Answer:
        with self.lock:
            sent.answer = self.next_answer()
            self.record.polls.append(sent)
            return sent.answer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: connections that end badly are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    server: _HTTP
    connection: socket.socket
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        self.plain = self.request
        if self.server.record.codes and self.server.next_answer().fault == "refused":
            self.plain.recv(1)
            self.server.polled(Sent(time.monotonic(), "", None))
            _reset(self.plain)
            raise ConnectionResetError
        if self.server.context:
            self.request = self.server.context.wrap_socket(self.plain, server_side=True)
        super().setup()

    def finish(self) -> None:
        super().finish()
        with suppress(OSError):
            self.request.close()

    def do_GET(self) -> None:
        """Serve the metadata."""
        if self._asks_for() is not None:
            self._post()
            return
        url = self.server.url
        self._send(
            _json(
                {
                    "issuer": url,
                    "device_authorization_endpoint": f"{url}/device_authorization",
                    "token_endpoint": f"{url}/token",
                    "authorization_endpoint": f"{url}/authorize",
                    "jwks_uri": f"{url}/jwks",
                    "grant_types_supported": ["urn:ietf:params:oauth:grant-type:device_code"],
                    "response_types_supported": ["code"],
                    "scopes_supported": ["openid", "offline_access"],
                }
            )
        )

    def do_POST(self) -> None:
        self._post()

    def _post(self) -> None:
        at = time.monotonic()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        sent = Sent(
            at,
            self.command,
            self._form(body),
            content_type=self.headers.get("Content-Type", ""),
            authorization="Authorization" in self.headers,
        )
        if self.path.endswith("/elsewhere"):
            self.server.record.strays += DEVICE_CODE in (sent.form or {}).values()
            self._send(_json({"error": "authorization_pending"}, 400))
        elif self._asks_for() == "token":
            self._token(self.server.polled(sent), sent)
        elif self._asks_for() == "code":
            self.server.record.codes.append(sent)
            self._send(_json(self.server.record.check.device_answer(self.server.url)))
        else:
            self._send(_json({}))  # what a client does with its token

    def _asks_for(self) -> Literal["code", "token"] | None:
        # Some clients make the paths of the endpoints themselves, from the name of a host.
        path = self.path.partition("?")[0]
        if path.endswith("token"):
            return "token"
        codes = ("/device_authorization", "/device/code", "/devicecode")
        return "code" if path.endswith(codes) else None

    def _form(self, body: bytes) -> dict[str, str] | None:
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind != "application/x-www-form-urlencoded":
            return None
        return dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))

    def _token(self, answer: Answer, sent: Sent) -> None:
        if answer.fault == "silent":
            sent.left_at = self._wait_until_left()
        if answer.fault in ("reset", "silent"):
            self.close_connection = True
            self.rfile.close()
            _reset(self.connection)
            return
        self._send(answer)

    def _wait_until_left(self) -> float | None:
        until = time.monotonic() + SILENCE
        while time.monotonic() < until and not self.server.closing.is_set():
            if select.select([self.connection], [], [], 0.1)[0]:
                return time.monotonic()
        return None

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, self.server.elsewhere if name == "Location" else value)
        self.send_header("Content-Length", str(len(answer.body) + answer.filler))
        # So that each poll is a connection of its own, and a reset hits the one that is meant.
        self.send_header("Connection", "close")
        self.end_headers()
        for _ in range(answer.filler // len(_CHUNK)):
            self.wfile.write(_CHUNK)
        half = len(answer.body) // 2 if answer.fault == "cut" else None
        self.wfile.write(answer.body[:half])

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def _json(body: dict[str, Any], status: int = 200) -> Answer:
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
    return Answer(status=status, body=json.dumps(body).encode(), headers=headers)


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
