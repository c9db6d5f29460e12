"""Sessions of several processes that share a grant, at a server that rotates refresh tokens."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest
import requests

from deviceflow import Client, LoginPending, OAuth, open_store
from deviceflow.core.encryption import generate_key
from deviceflow.server import LocalServer, Settings
from tests.integration.bearer import NAME

if TYPE_CHECKING:
    from pathlib import Path

LIFETIME: Final = 3
SECONDS: Final = 5.0


def test_sessions_of_many_processes_refresh_once_for_all_and_see_no_401(tmp_path: Path) -> None:
    url, key = f"sqlite:///{tmp_path}/grants.db", generate_key()
    settings = Settings(control=True, interval=0, access_token_lifetime=LIFETIME)
    with LocalServer(settings) as server, open_store(url, keys=[key]) as store:  # type: ignore[attr-defined]
        provider = OAuth(
            client_id="robot",
            device_authorization_endpoint=f"{server.url}/oauth/device_authorization",
            token_endpoint=f"{server.url}/oauth/token",
            scopes="offline_access",
        )
        client = Client(store)
        with pytest.raises(LoginPending) as caught:
            client.get_token(NAME, provider, mint="now")
        login: Any = caught.value.login
        approval = {"user_code": login.user_code}
        requests.post(f"{server.url}/control/approve", json=approval, timeout=60)
        client.wait(login.id)

        command = [sys.executable, "-m", "tests.integration.auth_racer"]
        resource = f"{server.url}/oauth/resource"
        racers = [
            subprocess.Popen(
                [*command, how, url, resource, str(SECONDS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for how in ("requests", "requests", "httpx", "async")
        ]
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:  # all at once
            assert racer.stdin is not None
            racer.stdin.write(key.reveal() + "\n")
            racer.stdin.flush()
        seen = [json.loads(racer.communicate(timeout=300)[0]) for racer in racers]
        [grant] = requests.get(f"{server.url}/control/grants", timeout=60).json()["grants"]
        view = client.grant(NAME)

    assert [list(statuses) for statuses in seen] == [["200"]] * len(racers)
    assert grant["refreshes"] == grant["generation"] - 1 == view.generation - 1 >= 1
    assert (grant["reuses"], grant["replays"], grant["state"]) == (0, 0, "active")
