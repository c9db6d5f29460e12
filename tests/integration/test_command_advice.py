"""`login`, `token`, `list` and `logout`: what they print, and what they advise."""

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
from tests.integration.command import COMMAND, PROMPT, decide

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.command import Command


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer(Settings(control=True, interval=1)) as one:
        yield one


def test_each_command_says_how_a_name_stands(deviceflow: Command, server: LocalServer) -> None:
    target = ("--issuer", server.url, "--client-id", "robot", "--scopes", "read offline_access")
    login = deviceflow("login", "nightly", *target, act=decide(server, "approve"))
    again = deviceflow("login", "nightly")
    listed = deviceflow("list", "--json")
    token = deviceflow("token", "nightly")
    found = deviceflow("token", "nightly", "--min-ttl", "5")
    status = deviceflow("status", "nightly")
    unnamed = deviceflow("status")
    doubted = deviceflow("doubt")
    ended = deviceflow("logout", "nightly")
    gone = deviceflow("token", "nightly")

    assert (login.code, again.code) == (0, 0), login.err
    assert login.out.startswith("nightly active, until ")
    assert login.err.endswith("Logged in. For a token: deviceflow token nightly\n")
    again_command = "deviceflow login --again nightly"
    assert again.err == f"nightly is logged in already. To log in again: {again_command}\n"
    assert again.out == login.out
    assert "revocations" not in login.out
    assert [json.loads(line)["name"] for line in listed.out.splitlines()] == ["nightly"]
    assert (token.code, token.err) == (0, "")
    assert len(token.out.split()) == 1
    assert (found.code, found.out) == (0, token.out)
    assert (status.code, status.out.splitlines()[0] + "\n") == (0, login.out)
    assert (unnamed.code, unnamed.out) == (0, status.out)
    assert doubted.out == "1 name is in doubt\n"
    assert ended.out.startswith("nightly revoked\n")
    assert gone.code == exits.PENDING
    assert gone.err.endswith(" To log in: deviceflow login nightly\n")


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("token", "nobody"), "deviceflow login nobody PROVIDER"),
        (("token", "nobody", "--acknowledge"), "deviceflow login nobody PROVIDER"),
        (("token", "nobody", "--min-ttl", "5"), "deviceflow login nobody PROVIDER"),
        (("status", "nobody"), "The store has no login 'nobody'."),
        (("status", "a b"), "deviceflow login 'a b' PROVIDER. The store: "),
        (("logout", "nobody"), "deviceflow login nobody PROVIDER. The store: "),
        (("logout",), "Nobody is logged in. To log in: deviceflow login PROVIDER"),
        (("login",), "Nobody is logged in. To log in: deviceflow login PROVIDER"),
        (("login", "gihub"), "no login 'gihub'. Nothing was sent. Did you mean github?"),
        (("login", "--once", "gihub", "--show-token"), "Did you mean github?"),
        (("login", "--client-id", "x"), "Where to log in is missing. Nothing was sent."),
        (("login", "--once", "--show-token"), "Where to log in is missing. Nothing was sent."),
        (("login", "--once", "--show-token", "--client-id", "x"), "Where to log in is missing."),
        (("login", "work", "--once", "--show-token", "--issuer", "URL"), "Omit work."),
        (("login", "github", "--show-token"), "deviceflow token NAME"),
        (("whoami",), "Did you mean status?"),
        (("ls",), "Did you mean list?"),
        (("revoke",), "Did you mean logout?"),
        (("refresh",), "deviceflow token NAME"),
        (("resume", "nightly"), "Did you mean login?"),
        (("grants", "list"), "Did you mean list?"),
        (("token", "nightly", "--fresh"), "'--fresh' is not an argument of this command."),
        (("start", "--name", "nightly"), "'--name' is not an argument of this command."),
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


def test_interrupted_login_continues_as_the_message_says(
    deviceflow: Command, server: LocalServer
) -> None:
    target = ("--issuer", server.url, "--client-id", "robot", "--no-browser")
    with deviceflow.running("login", "nightly", *target) as running:
        code = running.when_asked()
        running.process.send_signal(signal.SIGINT)
        ended = running.end()
    advised = ended.err.partition("To continue: deviceflow ")[2].splitlines()[0].split()
    shown: list[str] = []

    def person(page: str, user_code: str) -> None:
        shown.append(user_code)
        decide(server, "approve")(page, user_code)

    again = deviceflow(*advised, "--no-browser", act=person)

    assert advised == ["login", "nightly"]
    assert (ended.code, shown, again.code) == (exits.INTERRUPTED, [code], 0), again.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("list",), "Nobody is logged in. To log in: deviceflow login PROVIDER\n"),
        (("status",), "Nobody is logged in. To log in: deviceflow login PROVIDER\n"),
        (("list", "--state", "failed"), "Nothing is in this state.\n"),
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

    assert seen.stderr == said
    assert (piped.code, piped.out, piped.err) == (0, "", "")


def test_login_without_a_name_is_not_taken_for_a_name(
    deviceflow: Command, server: LocalServer
) -> None:
    started = deviceflow("start", "--issuer", server.url, "--client-id", "robot", "--json")
    login = json.loads(started.out)["flow_id"]

    token = deviceflow("token", login, "--min-ttl", "5")
    again = deviceflow("login", login)
    end = deviceflow("logout", login)

    assert (token.code, again.code) == (exits.USAGE, exits.USAGE)
    assert f"--min-ttl is for names, and {login} is the id of a login." in token.err
    assert f"The login {login} has no name to keep its token under." in again.err
    assert f"deviceflow wait {login}; then: deviceflow token {login}" in again.err
    assert (end.code, end.out) == (0, f"{login} failed: cancelled\n")


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


def test_job_of_a_new_name_has_a_person_told_once_who_logs_in_by_the_profile(
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
    token = ("token", "nightly", "--profile")

    without = deviceflow(*token, "quiet")
    assert (without.code, deviceflow.store.exists()) == (exits.STORE, False)
    first, second = deviceflow(*token, "report"), deviceflow(*token, "report")
    nowhere = deviceflow("token", "weekly", "--profile", "quiet")
    login = deviceflow("login", "nightly", act=decide(server, "approve"))
    after = deviceflow(*token, "report")

    assert nowhere.code == exits.USAGE
    assert "deviceflow login weekly PROVIDER" in nowhere.err
    assert (first.code, second.code) == (exits.PENDING, exits.PENDING)
    assert "deviceflow login nightly" in first.err
    need, end = [json.loads(line) for line in told.read_text().splitlines()]
    assert (need["kind"], end["kind"], need["id"]) == ("needed", "ended", end["id"])
    assert (need["name"], need["purpose"], need["server"]) == ("nightly", "the report", server.url)
    assert login.code == 0
    assert (after.code, len(after.out.split())) == (0, 1)


def test_login_that_nobody_waits_for_any_more_goes_on(
    deviceflow: Command, server: LocalServer
) -> None:
    target = ("--issuer", server.url, "--client-id", "robot", "--scopes", "read offline_access")
    left = deviceflow("login", "nightly", *target, "--timeout", "0", "--no-browser")
    by_name = deviceflow("login", "nightly", "--timeout", "0", "--no-browser")
    by_nobody = deviceflow("login", "weekly")
    pending = deviceflow("token", "nightly")
    login = deviceflow("login", "nightly", act=decide(server, "approve"))
    token = deviceflow("token", "nightly")

    assert left.code == exits.PENDING
    assert "While the code is valid, this continues: deviceflow login nightly" in left.err
    assert (by_name.code, by_nobody.code) == (exits.PENDING, exits.USAGE)
    assert code_in(by_name.err) == code_in(left.err)
    assert "There is no provider and no login 'weekly'." in by_nobody.err
    assert pending.code == exits.PENDING
    assert (login.code, login.out.split()[:2]) == (0, ["nightly", "active,"]), login.err
    assert (token.code, token.err) == (0, "")
    listed = deviceflow("list", "--all", "--json").out.splitlines()
    kinds = [(one["kind"], one["name"]) for one in map(json.loads, listed)]
    assert kinds == [("login", "nightly"), ("grant", "nightly")]


def code_in(err: str) -> str:
    found = PROMPT.search(err)
    assert found, err
    return found[2]


def test_name_is_shown_to_a_reader_who_goes_and_in_any_encoding(
    deviceflow: Command, server: LocalServer
) -> None:
    target = ("--issuer", server.url, "--client-id", "robot", "--purpose", "the naïve report")
    deviceflow("login", "nightly", *target, act=decide(server, "approve"))

    read = deviceflow.shell("(deviceflow status nightly; echo $? >&2) | head -n 1")
    plain = deviceflow.fresh("status", "nightly", PYTHONIOENCODING="ascii")

    assert read.err.strip() in (str(exits.NOBODY_READS), "0")
    assert (plain.code, plain.err) == (0, "")
    assert "purpose: the na\\xefve report" in plain.out
