"""The commands that drive a login step by step: processes of their own, at a real server."""

from __future__ import annotations

import json
import os
import re
import termios
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import ANY

import pytest
import requests

from deviceflow import Client, OAuth
from deviceflow.cli.commands import status
from deviceflow.server import LocalServer, Settings
from tests.integration.command import (
    DEVICE_CODE,
    answered,
    asked_of,
    begun,
    decide,
    granted,
)
from tests.stored import flows as all_flows
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.stores.sqlite import SQLiteStore
    from tests.integration.command import Command

ENDS: Final = [
    ("approve", 0, "authorized", None),
    ("deny", 4, "failed", "denied"),
    ("expire", 3, "expired", None),
]


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer(Settings(interval=1, control=True)) as one:
        yield one


def oauth(server: LocalServer) -> OAuth:
    """Return the server as one whose interval is a second; its Studio side takes five."""
    return OAuth(
        client_id="robot",
        device_authorization_endpoint=f"{server.url}/oauth/device_authorization",
        token_endpoint=f"{server.url}/oauth/token",
    )


def polls_of(server: LocalServer, user_code: str | None) -> int:
    logins = requests.get(f"{server.url}/control/log", timeout=60).json()["logins"]
    return len(next(one["requests"] for one in logins if one["user_code"] == user_code))


# One login, from its beginning to its end.


def test_start_prints_the_id_and_says_where_to_go(deviceflow: Command, server: LocalServer) -> None:
    done = deviceflow("start", "studio", server.url, "--client-name", "nightly")

    assert done.code == 0
    assert re.fullmatch(r"[\w-]{16}\n", done.out)
    assert re.fullmatch(
        rf"nightly asks for access to {server.url}\.\n"
        rf"Open this page, and check that it shows the code:\n\n{server.url}/\S+\n\S{{9}}\n\n"
        rf"To wait for it: deviceflow wait {done.out.strip()}\n",
        done.err,
    )


def test_start_as_json_says_it_all(deviceflow: Command, server: LocalServer) -> None:
    done = deviceflow("start", "nightly", "studio", server.url, "--json")

    assert (done.code, done.err) == (0, "")
    said = done.said
    code, flow_id = said.pop("user_code"), said.pop("flow_id")
    assert said.pop("created_at") == pytest.approx(time.time(), abs=30)
    assert said.pop("expires_at") == pytest.approx(time.time() + 900, abs=30)
    assert len(flow_id) == 16
    assert said == {
        "state": "awaiting-user",
        "reason": None,
        "wait_seconds": 0.0,
        "verification_uri": f"{server.url}/auth/device-login",
        "verification_uri_complete": f"{server.url}/auth/device-login?code={code}",
        "interval": 5.0,
        "ended_at": None,
        "name": "nightly",
        "purpose": None,
        "issuer": server.url,
        "client": "deviceflow",
        "detail": None,
        "in_doubt": False,
        "handover": "none",
    }


def test_a_step_asks_once_and_says_when_to_come_again(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    flow = begun(kept, server)

    first, second = deviceflow("step", flow.id), deviceflow("step", flow.id, "--json")

    assert (first.code, first.err) == (75, "")
    assert first.out == f"{flow.id} awaiting-user: call again in 5 seconds\n"
    assert (second.code, second.err) == (75, "")
    wait = second.said.pop("wait_seconds")
    assert 0 < wait < 5
    assert second.said == {
        "flow_id": flow.id,
        "state": "awaiting-user",
        "reason": None,
        "wait_seconds": wait,
    }
    assert polls_of(server, flow.user_code) == 1


@pytest.mark.parametrize(("decision", "exit_code", "state", "reason"), ENDS)
def test_the_exit_code_says_how_it_stands(
    deviceflow: Command,
    kept: SQLiteStore,
    server: LocalServer,
    decision: str,
    exit_code: int,
    state: str,
    reason: str | None,
) -> None:
    flow = begun(kept, server, decision)

    step = deviceflow("step", flow.id, "--json")
    wait = deviceflow("wait", flow.id)
    status = deviceflow("status", flow.id, "--json")

    assert [done.code for done in (step, wait, status)] == [exit_code] * 3
    assert step.said == {
        "flow_id": flow.id,
        "state": state,
        "reason": reason,
        "wait_seconds": 0.0,
    }
    assert wait.out == f"{flow.id} {state}{f': {reason}' if reason else ''}\n"
    assert status.said | step.said == status.said
    assert status.said["ended_at"] == pytest.approx(time.time(), abs=30)
    # And why, in words.
    assert (wait.err == "") == (exit_code == 0)


def test_wait_comes_back_when_the_person_has_approved(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    flow = Client(kept).start(oauth(server))

    with deviceflow.running("wait", flow.id, "--json") as running:
        while not polls_of(server, flow.user_code):
            time.sleep(0.05)
        decide(server, "approve")("", str(flow.user_code))
        done = running.end()

    assert done.code == 0
    assert done.said == {
        "flow_id": flow.id,
        "state": "authorized",
        "reason": None,
        "wait_seconds": 0.0,
    }
    assert get(kept, flow.id).token is not None
    assert get(kept, flow.id).handover == "ready"


def test_wait_waits_no_longer_than_it_is_told(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    flow = begun(kept, server)

    done = deviceflow("wait", flow.id, "--timeout", "0.1")

    assert done.code == 75
    assert re.fullmatch(rf"{flow.id} awaiting-user: call again in \d seconds?\n", done.out)


def test_status_says_where_to_go_and_sends_nothing(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    ended, older, newer = begun(kept, server), begun(kept, server), begun(kept, server)
    Client(kept).cancel(ended.id)

    named, both = deviceflow("status", older.id), deviceflow("status", "--json")
    Client(kept).cancel(newer.id)
    only = deviceflow("status", "--json")
    code = older.user_code

    assert named.code == 75
    first, expires, age, *rest = named.out.splitlines()
    assert first == f"{older.id} awaiting-user: due"
    assert re.fullmatch(r"  age: \d+s;  expires in: 1[45]m", f"{age};{expires}")
    assert rest == [
        f"  client: client at {server.url}",
        f"client asks for access to {server.url}.",
        "Open this page, and check that it shows the code:",
        "",
        older.verification_uri_complete,
        code,
        "",
    ]
    assert both.code == 0
    assert [json.loads(line)["flow_id"] for line in both.out.splitlines()] == [newer.id, older.id]
    assert only.code == 75
    assert (only.said["flow_id"], only.said["user_code"]) == (older.id, older.user_code)
    assert polls_of(server, older.user_code) == polls_of(server, newer.user_code) == 0


def test_status_sends_nobody_to_a_code_that_has_expired(
    deviceflow: Command, kept: SQLiteStore
) -> None:
    flow = answered(kept, {"expires_in": 600}, at=time.time() - 3600)

    done = deviceflow("status")

    assert done.code == 75
    first, expires, age, _ = done.out.splitlines()
    assert first == f"{flow.id} awaiting-user: due"
    assert (age, expires) == ("  age: 60m", "  expires in: expired")
    assert "The code has expired" in done.err


@pytest.mark.usefixtures("kept")
def test_status_of_nothing(deviceflow: Command) -> None:
    done, named = deviceflow("status"), deviceflow("status", "nightly")

    assert (done.code, done.out, done.err) == (0, "", "")  # as `list` for a pipe
    assert (named.code, named.out) == (2, "")
    assert "The store has no login 'nightly'." in named.err


def test_list_shows_what_has_not_ended_the_newest_first(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    first, ended, last = (
        begun(kept, server, client_name=name) for name in ("first", "ended", "last")
    )
    Client(kept).cancel(ended.id)

    plain, whole = deviceflow("list"), deviceflow("list", "--json", "--all")
    failed, none = deviceflow("list", "--state", "failed"), deviceflow("list", "--state", "expired")

    assert {done.code for done in (plain, whole, failed, none)} == {0}
    assert [line.split() for line in plain.out.splitlines()] == [
        [one.id, "awaiting-user", ANY, ANY, one.id, "-", name, "at", server.url]
        for one, name in ((last, "last"), (first, "first"))
    ]
    assert all(re.search(r" 1[45]m +\d+s ", line) for line in plain.out.splitlines())
    lines = [json.loads(line) for line in whole.out.splitlines()]
    assert [line["flow_id"] for line in lines] == [last.id, ended.id, first.id]
    assert lines[1] == {"kind": "login"} | deviceflow("status", ended.id, "--json").said
    assert re.fullmatch(
        rf"{ended.id} +failed: cancelled +- +\d+s +{ended.id}  - +ended at {server.url}\n",
        failed.out,
    )
    assert none.out == ""


def test_list_has_a_header_on_a_terminal(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    flow = begun(kept, server, name="nightly")
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 160))

    with deviceflow.running("list", stdout=theirs) as running:
        os.close(theirs)
        done = running.end()
    header, row = os.read(ours, 4096).decode().splitlines()
    os.close(ours)

    assert done.code == 0
    titles = ["NAME", "STATE", "EXPIRES IN", "AGE", "ID", "HAND-OVER", "CLIENT"]
    starts = [header.index(title) for title in titles]
    cells = [row[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
    assert cells[:2] == ["nightly", "awaiting-user"]
    assert re.fullmatch(r"1[45]m \d+s", " ".join(cells[2:4]))
    assert cells[4:] == [flow.id, "-", f"client at {server.url}"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        *((-5, "0s"), (0, "0s"), (119.9, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h")),
        *((172_799, "47h"), (172_800, "2d")),
    ],
)
def test_time_span_has_its_unit(seconds: float, said: str) -> None:
    assert status._span(seconds) == said


def test_cancel_gives_it_up_and_says_so_once_more(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    flow = begun(kept, server)

    first = deviceflow("cancel", flow.id, "--reason", "not needed", "--json")
    again = deviceflow("cancel", flow.id)

    assert (first.code, first.err) == (0, "")
    assert first.said == {
        "flow_id": flow.id,
        "state": "failed",
        "reason": "cancelled",
        "wait_seconds": 0.0,
    }
    assert (again.code, again.out) == (0, f"{flow.id} failed: cancelled\n")
    assert get(kept, flow.id).detail == "not needed"
    assert deviceflow("step", flow.id).code == 5


def test_cancel_leaves_what_has_ended_as_it_is(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    flow = granted(kept, server)

    done = deviceflow("cancel", flow.id)

    assert (done.code, done.out) == (0, f"{flow.id} authorized\n")
    assert get(kept, flow.id).token is not None


@pytest.mark.parametrize(
    ("command", "words"),
    [
        *((command, "The store has no login ") for command in ("step", "status", "cancel")),
        ("token --acknowledge", "The store has no login "),
        ("login --once --show-token", "There is no provider and no login "),
    ],
)
@pytest.mark.usefixtures("kept")
def test_an_id_that_is_unknown(deviceflow: Command, command: str, words: str) -> None:
    done = deviceflow(*command.split(), "no-such-id", "--json")

    assert (done.code, done.err) == (2, "")
    assert done.said.pop("error").startswith(words)
    assert {**done.said, "error": None} == {
        "flow_id": "no-such-id",
        "state": None,
        "reason": "usage",
        "wait_seconds": None,
        "error": None,
    }


# One login at a time.


def test_a_name_shows_the_same_code_again(deviceflow: Command, server: LocalServer) -> None:
    first = deviceflow("start", "nightly", "studio", server.url, "--json").said
    again = deviceflow("start", "nightly", "studio", server.url)
    other = deviceflow("start", "weekly", "studio", server.url, "--json").said
    another = deviceflow("start", "nightly", "studio", server.url, "--scopes", "models")

    assert again.out == f"{first['flow_id']}\n"
    assert first["user_code"] in again.err
    assert other["user_code"] != first["user_code"]
    assert (another.code, another.out) == (2, "")
    assert "'nightly' is open already" in another.err


def test_processes_that_start_at_once_get_the_same_code(
    deviceflow: Command, server: LocalServer
) -> None:
    before = asked_of(server)

    def start(_: int) -> dict[str, Any]:
        return deviceflow("start", "nightly", "studio", server.url, "--json").said

    with ThreadPoolExecutor(6) as processes:
        started = list(processes.map(start, range(6)))

    assert asked_of(server) == before + 1
    (code,) = {said["user_code"] for said in started}
    (flow_id,) = {said["flow_id"] for said in started}
    assert code
    assert flow_id


def test_a_name_is_free_again_when_its_token_was_collected(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    first = deviceflow("start", "nightly", "studio", server.url, "--json").said
    decide(server, "approve")("", first["user_code"])
    deviceflow("step", first["flow_id"])

    approved = deviceflow("start", "nightly", "studio", server.url)
    deviceflow("token", first["flow_id"], "--acknowledge")
    new = deviceflow("start", "nightly", "studio", server.url)

    assert (approved.out, approved.err) == (f"{first['flow_id']}\n", "")
    assert new.out != approved.out


@pytest.mark.parametrize(
    "command",
    [
        *(["start", ""], ["start", "", "studio", "URL"], ["status", ""], ["login", ""]),
        *(["login", "", "studio", "URL"], ["login", "--once", "--show-token", ""]),
        *(["cancel", ""], ["token", ""], ["logout", ""], ["check", ""], ["export-env", ""]),
    ],
    ids=" ".join,
)
def test_a_name_that_a_script_forgot_is_none(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer, command: list[str]
) -> None:
    flow = begun(kept, server)
    before = asked_of(server)

    done = deviceflow(*(server.url if word == "URL" else word for word in command))

    assert (done.code, done.out) == (2, "")
    assert not get(kept, flow.id).state.ended
    assert asked_of(server) == before


def test_what_would_end_with_the_command_is_not_begun(
    deviceflow: Command, server: LocalServer
) -> None:
    before = asked_of(server)

    done = deviceflow("start", "studio", server.url, "--json", DEVICEFLOW_STORE="memory:")

    assert done.code == 2
    assert "in memory would be lost at the end of this command" in done.said["error"]
    assert asked_of(server) == before


# Whatever drives it.


LOOP: Final = """
id=$(deviceflow start {whom}) || exit
until deviceflow step "$id" >&2; do [ $? -eq 75 ] || exit; sleep 1; done
deviceflow token "$id" --acknowledge
"""


@pytest.mark.parametrize("decision", ["approve", "deny"])
def test_a_shells_loop_drives_a_login(
    deviceflow: Command, server: LocalServer, decision: str
) -> None:
    known = asked_of(server)

    def person() -> None:
        while True:
            logins = requests.get(f"{server.url}/control/log", timeout=60).json()["logins"]
            if len(logins) > known and logins[-1]["requests"]:
                break
            time.sleep(0.05)
        decide(server, decision)("", logins[-1]["user_code"])

    somebody = threading.Thread(target=person)
    somebody.start()
    provider = oauth(server)
    done = deviceflow.shell(
        LOOP.format(
            whom=f"--device-authorization-endpoint {provider.device_authorization_endpoint}"
            f" --token-endpoint {provider.token_endpoint} --client-id robot"
        )
    )
    somebody.join()

    assert (done.code == 0) == (decision == "approve"), done.err
    assert bool(re.fullmatch(r"\S{20,}\n", done.out)) == (decision == "approve")
    assert "call again in" in done.err


def test_sweep_steps_what_is_due(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    approved, pending = begun(kept, server, "approve"), begun(kept, server)

    first = deviceflow("sweep", "--json")
    again = deviceflow("sweep")

    assert (first.code, first.err) == (0, "")
    steps = {step.pop("flow_id"): step for step in first.said["logins"]}
    assert steps[approved.id] == {"state": "authorized", "reason": None, "wait_seconds": 0.0}
    assert steps[pending.id]["state"] == "awaiting-user"
    assert first.said["problems"] == []
    assert (again.code, again.out, again.err) == (0, "", "")


def test_sweep_takes_no_more_than_it_is_told(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    flows = [begun(kept, server).id for _ in range(3)]

    done = deviceflow("sweep", "--limit", "2")

    assert {line.split()[0] for line in done.out.splitlines()} == {*flows[:2]}


def test_sweep_says_what_it_could_not_step(
    deviceflow: Command,
    kept: SQLiteStore,
    server: LocalServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ROBOTS", "secret-of-the-robot")
    flow = Client(kept).start(replace(oauth(server), client_secret="env:ROBOTS"))
    time.sleep(flow.wait_seconds)

    done = deviceflow("sweep", "--json")

    assert done.code == 5
    assert done.said["logins"] == []
    (problem,) = done.said["problems"]
    assert "env:ROBOTS" in problem["error"]
    assert polls_of(server, flow.user_code) == 0


def test_purge_wipes_what_is_old(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    flow, pending = granted(kept, server), begun(kept, server)

    young = deviceflow("purge", "--tokens-after", "1m")
    wiped = deviceflow("purge", "--tokens-after", "0", "--json")
    gone = deviceflow("token", flow.id)
    dropped = deviceflow("purge", "--flows-after", "0s")

    assert [done.code for done in (young, wiped, gone, dropped)] == [0, 0, 2, 0]
    assert young.out == "wiped the secrets of 0 logins, deleted 0 logins\n"
    assert wiped.said == {"tokens": 1, "flows": 0, "grants": 0, "needs": 0, "problems": []}
    assert "the store does not have it any more" in gone.err
    assert dropped.out == "wiped the secrets of 0 logins, deleted 1 login\n"
    assert [one.id for one in all_flows(kept)] == [pending.id]
    assert kept.events(flow.id)[-1]["action"] == "purge"


@pytest.mark.parametrize("age", ["soon", "-1d", "1w"])
def test_an_age_that_is_none(deviceflow: Command, age: str) -> None:
    done = deviceflow("purge", f"--tokens-after={age}")

    assert done.code == 2
    assert f"must be an age such as 12h or 7d, not {age!r}" in done.err


# What a server says, and what it must not be told.


HOSTILE: Final = "\x1b]0;owned\x07\x1b[2JA\u202eB\r\nC\x9b31mD"


@pytest.mark.parametrize("ended", [False, True])
def test_what_a_server_says_steers_no_terminal(
    deviceflow: Command, kept: SQLiteStore, ended: bool
) -> None:
    flow = answered(
        kept,
        {"user_code": HOSTILE, "verification_uri": HOSTILE, "token_name": HOSTILE},
        *([{"detail": f"no {HOSTILE}"}] if ended else []),
    )

    said = [
        deviceflow(*command, *form)
        for command in (["status", flow.id], ["list", "--all"])
        for form in ([], ["--json"])
    ]

    for done in said:
        assert done.out
        assert (done.out + done.err).replace("\n", "").isprintable()
    assert ("AB  CD" in said[0].out) == (not ended)
    assert json.loads(said[1].out)["user_code"] == "AB  CD"
    assert json.loads(said[3].out) == {"kind": "login"} | json.loads(said[1].out)


def test_no_secret_is_said_where_nobody_asks_for_it(deviceflow: Command, kept: SQLiteStore) -> None:
    token = "token-canary-0123456789"
    done_with = answered(kept, {}, {"access_token": token})
    pending = answered(kept, {}, {"detail": "authorization_pending"})
    refused = answered(kept, {}, {"detail": f"{DEVICE_CODE} is no code; {token} perhaps"})

    said = [
        deviceflow(*command)
        for command in (
            ["list", "--all"],
            ["list", "--all", "--json"],
            ["status", refused.id],
            ["step", done_with.id],
            ["wait", refused.id, "--json"],
            ["token", pending.id],
            ["sweep", "--json"],
        )
    ]

    for done in said:
        assert DEVICE_CODE not in done.out + done.err
        assert token not in done.out + done.err
    assert token in deviceflow("token", done_with.id).out


# stdout and stderr as they may be.


def test_a_pipe_that_nobody_reads_is_no_traceback(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    begun(kept, server)
    reader, writer = os.pipe()
    os.close(reader)

    with deviceflow.running("list", stdout=writer) as running:
        os.close(writer)
        done = running.end()

    assert (done.code, done.err) == (141, "")


@pytest.mark.parametrize(
    ("to", "why"),
    [("/dev/full", "No space left"), ("&- --json", "it is closed")],
)
def test_what_cannot_be_printed_is_said(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer, to: str, why: str
) -> None:
    begun(kept, server)

    done = deviceflow.shell(f"deviceflow status >{to}")

    assert done.code == 5
    assert re.fullmatch(rf"deviceflow: stdout could not be written: {why}.*\.\n", done.err)


@pytest.mark.parametrize("to", ["/dev/full", "&-"])
def test_nobody_has_to_read_stderr(deviceflow: Command, server: LocalServer, to: str) -> None:
    done = deviceflow.shell(f"deviceflow start studio {server.url} 2>{to}")

    assert done.code == 0
    assert re.fullmatch(r"[\w-]{16}\n", done.out)
