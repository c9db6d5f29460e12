"""`token` and `export-env`: what is printed, where it may go, and when it is gone."""

from __future__ import annotations

import json
import os
import pty
import select
import stat
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from deviceflow import Client
from deviceflow.providers import studio
from deviceflow.server import LocalServer, Settings
from tests.integration.command import COMMAND, PATIENCE, answered, begun, granted
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.core.flow import Flow
    from deviceflow.stores.sqlite import SQLiteStore
    from tests.integration.command import Command


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer(Settings(control=True)) as one:
        yield one


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process keep any token: the command does not rely on a check before the store."""
    monkeypatch.setattr(studio, "ill_formed", lambda **_: None)


def token_of(flow: Flow) -> str:
    assert flow.token is not None
    return flow.token.access_token.reveal()


def burnt(kept: SQLiteStore, flow: Flow) -> bool:
    """Tell whether the token cannot be had any more."""
    actions = [event["action"] for event in kept.events(flow.id)]
    return get(kept, flow.id).token is None or "acknowledge" in actions


# The token.


def test_token_prints_it_and_nothing_else_as_often_as_it_is_asked(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    flow = granted(kept, server)

    first, again = deviceflow("token", flow.id), deviceflow("token", flow.id, "--json")

    assert (first.code, first.err) == (again.code, again.err) == (0, "")
    assert first.out == f"{token_of(flow)}\n"
    assert again.said == {
        "flow_id": flow.id,
        "state": "authorized",
        "reason": None,
        "wait_seconds": 0.0,
        "token": token_of(flow),
    }
    assert [event["action"] for event in kept.events(flow.id)][-2:] == ["collect", "collect"]
    assert not burnt(kept, flow)


def test_all_that_came_with_the_token(deviceflow: Command, kept: SQLiteStore) -> None:
    flow = answered(kept, {}, {"access_token": "the-token"})

    plain = deviceflow("token", flow.id, "--format", "json")
    within = deviceflow("token", flow.id, "--format", "json", "--json")

    assert plain.said == {"access_token": "the-token", "token_type": "Bearer"}
    assert within.said["token"] == plain.said


def test_an_acknowledged_token_is_gone(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    flow = granted(kept, server)

    first = deviceflow("token", flow.id, "--acknowledge")
    again = deviceflow("token", flow.id, "--acknowledge")
    status = deviceflow("status", flow.id, "--json")

    assert (first.code, first.out) == (0, f"{token_of(flow)}\n")
    assert (again.code, again.out) == (2, "")
    assert "was handed over and acknowledged" in again.err
    assert (status.said["state"], status.said["handover"]) == ("authorized", "acknowledged")
    assert get(kept, flow.id).token is None


def test_a_token_that_nobody_acknowledged_and_studio_cannot_revoke_is_on_record(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    flow = granted(kept, server)
    deviceflow("token", flow.id)

    purged = deviceflow("purge", "--tokens-after", "0")
    again = deviceflow("token", flow.id)

    assert (purged.code, again.code) == (0, 2)
    assert (event := kept.events(flow.id)[-1])["action"] == "purge"
    assert event["detail"] == (
        "the token was collected but never acknowledged: revoke it at the server"
    )


def test_the_file_for_the_token_is_its_owners_alone(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    flow = granted(kept, server)
    file = deviceflow.home / "token.txt"
    file.touch(0o644)

    done = deviceflow("token", flow.id, "--output", "token.txt", "--json", "--acknowledge")

    assert done.code == 0
    assert done.said["output"] == "token.txt"
    assert "token" not in done.said
    assert done.err == "The token was saved in token.txt.\n"
    assert file.read_text() == f"{token_of(flow)}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(deviceflow.home.iterdir()) == [file]


@pytest.mark.parametrize(
    ("command", "decision", "exit_code", "words"),
    [
        (["token"], None, 75, "still pending"),
        (["token", "--acknowledge"], "deny", 4, "was denied"),
        (["export-env"], "expire", 3, "before its code expired"),
    ],
)
def test_where_there_is_no_token_the_exit_code_says_why(
    deviceflow: Command,
    kept: SQLiteStore,
    server: LocalServer,
    command: list[str],
    decision: str | None,
    exit_code: int,
    words: str,
) -> None:
    flow = begun(kept, server, *([decision] if decision else []))
    Client(kept).step(flow.id)

    done = deviceflow(*command, flow.id)

    assert (done.code, done.out) == (exit_code, "")
    assert words in done.err


def test_json_says_how_long_a_pending_login_is_to_be_left_alone(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    flow = begun(kept, server)
    Client(kept).step(flow.id)

    done = deviceflow("token", flow.id, "--json")

    assert (done.code, done.err) == (75, "")
    assert done.said["state"] == "awaiting-user"
    assert 0 < done.said["wait_seconds"] < 5
    assert "still pending" in done.said["error"]


def test_one_at_a_time_takes_a_token_that_is_to_be_wiped(
    deviceflow: Command, kept: SQLiteStore
) -> None:
    flow = answered(kept, {}, {"access_token": "the-token"})

    with Client(kept).collect(flow.id):
        busy = deviceflow("token", flow.id, "--acknowledge", "--json")

    assert (busy.code, busy.err) == (75, "")
    assert 0 < busy.said["wait_seconds"] <= 60
    assert "Another worker" in busy.said["error"]


# What fails burns nothing.


@pytest.mark.parametrize(
    "command",
    [
        'deviceflow token "$ID" --acknowledge >&-',
        'deviceflow token "$ID" --acknowledge >/dev/full',
        'deviceflow token "$ID" --acknowledge --json >/dev/full',
        'deviceflow token "$ID" --acknowledge --output no/such/token.txt',
        'deviceflow token "$ID" --acknowledge --output .',
        'deviceflow token "$ID" --acknowledge --output "$UNSET"',
        'deviceflow token "$ID" --acknowledge --output /dev/full',
        'deviceflow token "$ID" --acknowledge --output token.txt --json >/dev/full',
        'deviceflow export-env "$ID" --acknowledge >&-',
        'deviceflow export-env "$ID" --acknowledge >/dev/full',
        'deviceflow export-env "$ID" --acknowledge --variable "a b"',
        'deviceflow login --once "$ID" --show-token >&-',
        'deviceflow login --once "$ID" --show-token >/dev/full',
        'deviceflow login --once "$ID" --show-token --json >/dev/full',
    ],
    ids=lambda command: command.removeprefix("deviceflow ").replace('"$ID" ', ""),
)
def test_a_token_that_gets_nowhere_is_kept(
    deviceflow: Command, kept: SQLiteStore, command: str
) -> None:
    flow = answered(kept, {}, {"access_token": "the-token"})

    done = deviceflow.shell(command, ID=flow.id)

    assert done.code in (2, 5)
    assert done.err.startswith(("deviceflow: ", "The token was saved in token.txt.\ndeviceflow: "))
    assert not burnt(kept, flow)
    if "--once" in command:
        assert (
            f"The store still has the token: deviceflow token {flow.id} --acknowledge" in done.err
        )


@pytest.mark.parametrize(
    "command", [["token", "--acknowledge"], ["login", "--once", "--show-token"]]
)
def test_a_token_for_a_pipe_that_nobody_reads_is_kept(
    deviceflow: Command, kept: SQLiteStore, command: list[str]
) -> None:
    flow = answered(kept, {}, {"access_token": "the-token"})
    reader, writer = os.pipe()
    os.close(reader)

    with deviceflow.running(*command, flow.id, stdout=writer) as running:
        os.close(writer)
        done = running.end()

    assert done.code == 5
    assert "stdout could not be written: Broken pipe." in done.err
    assert not burnt(kept, flow)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "command", [["token"], ["export-env"], ["login", "--once", "--show-token"]]
)
def test_a_token_that_would_steer_the_terminal_is_not_printed_there(
    deviceflow: Command, kept: SQLiteStore, command: list[str]
) -> None:
    flow = answered(kept, {}, {"access_token": "\x1b]0;owned\x07"})
    ours, theirs = pty.openpty()

    done = subprocess.run(
        [*COMMAND, *command, flow.id],
        check=False,
        env=deviceflow.environment,
        stderr=subprocess.PIPE,
        stdout=theirs,
        text=True,
        timeout=PATIENCE,
    )
    written, _, _ = select.select([ours], [], [], 0)
    os.close(theirs)
    os.close(ours)

    assert done.returncode == 2
    assert "contains control characters" in done.stderr
    assert written == []
    assert not burnt(kept, flow)
    assert deviceflow("token", flow.id).out == "\x1b]0;owned\x07\n"


# For a shell.


HOSTILE: Final = (
    """it's "$(touch pwned)"`touch pwned`; touch pwned\n'; touch pwned; : '\\ $HOME * ~ é\n"""
)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_shell_takes_whatever_the_store_has(
    deviceflow: Command, kept: SQLiteStore, shell: str
) -> None:
    flow = answered(kept, {}, {"access_token": HOSTILE})

    done = deviceflow.shell(
        """
        commands=$(deviceflow export-env "$ID") && eval "$commands" || exit
        eval "$(deviceflow export-env "$ID" --variable ANOTHER_NAME --acknowledge)"
        printf '%s|%s|%s' "$DVC_STUDIO_TOKEN" "$DVC_STUDIO_URL" "$ANOTHER_NAME"
        sh -c 'printf "|%s" "$DVC_STUDIO_TOKEN"'
        """,
        shell,
        ID=flow.id,
    )

    assert done.code == 0, done.err
    assert done.out.split("|") == [HOSTILE, "https://studio.example.com", HOSTILE, HOSTILE]
    assert list(deviceflow.home.iterdir()) == []
    assert get(kept, flow.id).token is None


@pytest.mark.parametrize("name", ["", "a b", "1x", "x;y", "x\n", "é"])
def test_a_name_that_is_none_is_refused(deviceflow: Command, name: str) -> None:
    done = deviceflow("export-env", "any", f"--variable={name}")

    assert (done.code, done.out) == (2, "")
    assert "is not a valid name of a variable" in done.err


def test_another_servers_token_needs_a_variable(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    form = ["--client-id", "robot", "--issuer", server.url]
    flow_id = deviceflow("start", *form).out.strip()

    nameless = deviceflow("export-env", flow_id)
    named = deviceflow("export-env", flow_id, "--variable", "GITHUB_TOKEN")

    assert nameless.code == 2
    assert "--variable GITHUB_TOKEN" in nameless.err
    assert named.code == 75


def test_what_a_shell_reads_is_never_json(deviceflow: Command) -> None:
    assert "--json" not in deviceflow("export-env", "--help").out
    assert json.loads(deviceflow("token", "none", "--json").out)["error"]
