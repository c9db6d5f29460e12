"""`grants`, `token` and `logout`: what they print, and what they advise."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from deviceflow.cli import exits
from deviceflow.server import LocalServer, Settings
from tests.integration.command import COMMAND, decide

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
    found = deviceflow("token", "nightly", "--min-ttl", "5")
    status = deviceflow("status", "nightly")
    unnamed = deviceflow("logout")
    doubted = deviceflow("grants", "doubt")
    ended = deviceflow("logout", "nightly")
    gone = deviceflow("token", "nightly", "--fresh")

    assert (login.code, again.code) == (0, 0), login.err
    assert login.out.startswith("nightly active, until ")
    assert login.err.endswith("Logged in. For a token: deviceflow token nightly\n")
    assert "no login was started" in again.err
    assert again.err.endswith("deviceflow resume --again nightly\n")  # and not: Logged in
    assert again.out == login.out
    assert "revocations" not in login.out
    assert [json.loads(line)["name"] for line in listed.out.splitlines()] == ["nightly"]
    assert (token.code, token.err) == (0, "")
    assert len(token.out.split()) == 1
    assert (found.code, found.out) == (0, token.out)
    assert (status.code, status.out.splitlines()[0] + "\n") == (0, login.out)
    assert unnamed.code == exits.USAGE
    assert unnamed.err.endswith("Give one of: nightly\n")
    assert doubted.out == "1 grant is in doubt\n"
    assert ended.out.startswith("nightly revoked\n")
    assert gone.code == exits.PENDING
    assert gone.err.endswith(" To log in: deviceflow resume nightly\n")


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("token", "nobody", "--fresh"), "deviceflow grants login nobody PROVIDER"),
        (("token", "nobody", "--fresh", "--acknowledge"), "deviceflow logout nobody"),
        (("token", "nobody", "--min-ttl", "5"), "deviceflow grants login nobody PROVIDER"),
        (("status", "nobody"), "The store has no login and no grant 'nobody'."),
        (("status", "a b"), "deviceflow grants login 'a b' PROVIDER. The store: "),
        (("logout", "nobody"), "deviceflow grants list. The store: "),
        (("logout",), "There are no grants to end."),
        (("login", "--show-token"), "Where to log in is missing. Nothing was sent."),
        (("login", "--show-token", "--client-id", "x"), "Where to log in is missing."),
        (("whoami",), "deviceflow grants list"),
        (("auth", "login"), "deviceflow login PROVIDER"),
        ((), "Help on a command: deviceflow help COMMAND"),
        (("worker", "--tokens-after", "3d"), "Add --purge."),
        (("worker", "--max-age", "3"), "Add --check PATH."),
    ],
)
@pytest.mark.usefixtures("kept")
def test_mistake_is_answered_with_advice(
    deviceflow: Command, arguments: tuple[str, ...], advice: str
) -> None:
    done = deviceflow(*arguments)

    assert (done.code, done.out) == (exits.USAGE, "")
    assert advice in done.err


def test_interrupted_login_of_a_grant_continues_as_the_message_says(
    deviceflow: Command, server: LocalServer
) -> None:
    target = ("--issuer", server.url, "--client-id", "robot", "--no-browser")
    with deviceflow.running("grants", "login", "nightly", *target) as running:
        code = running.when_asked()
        running.process.send_signal(signal.SIGINT)
        ended = running.end()
    advised = ended.err.partition("To continue: deviceflow ")[2].splitlines()[0].split()
    shown: list[str] = []

    def person(page: str, user_code: str) -> None:
        shown.append(user_code)
        decide(server, "approve")(page, user_code)

    again = deviceflow(*advised, "--no-browser", act=person)

    assert (ended.code, shown, again.code) == (exits.INTERRUPTED, [code], 0), again.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("list",), "No login is open."),
        (("list", "--state", "failed"), "There is no such login."),
        (("grants", "list"), "There are no grants. To log in for one: deviceflow grants login"),
    ],
)
@pytest.mark.usefixtures("kept")
def test_empty_list_says_so_on_a_terminal_only(
    deviceflow: Command, arguments: tuple[str, ...], said: str
) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb"), os.fdopen(theirs, "wb") as terminal:
        seen = subprocess.run(
            [*COMMAND, *arguments],
            stdout=terminal,
            stderr=subprocess.PIPE,
            env=deviceflow.environment,
            text=True,
            check=True,
        )
    piped = deviceflow(*arguments)

    assert seen.stderr.startswith(said)
    assert (piped.code, piped.out, piped.err) == (0, "", "")


def test_login_is_not_taken_for_a_grant(deviceflow: Command, server: LocalServer) -> None:
    started = deviceflow("start", "--issuer", server.url, "--client-id", "robot", "--json")
    login = json.loads(started.out)["flow_id"]

    token = deviceflow("token", login, "--min-ttl", "5")
    end = deviceflow("logout", login)

    assert f"--min-ttl is for grants, and {login} is a login." in token.err
    assert f"A login has this id: deviceflow cancel {login}." in end.err


def test_advice_keeps_a_path_with_dots(deviceflow: Command, server: LocalServer) -> None:
    there = ("--store", f"sqlite:///{deviceflow.home}/../logins.db")
    deviceflow("start", "--issuer", server.url, "--client-id", "robot", *there)

    done = deviceflow("token", "nobody", *there)

    assert f"PROVIDER --store {there[1]}. The store: " in done.err


def test_server_on_a_port_that_is_taken(deviceflow: Command, server: LocalServer) -> None:
    port = server.url.rpartition(":")[2]

    done = deviceflow("serve", "--port", port)

    assert done.code == exits.USAGE
    assert "--port 0 chooses a free one" in done.err


# From nothing, by a profile.


def test_job_of_a_new_grant_has_a_person_told_once_who_logs_in_by_the_profile(
    deviceflow: Command, server: LocalServer
) -> None:
    told = deviceflow.home / "told"
    tell = deviceflow.home / "tell"
    tell.write_text(f"#!/bin/sh\ncat >>{told}\necho >>{told}\n")
    tell.chmod(0o755)
    deviceflow.configure(
        f'[profiles.report]\nissuer = "{server.url}"\nclient_id = "robot"\n'
        f'scopes = "read offline_access"\npurpose = "the report"\nnotify = ["{tell}"]\n'
        f'[profiles.quiet]\nnotify = ["{tell}"]\n'
    )
    token = ("token", "nightly", "--fresh", "--profile")

    without = deviceflow(*token, "quiet")
    assert (without.code, deviceflow.store.exists()) == (exits.STORE, False)
    first, second = deviceflow(*token, "report"), deviceflow(*token, "report")
    nowhere = deviceflow("token", "weekly", "--fresh", "--profile", "quiet")
    login = deviceflow("resume", "nightly", act=decide(server, "approve"))
    after = deviceflow(*token, "report")

    assert nowhere.code == exits.USAGE
    assert "deviceflow grants login weekly PROVIDER" in nowhere.err
    assert (first.code, second.code) == (exits.PENDING, exits.PENDING)
    assert "deviceflow resume nightly" in first.err
    need, end = [json.loads(line) for line in told.read_text().splitlines()]
    assert (need["kind"], end["kind"], need["id"]) == ("needed", "ended", end["id"])
    assert (need["name"], need["purpose"], need["server"]) == ("nightly", "the report", server.url)
    assert login.code == 0
    assert (after.code, len(after.out.split())) == (0, 1)


def test_login_of_a_grant_that_nobody_waits_for_any_more_goes_on(
    deviceflow: Command, server: LocalServer
) -> None:
    target = ("--issuer", server.url, "--client-id", "robot", "--scopes", "read offline_access")
    left = deviceflow("grants", "login", "nightly", *target, "--timeout", "0", "--no-browser")
    by_name = deviceflow("resume", "nightly")
    by_nobody = deviceflow("resume", "weekly")
    pending = deviceflow("token", "nightly", "--fresh")
    login = deviceflow("grants", "login", "nightly", act=decide(server, "approve"))
    token = deviceflow("token", "nightly", "--fresh")

    assert left.code == exits.PENDING
    assert "Run the same command again" in left.err
    assert by_name.code == by_nobody.code == exits.USAGE
    assert "If it is for a grant: deviceflow grants login nightly" in by_name.err
    assert "A login of this name" not in by_nobody.err
    assert pending.code == exits.PENDING
    assert (login.code, login.out.split()[:2]) == (0, ["nightly", "active,"]), login.err
    assert (token.code, token.err) == (0, "")
    listed = deviceflow("list", "--all", "--json").out.splitlines()
    assert [json.loads(line)["name"] for line in listed] == ["nightly"]


def test_grant_is_shown_to_a_reader_who_goes_and_in_any_encoding(
    deviceflow: Command, server: LocalServer
) -> None:
    target = ("--issuer", server.url, "--client-id", "robot", "--purpose", "the naïve report")
    deviceflow("grants", "login", "nightly", *target, act=decide(server, "approve"))

    read = deviceflow.shell("(deviceflow grants show nightly; echo $? >&2) | head -n 1")
    plain = deviceflow.fresh("grants", "show", "nightly", PYTHONIOENCODING="ascii")

    assert read.err.strip() in (str(exits.NOBODY_READS), "0")
    assert (plain.code, plain.err) == (0, "")
    assert "purpose: the na\\xefve report" in plain.out
