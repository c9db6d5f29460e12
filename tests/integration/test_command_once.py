"""A `login --once` that was interrupted: continued by the same command, or by a login's id."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from deviceflow import Client, Studio
from deviceflow.server import LocalServer, Settings
from tests.integration.command import PATIENCE, answered, asked_of, begun, decide, granted
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.stores.sqlite import SQLiteStore
    from tests.integration.command import Command


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer(Settings(interval=1, control=True)) as one:
        yield one


def at(server: LocalServer, *args: str) -> list[str]:
    """Return the login at the server's OAuth side, whose interval is a second."""
    return [
        *("login", "--once", "--client-id", "robot"),
        *("--device-authorization-endpoint", f"{server.url}/oauth/device_authorization"),
        *("--token-endpoint", f"{server.url}/oauth/token"),
        *(args or ("--show-token",)),
    ]


def code_of(deviceflow: Command, *args: str, **environment: str) -> str:
    """Return the code that a login shows, which then is left."""
    with deviceflow.running(*args, "--timeout", "0", environment=environment) as running:
        assert running.end().code == 75
    return running.user_code


# The same command again.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_login_that_was_ended_and_run_again_shows_the_same_code(
    deviceflow: Command, server: LocalServer, number: signal.Signals
) -> None:
    login = at(server, "--output", "token.txt", "--json")
    with deviceflow.running(*login) as running:
        first = running.when_asked()
        running.process.send_signal(number)
        ended = running.end()
    before = asked_of(server)

    shown: list[str] = []

    def person(page: str, user_code: str) -> None:
        shown.append(user_code)
        decide(server, "approve")(page, user_code)

    again = deviceflow(*login, act=person)

    assert ended.code == (130 if number == signal.SIGINT else -number)
    assert shown == [first]
    assert asked_of(server) == before
    assert again.code == 0, again.err
    assert [file.name for file in deviceflow.home.iterdir()] == ["token.txt"]
    status = deviceflow("status", again.said["flow_id"], "--json").said
    assert status["handover"] == "acknowledged"
    assert code_of(deviceflow, *login) != first


def test_a_token_that_came_while_nobody_waited_is_delivered(
    deviceflow: Command, server: LocalServer
) -> None:
    login = at(server)
    decide(server, "approve")("", code_of(deviceflow, *login))
    (flow_id,) = (line.split()[0] for line in deviceflow("list").out.splitlines())
    assert deviceflow("wait", flow_id).code == 0

    done = deviceflow(*login)

    assert done.code == 0
    assert len(done.out) > 20
    assert "Open" not in done.err


def test_a_code_that_has_expired_is_replaced(deviceflow: Command, server: LocalServer) -> None:
    login = at(server)
    first = code_of(deviceflow, *login)
    decide(server, "expire")("", first)

    # The server alone knows; asked once more it says so, and the command as well.
    (flow_id,) = (line.split()[0] for line in deviceflow("list").out.splitlines())
    assert deviceflow("wait", flow_id).code == 3
    assert code_of(deviceflow, *login) != first


AS_ANOTHER_HOST = """
import platform, sys
platform.node = lambda: "another"
from deviceflow.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_another_login_has_another_code(deviceflow: Command, server: LocalServer) -> None:
    base = code_of(deviceflow, *at(server), LOGNAME="alice")
    others = [
        code_of(deviceflow, *at(server, "--show-token", "--scopes", "models"), LOGNAME="alice"),
        code_of(deviceflow, *at(server, "--output", "token.txt"), LOGNAME="alice"),
        code_of(deviceflow, *at(server, "--show-token", "--format", "json"), LOGNAME="alice"),
        code_of(deviceflow, *at(server), LOGNAME="bob"),
    ]
    elsewhere = subprocess.run(
        [sys.executable, "-c", AS_ANOTHER_HOST, *at(server), "--timeout", "0"],
        capture_output=True,
        check=False,
        env=deviceflow.environment | {"LOGNAME": "alice"},
        text=True,
        timeout=PATIENCE,
    )

    assert len({base, *others}) == 5
    assert elsewhere.returncode == 75
    assert not any(code in elsewhere.stderr for code in (base, *others))
    # What does not change the login changes no code.
    same = at(server, "--show-token", "--no-browser", "--json", "--verbose")
    assert code_of(deviceflow, *same, LOGNAME="alice") == base


# By the login's id, or the newest one.


def test_what_ctrl_c_has_interrupted_goes_on(deviceflow: Command, server: LocalServer) -> None:
    with deviceflow.running(*at(server, "--output", "token.txt")) as running:
        code = running.when_asked()
        running.process.send_signal(signal.SIGINT)
        running.end()

    with deviceflow.running(
        *("login", "--once", "--show-token", "--json"), act=decide(server, "approve")
    ) as continued:
        done = continued.end()

    assert continued.user_code == code
    assert done.code == 0
    token = done.said.pop("token")
    assert token not in done.err
    assert {name: done.said[name] for name in ("state", "reason", "wait_seconds", "issuer")} == {
        "state": "authorized",
        "reason": None,
        "wait_seconds": 0.0,
        "issuer": server.url,
    }
    gone = deviceflow("login", "--once", done.said["flow_id"], "--show-token")
    assert gone.code == 2
    assert "handed over and acknowledged" in gone.err


def test_the_newest_login_is_continued_or_the_one_that_is_named(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    older, newer, ended = (begun(kept, server) for _ in range(3))
    Client(kept).cancel(ended.id)

    assert code_of(deviceflow, "login", "--once", "--show-token") == newer.user_code
    assert code_of(deviceflow, "login", "--once", older.id, "--show-token") == older.user_code


def test_a_token_that_came_meanwhile_is_delivered(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    unfinished, flow = begun(kept, server), granted(kept, server)

    done = deviceflow("login", "--once", "--show-token")
    then = code_of(deviceflow, "login", "--once", "--show-token")

    assert flow.token is not None
    assert (done.code, done.out) == (0, f"{flow.token.access_token.reveal()}\n")
    assert "Open" not in done.err
    assert then == unfinished.user_code


@pytest.mark.parametrize("ended", [False, True])
def test_a_token_that_was_collected_and_got_lost_is_delivered(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer, ended: bool
) -> None:
    flow = granted(kept, server)
    Client(kept).collect_token(flow.id)  # whoever collected it has died with it
    if ended:
        Client(kept).cancel(begun(kept, server).id)

    done = deviceflow("login", "--once", "--show-token")

    assert flow.token is not None
    assert (done.code, done.out) == (0, f"{flow.token.access_token.reveal()}\n")
    assert deviceflow("status", flow.id, "--json").said["handover"] == "acknowledged"


@pytest.mark.usefixtures("kept")
def test_an_unknown_login_is_named_before_options_are_asked_for(
    deviceflow: Command,
) -> None:
    done = deviceflow("login", "--once", "nightli")

    assert done.code == 2
    assert "There is no provider and no login 'nightli'. Nothing was sent." in done.err


def test_the_code_that_never_came_is_asked_for(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    flow = Client(kept).create(Studio(server.url), client_name="nightly")

    code = code_of(deviceflow, "login", "--once", "--show-token")

    assert code == get(kept, flow.id).user_code


def test_nobody_is_sent_to_a_code_that_has_expired(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    token_uri = f"{server.url}/api/device-login/token"
    code = {"expires_in": 600, "token_uri": token_uri}
    answered(kept, code, at=time.time() - 3600, server=server.url)

    done = deviceflow("login", "--once", "--show-token", "--json")

    assert done.code == 3
    assert done.said["state"] == "expired"
    assert done.err == ""


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_nothing_to_continue_and_nowhere_to_log_in(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer, form: list[str]
) -> None:
    Client(kept).acknowledge(granted(kept, server).id)

    done = deviceflow("login", "--once", "--show-token", *form)

    assert done.code == 2
    said = json.loads(done.out)["error"] if form else done.err
    assert said.endswith("or for DVC Studio: studio [HOST]." + "\n" * (not form))
    assert "Where to log in is missing. Nothing was sent." in said


def test_a_continued_login_wants_to_know_where_to_put_the_token(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    flow = begun(kept, server)

    for which in ([], [flow.id]):
        done = deviceflow("login", "--once", *which)

        assert (done.code, done.out) == (2, "")
        assert "--output FILE, --save keyring, or --show-token" in done.err
