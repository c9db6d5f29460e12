"""A task's token that the server has ended. It needs no Airflow: `tests/airflow` has the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import requests

from deviceflow import Client, LoginPending, OAuth
from deviceflow.integrations.airflow import _clients, _token, get_token
from deviceflow.server import LocalServer, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROFILE = """
[profiles.report]
issuer = "{url}"
client_id = "robot"
scopes = "read offline_access"
notify = ["sh", "-c", "cat >> {told}"]
"""


class Place:
    def __init__(self, folder: Path, server: LocalServer) -> None:
        self.server, self.url = server, server.url
        self.told = folder / "told"
        (folder / "profiles.toml").write_text(PROFILE.format(url=self.url, told=self.told))
        provider = OAuth(issuer=self.url, client_id="robot", scopes="read offline_access")
        with Client(f"sqlite:///{folder}/grants.db") as client:
            login = client.start(provider.for_grant(), name="report")
            self.user_code = login.user_code
            self.post("approve")
            client.wait(login.id, timeout=60)

    def post(self, path: str) -> None:
        body = {"user_code": self.user_code}
        requests.post(f"{self.url}/control/{path}", json=body, timeout=60).raise_for_status()

    def use(self) -> None:
        """Do what a task does."""
        with get_token("report") as token:
            bearer = {"Authorization": f"Bearer {token.access_token.reveal()}"}
            requests.get(
                f"{self.url}/oauth/resource", headers=bearer, timeout=60
            ).raise_for_status()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("DEVICEFLOW_STORE", f"sqlite:///{tmp_path}/grants.db")
    monkeypatch.setenv("DEVICEFLOW_CONFIG", str(tmp_path / "profiles.toml"))
    with LocalServer(Settings(control=True, interval=0)) as server:
        yield Place(tmp_path, server)
        _clients.clients.close()


def test_retry_of_a_task_has_another_token(place: Place) -> None:
    place.use()
    place.post("invalidate")

    with pytest.raises(requests.HTTPError, match="401"):
        place.use()
    place.use()


def test_a_person_is_told_as_soon_as_a_task_hits_a_revoked_grant(place: Place) -> None:
    place.use()
    place.post("revoke")

    with pytest.raises(requests.HTTPError, match="401"):
        place.use()

    assert place.told.exists()
    with pytest.raises(LoginPending):
        place.use()


def test_the_operator_asks_the_server(place: Place) -> None:
    place.use()
    _token.check("report", None)
    place.post("invalidate")
    _token.check("report", None)  # refreshed
    place.use()
    place.post("revoke")

    with pytest.raises(LoginPending):
        _token.check("report", None)


def test_a_server_that_cannot_be_asked_now_does_not_fail_the_task(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.use()
    place.server.close()

    _token.check("report", None)

    assert "The server could not be asked about the token" in caplog.text
