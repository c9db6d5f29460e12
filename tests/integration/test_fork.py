"""A client on both sides of a fork: gunicorn `--preload`, Celery's prefork, `multiprocessing`."""

from __future__ import annotations

import http.server
import itertools
import json
import os
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import pytest
import trustme

from tests.integration.forked import LOGINS, WORKERS

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

_ROOT: Final = Path(__file__).parents[2]


class Handler(http.server.BaseHTTPRequestHandler):
    """Gives each code a token of its own, and keeps connections open."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path in ("/code", "/api/device-login"):
            code = f"code-{next(self.server.numbers)}-{os.urandom(8).hex()}"
            body = {
                "device_code": code,
                "user_code": "ABCD",
                "verification_uri": f"{self.server.url}/page",
                "token_uri": f"{self.server.url}/studio",
            }
        elif self.path in ("/token", "/studio"):
            time.sleep(0.01)  # all workers wait for an answer at once
            named = json.loads(sent).values() if sent[0] == "{" else parse_qs(sent)["device_code"]
            body = {"access_token": f"token-of-{next(iter(named))}"}
        else:
            self.server.revoked += 1
            body = {}
        self._answer(body)

    def do_GET(self) -> None:
        self._answer({})

    def _answer(self, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Be silent."""


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self.server_address[1]}"
        if tls:
            self.socket = tls.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
        self.numbers = itertools.count(1)
        self.connections = 0
        self.revoked = 0

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Be silent: a process that ends closes its connection as it likes."""


@pytest.fixture
def serve() -> Iterator[Any]:
    servers = []

    def start(tls: ssl.SSLContext | None = None) -> Server:
        server = Server(tls)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def run(*arguments: str, **environment: str) -> Any:
    """Run a function of `forked`, and return what it returned."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.forked", *arguments],
        cwd=_ROOT,
        env=os.environ
        | {"NO_PROXY": "127.0.0.1", "PYTHONPATH": os.pathsep.join(sys.path)}
        | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("kind", "how", "runs"),
    [("own", "os", 12), ("own", "multiprocessing", 12), ("limited", "os", 4), ("foreign", "os", 4)],
)
def test_each_login_of_a_forked_pool_ends_with_its_own_token(
    serve: Any, kind: str, how: str, runs: int
) -> None:
    server = serve()

    found = run("crossing", server.url, kind, how, str(runs))

    assert len(found) == runs * (LOGINS + 1)
    assert [token for _, token in found] == [f"token-of-{code}" for code, _ in found]
    # The parent keeps the connection that it had, and each worker has one of its own.
    assert server.connections <= runs * (1 + WORKERS)


def test_a_connection_with_tls_outlives_the_children(serve: Any, tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = serve(context)

    bundle = str(tmp_path / "ca.pem")
    found = run("crossing", server.url, "own", "os", "3", REQUESTS_CA_BUNDLE=bundle)

    assert [token for _, token in found] == [f"token-of-{code}" for code, _ in found]
    assert server.connections <= 3 * (1 + WORKERS)


def test_a_token_that_could_not_be_saved_stays_with_the_process_that_has_it(serve: Any) -> None:
    server = serve()

    code, child_saw, token, strays, to_revoke = run("unsaved", server.url)

    assert (code, child_saw) == (0, "polling")
    assert token.startswith("token-of-code-1-")
    assert (strays, to_revoke, server.revoked) == (0, [], 0)


def test_a_child_of_who_holds_a_login_neither_polls_for_it_nor_gives_it_back() -> None:
    codes, changed, actions = run("holding")

    assert (codes, changed) == ([0, 0], False)
    assert actions == ["issue_code", "poll", "issue_token"]


@pytest.mark.parametrize(
    "where", ["held_clock", "held_memory", "held_sqlite", "closed_sqlite", "held_login", "busy"]
)
def test_a_child_does_not_wait_for_a_thread_that_it_does_not_have(serve: Any, where: str) -> None:
    assert set(run(where, serve().url)) == {0}
