from __future__ import annotations

import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
import requests

from deviceflow.server import LocalServer, Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.conftest import Local, Remote


def test_serves_until_it_is_closed() -> None:
    threads = set(threading.enumerate())
    with LocalServer() as server:
        assert requests.get(f"{server.url}/device", timeout=60).status_code == 200
        assert set(threading.enumerate()) - threads
    assert set(threading.enumerate()) <= threads
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{server.url}/device", timeout=60)
    server.close()


def test_given_port() -> None:
    with LocalServer() as free:
        url = free.url
    port = int(url.rpartition(":")[2])
    with LocalServer(Settings(port=port)) as server:
        assert server.url == url
        with pytest.raises(OSError, match="in use"):
            LocalServer(Settings(port=port))


def test_two_at_once() -> None:
    with LocalServer() as one, LocalServer() as two:
        assert one.url != two.url


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", *(["::1"] if has_ipv6() else [])])
def test_loopback(host: str) -> None:
    with LocalServer(Settings(host=host)) as server:
        metadata = requests.get(
            f"{server.url}/.well-known/oauth-authorization-server", timeout=60
        ).json()
        assert metadata["issuer"] == server.url


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
def test_nothing_but_loopback(host: str) -> None:
    with pytest.raises(ValueError, match="loopback"):
        Settings(host=host)


def test_loopback_name_that_leads_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(2, 1, 6, "", ("192.0.2.1", 0))]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: found)
    with pytest.raises(ValueError, match=r"192\.0\.2\.1"):
        LocalServer(Settings(host="localhost"))


@pytest.mark.parametrize(
    "settings",
    [
        {"expires_in": 0},
        {"interval": -1},
        {"rate_check": "sometimes"},
        {"port": 65536},
        {"guess_limit": 0},
        {"guess_window": 0},
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Settings(**settings)  # type: ignore[arg-type]


def test_prints_nothing() -> None:
    """Neither a busy server, nor a client that hangs up, nor a fault in the application."""
    script = """
import socket
from concurrent.futures import ThreadPoolExecutor
import requests
from deviceflow.server import LocalServer, pending

def fail(*_):
    raise RuntimeError("a fault")

with LocalServer() as server:
    pending.PendingLogins.find = fail
    host, port = server.url.removeprefix("http://").split(":")
    for _ in range(20):
        socket.create_connection((host, int(port))).sendall(b"GET /device HTTP/1.1\\r\\n")
    with ThreadPoolExecutor(40) as pool:
        list(pool.map(lambda _: requests.get(server.url + "/device", timeout=60), range(200)))
    pending.PendingLogins.add = fail
    answer = requests.post(server.url + "/oauth/device_authorization", data={"client_id": "x"})
    assert answer.status_code == 500 and answer.json()["error"] == "server_error", answer.text
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert (run.stdout, run.stderr) == ("", "")


@pytest.mark.parametrize("module", ["authlib", "flask", "waitress"])
def test_extra_is_named_where_it_is_missing(module: str) -> None:
    script = f"""
import sys
sys.modules[{module!r}] = None
try:
    import deviceflow.server
except ImportError as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert module in run.stdout
    assert "pip install 'deviceflow[server]'" in run.stdout


class TestHost:
    @pytest.mark.parametrize(
        "host",
        [
            "example.com",
            "example.com:80",
            "192.0.2.1",
            "127.0.0.1.example.com",
            "localhost@example.com",
            "[::2]",
            "[::1",
            "",
        ],
    )
    @pytest.mark.parametrize("path", ["/device", "/control/log", "/static/page.css", "/nowhere"])
    def test_foreign(self, local: Callable[..., Local], host: str, path: str) -> None:
        answer = local(control=True).http.get(path, headers={"Host": host})
        assert answer.status_code == 400
        assert "loopback" in answer.text

    @pytest.mark.parametrize(
        "host", ["localhost:8080", "LOCALHOST", "127.0.0.1", "127.9.9.9:1", "[::1]:80", "[::1]"]
    )
    def test_own(self, local: Callable[..., Local], host: str) -> None:
        assert local().http.get("/device", headers={"Host": host}).status_code == 200

    def test_over_http(self, serve: Callable[..., Remote]) -> None:
        answer = serve().post(
            "/oauth/device_authorization",
            data={"client_id": "x"},
            headers={"Host": "rebound.example.com"},
        )
        assert answer.status_code == 400
        assert "device_code" not in answer.text
