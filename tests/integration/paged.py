"""A worker that serves the pages of needs, as a process of its own, and a job that has a need."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import requests

from deviceflow import Client, LoginPending, OAuth, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.core.secret import Secret
    from deviceflow.server import LocalServer
    from tests.integration.command import Command


class Job:
    """A job in another process than the worker's, which uses the same store."""

    def __init__(self, url: str, key: Secret, server: LocalServer, public_url: str) -> None:
        self.server = server
        self.store: Any = open_store(url, keys=[key])
        self.client = Client(self.store, public_url=public_url)
        self.provider = OAuth(
            issuer=server.url, client_id="report-bot", scopes="read reports:write offline_access"
        )

    def ask(self, name: str = "nightly", purpose: str = "the nightly sales report") -> str:
        """Ask for a token, and return the link of the need."""
        try:
            self.client.get_token(name, self.provider, purpose=purpose)
        except LoginPending as pending:
            if pending.link is not None:
                return pending.link.reveal()
        raise AssertionError("there is a token, or no link")

    def codes(self) -> int:
        """Return how many codes the server has issued."""
        log = requests.get(f"{self.server.url}/control/log", timeout=60).json()
        return len(log["logins"])

    def decide(self, verb: str, user_code: str) -> None:
        body = {"user_code": user_code}
        done = requests.post(f"{self.server.url}/control/{verb}", json=body, timeout=60)
        assert done.status_code == 200

    def actions(self, name: str = "nightly") -> list[str]:
        grant = self.client.grant(name)
        return [event["action"] for event in self.store.events(grant.id)]

    def close(self) -> None:
        self.client.close()
        self.store.close()


@contextmanager
def worker(deviceflow: Command, *args: str, **environment: str) -> Iterator[Worker]:
    """Run a worker with pages at a free port."""
    command = [sys.executable, "-m", "deviceflow", "worker", "--listen", "127.0.0.1:0", "--json"]
    log = deviceflow.home / "worker.log"
    with (
        log.open("ab") as said,
        subprocess.Popen(
            [*command, "--verbose", *args],
            cwd=deviceflow.home,
            env=deviceflow.environment | environment,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        ) as process,
    ):
        try:
            yield Worker(process, log)
        finally:
            process.terminate()
            process.communicate(timeout=60)


class Worker:
    """A worker that runs.

    Attributes:
        public_url: Where its pages are.
        port: Its port.
    """

    def __init__(self, process: subprocess.Popen[str], log: Any) -> None:
        self._log = log
        self._process = process
        self.events: list[dict[str, Any]] = []
        assert process.stdout is not None
        for line in process.stdout:
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == "listening":
                break
        else:
            raise AssertionError(log.read_text())
        self.public_url: str = self.events[-1]["public_url"]
        self.port: int = self.events[-1]["port"]

    def later(self) -> Iterator[str]:
        """Yield the further lines of its output; for a minute, then the worker is killed."""
        assert self._process.stdout is not None
        late = threading.Timer(60, self._process.kill)
        late.start()
        try:
            yield from self._process.stdout
        finally:
            late.cancel()

    @property
    def log(self) -> str:
        return str(self._log.read_text())
