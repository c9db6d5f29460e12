"""`invalidate` and `check`: after a real server has ended a token or a grant."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import pytest
import requests

from deviceflow.server import LocalServer, Settings
from tests.integration.command import decide

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.command import Command

SCOPES: Final = "read offline_access"


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer(Settings(control=True, interval=0)) as one:
        yield one


@pytest.fixture
def code(deviceflow: Command, server: LocalServer) -> str:
    """Log in for the grant `nightly`; return the user code."""
    return log_in(deviceflow, server)


def log_in(deviceflow: Command, server: LocalServer, scopes: str = SCOPES) -> str:
    done = deviceflow(
        *("login", "nightly", "--issuer", server.url, "--client-id", "robot"),
        *("--scopes", scopes, "--no-browser"),
        act=decide(server, "approve"),
    )
    assert done.code == 0, done.err
    grants = requests.get(f"{server.url}/control/grants", timeout=30).json()["grants"]
    return str(grants[-1]["user_code"])


def end(server: LocalServer, what: str, code: str) -> None:
    """End the access tokens (`invalidate`), or the grant with all tokens (`revoke`)."""
    done = requests.post(f"{server.url}/control/{what}", json={"user_code": code}, timeout=30)
    done.raise_for_status()


def accepts(server: LocalServer, token: str) -> bool:
    bearer = {"Authorization": f"Bearer {token}"}
    answer = requests.get(f"{server.url}/oauth/resource", headers=bearer, timeout=30)
    return answer.status_code == 200


def test_an_ended_token_is_replaced_and_never_printed_again(
    deviceflow: Command, server: LocalServer, code: str
) -> None:
    dead = deviceflow("token", "nightly").out.strip()
    end(server, "invalidate", code)

    done = deviceflow("invalidate", "nightly")
    fresh = deviceflow("token", "nightly").out.strip()

    assert (done.code, done.out) == (0, "nightly: refreshed, generation 2 is in use\n")
    assert (accepts(server, dead), accepts(server, fresh)) == (False, True)
    refuse = 'echo "$TOKEN" | deviceflow invalidate nightly --token-stdin'
    again = deviceflow.shell(refuse, TOKEN=dead)
    assert (again.code, again.out) == (0, "nightly: replaced before, generation 2 is in use\n")
    stays = deviceflow.shell(refuse, TOKEN=fresh)
    assert (stays.code, "less than 60 seconds ago" in stays.err) == (75, True)
    assert deviceflow("invalidate", "nightly", "--json").said["generation"] == 3
    assert deviceflow("invalidate", "nightly", "--token-stdin").code == 2


@pytest.mark.parametrize("command", ["invalidate", "check"])
@pytest.mark.parametrize("scopes", [SCOPES, "read"])
def test_a_revoked_grant_asks_a_person_at_once(
    deviceflow: Command, server: LocalServer, command: str, scopes: str, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    code = log_in(deviceflow, server, scopes)
    end(server, "revoke", code)
    assert deviceflow("token", "nightly").code == 0  # nobody knows yet

    done = deviceflow(command, "nightly", DEVICEFLOW_NOTIFY=f"sh -c 'cat >> {told}'")

    assert (done.code, "deviceflow login nightly" in done.err) == (75, True)
    assert told.exists()
    assert deviceflow("token", "nightly").code == 75
    shown = deviceflow("status", "nightly")
    assert shown.out.startswith("nightly lost: ")


def test_check_asks_the_server(deviceflow: Command, server: LocalServer, code: str) -> None:
    good = deviceflow("check", "nightly")
    end(server, "invalidate", code)
    replaced = deviceflow("check", "nightly", "--json")

    assert (good.code, good.out) == (0, "nightly: the server says that the token is valid\n")
    assert (replaced.code, replaced.said) == (
        0,
        {
            "name": "nightly",
            "valid": True,
            "asked": "introspect",
            "replaced": True,
            "why": None,
        },
    )


def test_a_server_that_cannot_be_asked_is_named_as_such(
    deviceflow: Command, server: LocalServer
) -> None:
    deviceflow(
        *("login", "nightly", "--client-id", "robot", "--no-browser"),
        *("--device-authorization-endpoint", f"{server.url}/oauth/device_authorization"),
        *("--token-endpoint", f"{server.url}/oauth/token", "--scopes", SCOPES),
        act=decide(server, "approve"),
    )

    done = deviceflow("check", "nightly")

    assert (done.code, "cannot be asked" in done.out, "no issuer" in done.out) == (69, True, True)


def test_an_invalidated_grant_is_shown_as_such_while_nothing_can_refresh_it(
    deviceflow: Command,
) -> None:
    with LocalServer(Settings(control=True, interval=0)) as gone:
        log_in(deviceflow, gone)

    done = deviceflow("invalidate", "nightly")

    assert (done.code, "was refused and could not be refreshed" in done.err) == (5, True)
    assert deviceflow("token", "nightly").code == 5
    shown = deviceflow("status", "nightly").out
    assert shown.startswith("nightly active, but its token was refused")


def test_a_worker_asks_each_n_seconds(
    deviceflow: Command, server: LocalServer, code: str, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    deviceflow("token", "nightly")  # it is in use
    end(server, "revoke", code)

    notify = {"DEVICEFLOW_NOTIFY": f"sh -c 'cat >> {told}'"}
    with deviceflow.running("worker", "--check-every", "1s", environment=notify):
        until = time.monotonic() + 60
        while not told.exists() and time.monotonic() < until:
            time.sleep(0.1)

    assert deviceflow("status", "nightly").out.startswith("nightly lost: refused")
