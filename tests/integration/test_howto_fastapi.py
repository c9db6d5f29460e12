"""The web service of the how-to: it streams how logins get on, and survives being killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest
import requests

from deviceflow import Client
from deviceflow.server import LocalServer, Settings
from tests.integration.celery_brokers import wait_until
from tests.postgres import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

APP: Final = Path(__file__).parents[2] / "docs/how-to/fastapi"
PATIENCE: Final = 60.0  # seconds, for what takes a fraction of one
USERS: Final = ("alice", "bob", "carol", "dave")


class Service:
    """The service, started and started again at the same port and with the same store."""

    def __init__(self, folder: Path, server: LocalServer) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.store = f"sqlite:///{folder / 'logins.db'}"
        self._environment = os.environ | {
            "DEVICEFLOW_STORE": self.store,
            "ISSUER": server.url,
            "REPORT_API": f"{server.url}/oauth/resource",
        }

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(self.port)]
        command += ["--timeout-graceful-shutdown", "1", "--log-level", "warning"]
        with subprocess.Popen(command, cwd=APP, env=self._environment) as process:
            try:
                self._wait_until_it_serves(process)
                yield process
            finally:
                process.kill()

    def _wait_until_it_serves(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                httpx.get(f"{self.url}/logins/none/events")
            except httpx.TransportError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            else:
                return


class Stream:
    """A browser that follows a login."""

    def __init__(self, service: Service, login_id: str) -> None:
        self.states: list[str] = []
        self.connected = threading.Event()
        self._url = f"{service.url}/logins/{login_id}/events"
        self.thread = threading.Thread(target=self._follow, daemon=True)
        self.thread.start()

    def _follow(self) -> None:
        try:
            with httpx.stream("GET", self._url, timeout=PATIENCE) as response:
                for line in response.iter_lines():
                    if line.startswith("data: "):
                        self.states.append(json.loads(line.removeprefix("data: "))["state"])
                        self.connected.set()
        except httpx.TransportError:
            return  # the service was killed


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with LocalServer(Settings(control=True, interval=1)) as server:
        yield server


@pytest.fixture
def service(tmp_path: Path, server: LocalServer) -> Service:
    return Service(tmp_path, server)


def start(service: Service, user: str) -> dict[str, Any]:
    started: dict[str, Any] = httpx.post(f"{service.url}/users/{user}/login").json()
    return started


def test_logins_survive_a_restart_of_the_service_in_the_middle_of_them(
    service: Service, server: LocalServer
) -> None:
    with service.running() as process:
        logins = {user: start(service, user) for user in USERS}
        first = [Stream(service, login["id"]) for login in logins.values()]
        assert all(stream.connected.wait(PATIENCE) for stream in first)
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
        for stream in first:
            stream.thread.join(PATIENCE)
    assert all("authorized" not in stream.states for stream in first)

    with service.running() as process:
        assert {user: start(service, user) for user in USERS} == logins
        streams = {user: Stream(service, login["id"]) for user, login in logins.items()}
        assert all(stream.connected.wait(PATIENCE) for stream in streams.values())
        for user, login in logins.items():
            decision = "deny" if user == "dave" else "approve"
            url = f"{server.url}/control/{decision}"
            requests.post(url, json={"user_code": login["code"]}, timeout=PATIENCE)
        for stream in streams.values():
            stream.thread.join(PATIENCE)
        assert {user: stream.states[-1] for user, stream in streams.items()} == dict.fromkeys(
            USERS, "authorized"
        ) | {"dave": "failed"}
        late = Stream(service, logins["alice"]["id"])
        late.thread.join(PATIENCE)
        assert late.states == ["authorized"]
        for user in USERS[:-1]:
            made = {"report": f"of {user}", "generation": 1}
            assert [httpx.get(f"{service.url}/users/{user}/report").json() for _ in "12"] == [
                made
            ] * 2
            assert start(service, user) == {}
        refused = httpx.get(f"{service.url}/users/dave/report")
        assert (refused.status_code, "/users/dave/login" in refused.text) == (409, True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) in (0, -signal.SIGTERM)

    log = requests.get(f"{server.url}/control/log", timeout=PATIENCE).json()
    answers = [entry["answer"] for login in log["logins"] for entry in login["requests"]]
    assert len(log["logins"]) == len(USERS)
    assert "slow_down" not in answers


def test_a_token_that_the_api_refuses_is_refreshed_for_the_next_report(
    service: Service, server: LocalServer
) -> None:
    with service.running():
        code = start(service, "alice")["code"]
        requests.post(f"{server.url}/control/approve", json={"user_code": code}, timeout=PATIENCE)
        wait_until(lambda: start(service, "alice") == {}, "alice is logged in")
        with Client(service.store) as client:
            requests.post(
                f"{server.url}/oauth/revoke",
                data={
                    "client_id": "robot",
                    "token": client.get_token("alice").access_token.reveal(),
                },
                timeout=PATIENCE,
            ).raise_for_status()
        url = f"{service.url}/users/alice/report"
        assert httpx.get(url).status_code == 503
        assert httpx.get(url).json() == {"report": "of alice", "generation": 2}


def test_a_login_that_is_unknown_is_not_found(service: Service) -> None:
    with service.running():
        assert "/users/alice/login" in httpx.get(service.url).text
        assert httpx.get(f"{service.url}/logins/none/events").status_code == 404
