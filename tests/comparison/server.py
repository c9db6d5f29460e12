"""A server that does what a script says, over TLS on loopback, and notes when it was asked."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import trustme

from tests.comparison.scenarios import DEVICE_CODE, SLOWER, Answer, Endpoints, Scenario

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Certificates:
    """An authority of our own, and the certificate that it gave to this machine.

    Args:
        directory: Where to write the authority's certificate.
    """

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        self.authority = directory / "authority.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(self.context)


class Gap(NamedTuple):
    """The seconds between two polls, and those that the server had asked for."""

    seconds: float
    asked: float

    @property
    def early(self) -> float:
        """Seconds by which the second poll came too early."""
        return self.asked - self.seconds


@dataclass
class Record:
    """What a server has seen.

    Attributes:
        issued_at: When it sent the code.
        polls: When each token request arrived.
        answers: What it answered to each.
        strays: How many requests with the device code arrived where it had redirected to.
    """

    scenario: Scenario
    issued_at: float = 0.0
    polls: list[float] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    strays: int = 0

    def tightest(self) -> Gap | None:
        """Return the gap between two polls that leaves the least of what was asked for."""
        interval, gaps = self.scenario.interval, []
        for number, answer in enumerate(self.answers[:-1]):
            if answer.slow_down:
                interval = max(interval + SLOWER, answer.interval)
            seconds = self.polls[number + 1] - self.polls[number]
            gaps.append(Gap(seconds, max(interval, answer.retry_after)))
        return max(gaps, key=lambda gap: gap.early, default=None)

    def after_final(self) -> int:
        """Return how many polls came after an answer that was final."""
        ended = [number for number, answer in enumerate(self.answers) if answer.final]
        return len(self.polls) - 1 - ended[0] if ended else 0

    def after_lifetime(self) -> int:
        """Return how many polls came after the code's lifetime."""
        over = self.issued_at + self.scenario.lifetime
        return sum(when > over for when in self.polls)


class ScriptedServer:
    """Serves one scenario to one login, until it is closed.

    Args:
        scenario: The script.
        certificates: What to speak TLS with.
        now: What tells the time.
        sleep: What lets time pass.
    """

    def __init__(
        self,
        scenario: Scenario,
        certificates: Certificates,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.record = Record(scenario)
        self._http = _Server(certificates.context, self.record, now, sleep)
        port = self._http.server_address[1]
        # MSAL wants a path of at least one segment in an authority.
        url = f"https://localhost:{port}/tenant"
        self._http.url = url
        self._http.elsewhere = f"https://127.0.0.1:{port}/elsewhere"
        self.endpoints = Endpoints(url, f"{url}/device_authorization", f"{url}/token")
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    url = elsewhere = ""

    def __init__(
        self,
        context: ssl.SSLContext,
        record: Record,
        now: Callable[[], float],
        sleep: Callable[[float], object],
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.context = context
        self.record = record
        self.now = now
        self.sleep = sleep

    def next_answer(self) -> Answer:
        answers = self.record.scenario.answers
        return answers[min(len(self.record.polls), len(answers) - 1)]

    def polled(self, answer: Answer) -> None:
        self.record.polls.append(self.now())
        self.record.answers.append(answer)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: connections that end badly are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    connection: socket.socket
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        self.plain = self.request
        if self.server.record.issued_at and self.server.next_answer().reset == "handshake":
            self.plain.recv(1)
            self.server.polled(self.server.next_answer())
            _reset(self.plain)
            raise ConnectionResetError
        self.request = self.server.context.wrap_socket(self.plain, server_side=True)
        super().setup()

    def finish(self) -> None:
        super().finish()
        with suppress(OSError):
            self.request.close()

    def do_GET(self) -> None:
        """Serve the metadata, which MSAL cannot do without."""
        self._send(_json({"issuer": self.server.url} | self._endpoints()))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.endswith("/elsewhere"):
            self.server.record.strays += DEVICE_CODE.encode() in body
            self._send(_json({"error": "authorization_pending"}, 400))
        elif self.path.endswith("/token"):
            self._token()
        else:
            self.server.record.issued_at = self.server.now()
            self._send(_json(self.server.record.scenario.device_answer(self.server.url)))

    def _endpoints(self) -> dict[str, str]:
        names = {"token": "token", "authorization": "authorize"}
        names["device_authorization"] = "device_authorization"
        return {f"{name}_endpoint": f"{self.server.url}/{path}" for name, path in names.items()}

    def _token(self) -> None:
        answer = self.server.next_answer()
        self.server.polled(answer)
        if answer.delay:
            self.server.sleep(answer.delay)
        if answer.reset:
            self.close_connection = True
            self.rfile.close()
            _reset(self.connection)
            return
        self._send(answer)

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, self.server.elsewhere if name == "Location" else value)
        self.send_header("Content-Length", str(len(answer.body)))
        # So that each poll is a connection of its own, and a reset hits the one that is meant.
        self.send_header("Connection", "close")
        self.end_headers()
        half = len(answer.body) // 2 if answer.cut else None
        self.wfile.write(answer.body[:half])

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def _json(body: dict[str, Any], status: int = 200) -> Answer:
    headers = (("Content-Type", "application/json"),)
    return Answer(status=status, body=json.dumps(body).encode(), headers=headers)


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
