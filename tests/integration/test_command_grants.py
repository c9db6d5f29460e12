"""`grants`, `logout` and `token --fresh`: as a shell uses them, against a real server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from deviceflow.server import LocalServer, Settings
from tests.integration.command import decide

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.command import Command


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer(Settings(control=True, interval=0)) as one:
        yield one


def test_grant_from_its_login_to_its_end(deviceflow: Command, server: LocalServer) -> None:
    before = deviceflow("token", "nightly", "--fresh")
    assert (before.code, before.out) == (2, "")

    logged_in = deviceflow(
        *("grants", "login", "nightly", "--client-id", "robot", "--no-browser", "--json"),
        *("--device-authorization-endpoint", f"{server.url}/oauth/device_authorization"),
        *("--token-endpoint", f"{server.url}/oauth/token"),
        *("--revocation-endpoint", f"{server.url}/oauth/revoke"),
        *("--scopes", "read offline_access", "--purpose", "the nightly report"),
        act=decide(server, "approve"),
    )
    assert (logged_in.code, logged_in.said["state"]) == (0, "active")
    again = deviceflow("grants", "login", "nightly", "--json")
    assert (again.code, again.said["generation"]) == (0, 1)
    assert "no login was started" in again.err

    token = deviceflow("token", "nightly", "--fresh")
    whole = deviceflow("token", "nightly", "--fresh", "--json")
    assert (token.code, token.err) == (0, "")
    assert whole.said["token"] == token.out.strip()
    assert whole.said["purpose"] == "the nightly report"

    listed, shown = deviceflow("grants", "list"), deviceflow("grants", "show", "nightly")
    assert listed.out.startswith("nightly active, until ")
    assert "purpose: the nightly report" in shown.out
    assert token.out.strip() not in listed.out + shown.out
    assert deviceflow("sweep", "--json").said["grants"] == []
    assert deviceflow("grants", "doubt", "--json").said == {"marked": 1}

    ended = deviceflow.fresh("logout", "nightly", "--json")
    assert (ended.code, ended.said["state"], ended.said["revocations"]) == (0, "revoked", 0)
    pending = deviceflow("token", "nightly", "--fresh", "--json")
    assert (pending.code, pending.said["wait_seconds"]) == (75, 60.0)
    (one,) = json.loads(deviceflow("grants", "list", "--json").out)
    assert (one["name"], one["need_id"] is not None) == ("nightly", True)
    told = deviceflow("audit", "show", "nightly")
    assert "a person logged in" in told.out
    assert deviceflow("audit", "verify").code == 0


@pytest.mark.parametrize("args", [("logout",), ("grants", "show"), ("grants", "login")])
def test_unknown_grant_is_an_error_that_says_so(deviceflow: Command, args: tuple[str, ...]) -> None:
    done = deviceflow(*args, "weekly")

    assert (done.code, done.out) == (2, "")
    assert "no grant of the name 'weekly'" in done.err
