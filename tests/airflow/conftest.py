"""What the tests inside Airflow's environment stand on. Airflow itself is loaded here.

FOLDER/bin/python -m pytest -W default tests/airflow
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.stored import load_grant

# Airflow reads its configuration when it is imported.
HOME: Final = tempfile.mkdtemp(prefix="airflow-")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
os.environ |= {"AIRFLOW_HOME": HOME, "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}

import airflow.sdk  # noqa: E402, F401  # as said above, and it sets up the root logger

from deviceflow import Client, OAuth, open_store  # noqa: E402
from deviceflow.core.encryption import generate_key  # noqa: E402
from deviceflow.integrations.airflow import _clients  # noqa: E402
from tests.postgres import PostgresServer  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deviceflow.core.access_token import AccessToken
    from deviceflow.core.login import Login
    from deviceflow.testing.device_server import DeviceServer

PAGES: Final = "https://jobs.example.com/logins"
PROFILE: Final = """
[profiles.report]
issuer = "{url}"
client_id = "robot"
scopes = "read offline_access"
purpose = "the nightly report"
"""


class Place:
    """A server to log in to, a store, a profile, and a person with the same store.

    Attributes:
        server: The server.
        config: The file with the profile.
        client: The person's client.
    """

    def __init__(self, server: DeviceServer, folder: Path) -> None:
        self.server = server
        self.config = folder / "profiles.toml"
        self.config.write_text(PROFILE.format(url=server.url))
        self._store: Any = open_store()
        self.client = Client(self._store, public_url=PAGES, output=lambda _: None)
        self.provider = OAuth(issuer=server.url, client_id="robot", scopes="read offline_access")

    def close(self) -> None:
        self.client.close()
        self._store.close()

    def log_in(self) -> None:
        """Log in, as a person does by `deviceflow login report`."""
        self.server.auto_approve = True
        self.client.log_in("report", self.provider, open_browser=False)

    def token(self) -> AccessToken:
        """Return the token of the grant."""
        return self.client.get_token("report")

    def link(self) -> str:
        """Return the link of the need."""
        found: Any = load_grant(self.client._store, "report", 0.0)
        return f"{PAGES}/need/{found.record.open_need.link.reveal()}"

    def begin(self) -> Login:
        """Begin a login, and leave it to others to drive it."""
        return self.client.start(self.provider.for_grant(), name="report")

    def events(self, flow_id: str) -> list[dict[str, Any]]:
        """Return what is on record of a login or a grant."""
        events: list[dict[str, Any]] = self._store.events(flow_id)
        return events


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'deviceflow.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture
def place(
    store_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device_server: DeviceServer,
) -> Iterator[Place]:
    monkeypatch.setenv("DEVICEFLOW_STORE", store_url)
    monkeypatch.setenv("DEVICEFLOW_CONFIG", str(tmp_path / "profiles.toml"))
    monkeypatch.setenv("DEVICEFLOW_PUBLIC_URL", PAGES)
    monkeypatch.setenv("DEVICEFLOW_KEYS", generate_key().reveal())
    one = Place(device_server, tmp_path)
    yield one
    one.close()
    _clients.clients.close()
