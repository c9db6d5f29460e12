"""The local server, the store, the profiles, and what is on record of it all."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import requests

from deviceflow.core.encryption import generate_key
from deviceflow.server import LocalServer, Settings
from tests.airflow.person import Person
from tests.airflow.results import until
from tests.integration.gate import Gate
from tests.postgres import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INTERVAL: Final = 2
"""Seconds between two polls."""

LIFETIME: Final = 8
"""Seconds that an access token lives."""

_COMMAND: Final = [sys.executable, "-m", "deviceflow"]
_PROFILE: Final = """
[profiles.{name}]
device_authorization_endpoint = "{url}/oauth/device_authorization"
token_endpoint = "{url}/oauth/token"
client_id = "{name}"
scopes = "read offline_access"
purpose = "the report {name}"
"""


class Place:
    """All but Airflow. A grant, its profile and its client id have the same name.

    Attributes:
        person: Who is told, and approves.
        gate: What the programs reach the server by. It knows the secrets that went through.
        pages: The public URL of the pages of needs.
        environment: The variables for programs that use all this.
    """

    def __init__(self, folder: Path, store: str, *grants: str) -> None:
        """Start the server.

        Args:
            folder: For the profiles.
            store: The URL of an empty database in PostgreSQL.
            grants: The names of the grants.
        """
        settings = Settings(control=True, interval=INTERVAL, access_token_lifetime=LIFETIME)
        self.person = Person()
        self._server = LocalServer(settings)
        self.gate = Gate(self._server)
        config = folder / "profiles.toml"
        config.write_text("".join(_PROFILE.format(name=n, url=self.gate.url) for n in grants))
        config.chmod(0o600)
        address = f"127.0.0.1:{free_port()}"
        self.pages: Final = f"http://{address}"
        self._listen = address
        self.environment: Final = {
            "DEVICEFLOW_CONFIG": str(config),
            "DEVICEFLOW_KEYS": generate_key().reveal(),
            "DEVICEFLOW_NOTIFY": self.person.webhook,
            "DEVICEFLOW_PUBLIC_URL": self.pages,
            "DEVICEFLOW_STORE": store,
            "LIFETIME": str(LIFETIME),
            "RESOURCE": f"{self.gate.url}/oauth/resource",
        }

    def close(self) -> None:
        self.gate.close()
        self._server.close()
        self.person.close()

    def logins(self, grant: str) -> list[dict[str, Any]]:
        """Return what the server has on record of the logins of a grant."""
        return [one for one in self._record("log")["logins"] if one["client"] == grant]

    def polls(self, grant: str) -> list[float]:
        """Return when the server was polled for the only login of a grant."""
        return [poll["wall"] for login in self.logins(grant) for poll in login["requests"]]

    def grants(self, grant: str) -> list[dict[str, Any]]:
        """Return what the server has on record of its grants of one name."""
        return [one for one in self._record("grants")["grants"] if one["client"] == grant]

    def approve(self, grant: str) -> None:
        """Approve the newest login of a grant on the server's page."""
        self.person.approve(self._server.url, self.logins(grant)[-1]["user_code"])

    def log_in(self, grant: str) -> None:
        """Log in as the documentation says: by the command, and then on the server's page."""
        process = subprocess.Popen(
            [*_COMMAND, "login", grant, "--no-browser"],
            env=os.environ | self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(lambda: self.logins(grant), f"the command asks for a code for {grant}")
        self.approve(grant)
        assert process.wait(60) == 0

    def start(self, grant: str) -> None:
        """Request a code by the command, and leave it to others to poll."""
        done = self.command("start", grant, "--profile", grant)
        assert done.returncode == 0, done.stderr

    @contextlib.contextmanager
    def worker(self) -> Iterator[None]:
        """Have deviceflow's own worker run, which serves the pages of needs."""
        command = [*_COMMAND, "worker", "--listen", self._listen, "--public-url", self.pages]
        process = subprocess.Popen(
            command,
            env=os.environ | self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield
        finally:
            process.kill()
            process.wait(60)

    def events(self, grant: str) -> list[dict[str, Any]]:
        """Return the events of a grant and its logins, from the trail."""
        trail = self.command("audit", "export", "--format", "jsonl", "--client", grant).stdout
        return [json.loads(line) for line in trail.splitlines()]

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of deviceflow on the store."""
        return subprocess.run(
            [*_COMMAND, *arguments],
            env=os.environ | self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            text=True,
        )

    def _record(self, what: str) -> Any:
        return requests.get(f"{self._server.url}/control/{what}", timeout=60).json()
