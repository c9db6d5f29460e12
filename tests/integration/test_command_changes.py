"""`--json-events`: a program that drives the command calls it, leaves, and comes back."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from deviceflow.cli import changes, exits
from deviceflow.core.states import Reason, State
from deviceflow.server import LocalServer, Settings
from tests.integration.command import begun, decide, granted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.stores.sqlite import SQLiteStore
    from tests.integration.command import Command

CHECKER = jsonschema.Draft202012Validator(
    changes.schema(), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
)


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer(Settings(interval=1, control=True)) as one:
        yield one


def told(out: str) -> list[dict[str, Any]]:
    """Return the objects of an output, each of which keeps to the schema."""
    objects = [json.loads(line) for line in out.splitlines()]
    for one in objects:
        CHECKER.validate(one)
    return objects


def names(objects: list[dict[str, Any]]) -> list[str]:
    return [one["event"] for one in objects]


def at(server: LocalServer, *args: str) -> list[str]:
    """Return a login once at the server's OAuth side, whose interval is a second."""
    return ["login", "--once", *where(server, *args)]


def where(server: LocalServer, *args: str) -> list[str]:
    return [
        *("--device-authorization-endpoint", f"{server.url}/oauth/device_authorization"),
        *("--token-endpoint", f"{server.url}/oauth/token", "--client-id", "robot"),
        *(*args, "--json-events", "--no-browser"),
    ]


def test_schema_is_one_and_names_the_states_and_reasons() -> None:
    schema = changes.schema()

    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]["state"]["enum"] == [*map(str, State), None]
    kinds = {word for _, _, word in exits.ERRORS} | {"not_saved", *map(str, Reason)}
    assert {*schema["properties"]["reason"]["enum"]} == {*kinds, None}


def test_a_login_is_left_and_continued_by_its_hint(
    deviceflow: Command, server: LocalServer
) -> None:
    left = deviceflow(*at(server, "--output", "token.txt", "--timeout", "0"))

    first = told(left.out)
    assert left.code == 75
    assert names(first) == ["code", "waiting", "timeout"]
    code, *_, last = first
    assert code["user_code"] in str(code["verification_uri_complete"])
    assert last["flow_id"] == code["flow_id"]
    program = [sys.executable, "-m", "deviceflow"]
    assert last["resume"][:3] == program or last["resume"][:1] == ["deviceflow"]
    resume = last["resume"][last["resume"].index("login") :]
    assert resume[1] == code["flow_id"]

    again = deviceflow(*resume)
    assert names(told(again.out)) == ["code", "waiting", "timeout"]
    assert told(again.out)[-1]["resume"] == last["resume"]

    decide(server, "approve")("", code["user_code"])
    resume[resume.index("--timeout") + 1] = "60"
    done = deviceflow(*resume)

    assert done.code == 0, done.err
    objects = told(done.out)
    assert names(objects)[-2:] == ["authorized", "saved"]
    assert objects[-2]["resume"][-len(resume) :] == resume
    assert objects[-1]["resume"] is None
    token = (deviceflow.home / "token.txt").read_text().strip()
    assert token
    assert token not in done.out + left.out
    assert deviceflow("status", code["flow_id"], "--json").said["handover"] == "acknowledged"


def test_a_hint_is_a_program_that_can_be_run(deviceflow: Command, server: LocalServer) -> None:
    left = deviceflow.fresh(*at(server, "--output", "token.txt", "--timeout", "0"))
    *_, last = told(left.out)

    again = subprocess.run(
        last["resume"],
        capture_output=True,
        check=False,
        cwd=deviceflow.home,
        env=deviceflow.environment,
        text=True,
        timeout=60,
    )

    assert again.returncode == 75, again.stderr
    assert told(again.stdout)[0]["user_code"] == told(left.out)[0]["user_code"]


@pytest.mark.parametrize(
    ("decision", "code", "name"),
    [("approve", 0, "authorized"), ("deny", 4, "denied"), ("expire", 3, "expired")],
)
def test_wait_ends_with_how_the_login_ended(
    deviceflow: Command,
    kept: SQLiteStore,
    server: LocalServer,
    decision: str,
    code: int,
    name: str,
) -> None:
    flow = begun(kept, server, decision)

    done = deviceflow("wait", flow.id, "--json-events")

    objects = told(done.out)
    assert done.code == code
    assert names(objects)[0] == "code"
    assert names(objects)[-1] == name
    assert objects[-1]["resume"] is None
    assert all("resume" in one and one["flow_id"] == flow.id for one in objects)


def test_a_login_that_was_denied_says_so_once(deviceflow: Command, server: LocalServer) -> None:
    done = deviceflow(*at(server, "--show-token"), act=decide(server, "deny"))

    assert done.code == 4
    assert names(told(done.out)).count("denied") == 1
    assert names(told(done.out))[-1] == "denied"


def test_a_token_is_told_only_where_it_is_wanted(deviceflow: Command, server: LocalServer) -> None:
    done = deviceflow(*at(server, "--show-token"), act=decide(server, "approve"))

    *others, last = told(done.out)
    assert last["event"] == "saved"
    assert last["token"]
    assert not [one for one in others if "token" in one]


def test_a_token_that_cannot_be_saved_can_be_fetched_again(
    deviceflow: Command, kept: SQLiteStore, server: LocalServer
) -> None:
    flow = granted(kept, server)
    place = deviceflow.home / "place"
    place.mkdir()

    done = deviceflow("login", "--once", flow.id, "--output", "place", "--json-events")

    (last,) = told(done.out)
    assert (done.code, last["event"], last["flow_id"]) == (2, "error", flow.id)
    assert "is a directory" in last["error"]


@pytest.mark.parametrize(
    "args",
    [
        ["wait", "none"],
        ["login", "--once", "none", "--show-token"],
        ["login", "--once", "--show-token", "--set", "x"],
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("kept")
def test_what_is_wrong_before_there_is_a_login_is_an_object_too(
    deviceflow: Command, args: list[str]
) -> None:
    done = deviceflow(*args, "--json-events")

    (one,) = told(done.out)
    assert (done.code, one["event"], one["state"], one["resume"]) == (2, "error", None, None)


# Logins that are kept under a name.


def named(server: LocalServer, name: str, *args: str) -> list[str]:
    """Return a login at the same server that is kept."""
    return ["login", name, *kept_at(server, *args)]


def kept_at(server: LocalServer, *args: str) -> list[str]:
    return [*where(server, *args), "--scopes", "read offline_access"]


@pytest.mark.parametrize("name", ["nightly", "-v"])
def test_a_login_that_is_kept_is_left_and_continued_by_its_hint(
    deviceflow: Command, server: LocalServer, name: str
) -> None:
    left = deviceflow("login", *kept_at(server, "--timeout", "0"), "--", name)

    first = told(left.out)
    assert left.code == 75, left.err
    assert names(first) == ["code", "waiting", "timeout"]
    assert all(one["flow_id"] == first[0]["flow_id"] for one in first)
    resume = first[-1]["resume"]
    resume = resume[resume.index("login") :]

    again = deviceflow(*resume)
    assert names(told(again.out)) == ["code", "waiting", "timeout"]
    assert told(again.out)[0]["user_code"] == first[0]["user_code"]
    assert told(again.out)[-1]["resume"] == first[-1]["resume"]

    decide(server, "approve")("", first[0]["user_code"])
    resume[resume.index("--timeout") + 1] = "60"
    done = deviceflow(*resume)

    assert done.code == 0, done.err
    *_, authorized, saved = told(done.out)
    assert (authorized["event"], saved["event"]) == ("authorized", "saved")
    assert authorized["resume"][-len(resume) :] == resume
    assert (saved["grant"], saved["resume"], saved["state"]) == (name, None, "authorized")
    assert saved["scopes"] == ["read", "offline_access"]
    assert saved["expires_at"] is not None

    over = deviceflow(*resume)
    (only,) = told(over.out)
    assert (over.code, only["event"], only["flow_id"], only["grant"]) == (0, "saved", None, name)
    assert f"{name} is logged in already" in over.err


def test_a_login_by_the_name_alone_is_continued_by_its_hint(
    deviceflow: Command, server: LocalServer
) -> None:
    deviceflow(*named(server, "nightly"), act=decide(server, "approve"))
    deviceflow("logout", "nightly")

    left = deviceflow("login", "nightly", "--json-events", "--timeout", "0")

    *_, code, waiting, last = told(left.out)
    assert [code["event"], waiting["event"], last["event"]] == ["code", "waiting", "timeout"]
    end = ["login", "nightly", "--json-events", "--timeout", "0", "--no-browser"]
    assert last["resume"][-len(end) :] == end
    decide(server, "approve")("", code["user_code"])
    end[end.index("--timeout") + 1] = "60"
    done = deviceflow(*end)
    assert (done.code, names(told(done.out))[-1]) == (0, "saved")
    assert told(done.out)[-1]["grant"] == "nightly"


def test_a_kept_login_that_is_denied_or_cannot_begin_is_an_object(
    deviceflow: Command, server: LocalServer
) -> None:
    denied = deviceflow(*named(server, "nightly"), act=decide(server, "deny"))
    nowhere = [arg.replace(server.url, "http://127.0.0.1:9") for arg in named(server, "weekly")]
    unreachable = deviceflow(*nowhere)

    assert denied.code == 4
    assert names(told(denied.out))[-1] == "denied"
    assert names(told(denied.out)).count("denied") == 1
    (error,) = told(unreachable.out)
    assert (error["event"], error["state"], error["resume"]) == ("error", "failed", None)
    assert unreachable.code not in (0, 75)


def test_a_kept_login_that_nobody_can_read_of_says_so_once(
    deviceflow: Command, server: LocalServer
) -> None:
    args = " ".join(named(server, "nightly", "--timeout", "0")[:-1])
    full = deviceflow.shell(f"deviceflow {args} read >/dev/full")

    assert full.code not in (0, 75)
    assert full.err.count("deviceflow: ") == 1

    (unknown,) = told(deviceflow("login", "weekly", "--json-events").out)
    assert unknown["event"] == "error"
    assert "There is no provider and no login 'weekly'." in unknown["error"]


def test_both_kinds_of_json_exclude_each_other(deviceflow: Command) -> None:
    done = deviceflow("wait", "x", "--json", "--json-events")

    assert done.code == 2
    assert "not allowed with argument" in done.err
