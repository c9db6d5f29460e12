"""`grants`, `token --fresh` and `logout`: what they print, and what they advise."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from deviceflow.cli import exits
from deviceflow.server import LocalServer, Settings
from tests.integration.command import decide

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.command import Command


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer(Settings(control=True, interval=1)) as one:
        yield one


def test_grant_from_its_login_to_its_end(deviceflow: Command, server: LocalServer) -> None:
    target = ("--issuer", server.url, "--client-id", "robot", "--scopes", "read offline_access")
    login = deviceflow("grants", "login", "nightly", *target, act=decide(server, "approve"))
    again = deviceflow("grants", "login", "nightly")
    listed = deviceflow("grants", "list", "--json")
    token = deviceflow("token", "nightly", "--fresh")
    as_login = deviceflow("token", "nightly")
    doubted = deviceflow("grants", "doubt")
    ended = deviceflow("logout", "nightly")
    gone = deviceflow("token", "nightly", "--fresh")

    assert (login.code, again.code) == (0, 0), login.err
    assert login.out.startswith("nightly active, until ")
    assert "no login was started" in again.err
    assert "deviceflow logout nightly" in again.err
    assert again.out == login.out
    assert "revocations" not in login.out
    assert [json.loads(line)["name"] for line in listed.out.splitlines()] == ["nightly"]
    assert (token.code, token.err) == (0, "")
    assert len(token.out.split()) == 1
    assert as_login.code == exits.USAGE
    assert "A grant has this name. For its token, add --fresh." in as_login.err
    assert doubted.out == "1 grant is in doubt\n"
    assert ended.out.startswith("nightly revoked\n")
    assert gone.code == exits.PENDING
    assert "with the same store: deviceflow resume nightly" in gone.err


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("token", "nobody", "--fresh"), "deviceflow grants login NAME PROVIDER"),
        (("token", "nobody", "--fresh", "--acknowledge"), "deviceflow logout NAME"),
        (("token", "nobody", "--min-ttl", "5"), "Add --fresh."),
        (("logout", "nobody"), "deviceflow grants list"),
        (("worker", "--tokens-after", "3d"), "Add --purge."),
        (("worker", "--max-age", "3"), "Add --check PATH."),
    ],
)
def test_mistake_is_answered_with_advice(
    deviceflow: Command, arguments: tuple[str, ...], advice: str
) -> None:
    done = deviceflow(*arguments)

    assert (done.code, done.out) == (exits.USAGE, "")
    assert advice in done.err


def test_server_on_a_port_that_is_taken(deviceflow: Command, server: LocalServer) -> None:
    port = server.url.rpartition(":")[2]

    done = deviceflow("serve", "--port", port)

    assert done.code == exits.USAGE
    assert "--port 0 chooses a free one" in done.err
