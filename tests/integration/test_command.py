from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import requests

from deviceflow.server import LocalServer, Settings
from tests.integration.command import COMMAND, PATIENCE, asked_of, decide

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.command import Command

USER_CODE = re.compile(r"\b([B-Z]{4}-[B-Z]{4})\b")
TOKEN = re.compile(r"isat_[\w-]{20,}")


def test_an_approved_login_prints_the_bare_token_on_stdout(
    deviceflow: Command, local_server: LocalServer
) -> None:
    done = deviceflow(
        *("login", "--once", "studio", local_server.url, "--show-token", "--no-browser"),
        act=decide(local_server, "approve"),
    )

    assert done.code == 0
    assert TOKEN.fullmatch(done.out.removesuffix("\n"))
    assert local_server.url in done.err
    assert not TOKEN.search(done.err)


def test_the_file_for_the_token_is_its_owners_alone(
    deviceflow: Command, local_server: LocalServer
) -> None:
    done = deviceflow(
        "login",
        "--once",
        "studio",
        local_server.url,
        "--output",
        "token.txt",
        act=decide(local_server, "approve"),
    )

    file = deviceflow.home / "token.txt"
    assert (done.code, done.out) == (0, "")
    assert TOKEN.fullmatch(file.read_text().strip())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(deviceflow.home.iterdir()) == [file]
    assert "token.txt" in done.err


def test_json_is_one_object_and_has_no_token_unless_it_is_asked_for(
    deviceflow: Command, local_server: LocalServer
) -> None:
    done = deviceflow(
        *(
            "login",
            "--once",
            "studio",
            local_server.url,
            "--json",
            "--output",
            "token.txt",
            "--token-name",
            "mine",
        ),
        act=decide(local_server, "approve"),
    )

    assert done.code == 0
    assert done.said.pop("flow_id")
    assert {**done.said, "flow_id": None} == {
        "flow_id": None,
        "state": "authorized",
        "reason": None,
        "wait_seconds": 0.0,
        "issuer": local_server.url,
        "token_name": "mine",
        "expires_at": None,
        "scopes": None,
        "output": "token.txt",
    }
    assert (deviceflow.home / "token.txt").read_text().strip() not in done.out


def test_json_with_the_token(deviceflow: Command, local_server: LocalServer) -> None:
    done = deviceflow(
        *("login", "--once", "studio", local_server.url, "--json", "--show-token"),
        act=decide(local_server, "approve"),
    )

    assert done.code == 0
    assert TOKEN.fullmatch(done.said["token"])


@pytest.mark.parametrize(
    ("act", "exit_code", "state", "reason"),
    [("deny", 4, "failed", "denied"), ("expire", 3, "expired", "expired")],
)
def test_the_exit_code_says_how_it_ended(
    deviceflow: Command,
    local_server: LocalServer,
    act: str,
    exit_code: int,
    state: str,
    reason: str | None,
) -> None:
    done = deviceflow(
        *("login", "--once", "studio", local_server.url, "--json", "--output", "token.txt"),
        act=decide(local_server, act),
    )

    assert done.code == exit_code
    assert (done.said["state"], done.said["reason"]) == (state, reason)
    assert done.said["error"]
    assert list(deviceflow.home.iterdir()) == []


def test_a_login_still_pending_at_its_timeout_exits_75_and_goes_on(
    deviceflow: Command, local_server: LocalServer
) -> None:
    done = deviceflow(
        "login", "--once", "studio", local_server.url, "--show-token", "--timeout", "0.2"
    )

    assert (done.code, done.out) == (75, "")
    (flow,) = [line.split() for line in deviceflow("list").out.splitlines()]
    assert flow[1] == "awaiting-user"
    assert "still pending after 0.2 seconds" in done.err
    assert f"deviceflow login --once {flow[0]}, with" in done.err


def test_ctrl_c_exits_130_leaves_no_file_and_the_login_goes_on(
    deviceflow: Command, local_server: LocalServer
) -> None:
    with deviceflow.running(
        "login", "--once", "studio", local_server.url, "--output", "token.txt", "--verbose"
    ) as running:
        running.when_asked()
        running.process.send_signal(signal.SIGINT)
        done = running.end()

    assert (done.code, done.out) == (130, "")
    assert "action=cancel" not in done.err
    (flow,) = [line.split() for line in deviceflow("list").out.splitlines()]
    assert flow[1] in ("awaiting-user", "polling")  # by where the signal has found it
    assert f"deviceflow login --once {flow[0]}, with" in done.err
    assert list(deviceflow.home.iterdir()) == []


@pytest.mark.parametrize("how", ["timeout", "interrupted"])
def test_a_login_in_memory_ends_with_the_command(
    deviceflow: Command, local_server: LocalServer, how: str
) -> None:
    in_memory = (
        "login",
        "--once",
        "studio",
        local_server.url,
        "--show-token",
        "--verbose",
        "--store",
        "memory:",
    )
    with deviceflow.running(
        *in_memory, *(("--timeout", "0.2") if how == "timeout" else ())
    ) as running:
        running.when_asked()
        if how == "interrupted":
            running.process.send_signal(signal.SIGINT)
        done = running.end()

    assert done.code == (75 if how == "timeout" else 130)
    assert "action=cancel" in done.err
    assert f"detail={how}" in done.err
    assert "To continue" not in done.err
    assert not deviceflow.store.exists()


@pytest.mark.parametrize("once", [["--once"], []])
@pytest.mark.parametrize(
    "args",
    [
        ["--output", "no/such/folder/token.txt"],
        ["--output", "."],
        ["--output", "/dev/full"],
        ["--output", "link"],
        ["--output", ""],
        ["--show-token", "--scopes", "experiments,everything"],
        ["--show-token", "--timeout", "soon"],
    ],
)
def test_what_cannot_work_is_refused_before_anybody_is_asked(
    deviceflow: Command, local_server: LocalServer, args: list[str], once: list[str]
) -> None:
    (deviceflow.home / "link").symlink_to(deviceflow.home / "elsewhere")

    done = deviceflow("login", *once, "studio", local_server.url, *args)

    assert (done.code, done.out) == (2, "")
    assert asked_of(local_server) == 0
    assert ("add --once" in done.err) == (not once and "--timeout" not in args)


def test_a_login_once_wants_to_know_where_to_put_the_token(
    deviceflow: Command, local_server: LocalServer
) -> None:
    done = deviceflow("login", "--once", "studio", local_server.url)

    assert (done.code, done.out) == (2, "")
    assert "--output FILE, --save keyring, or --show-token" in done.err
    assert asked_of(local_server) == 0


def test_plain_http_to_another_machine_is_refused(deviceflow: Command) -> None:
    done = deviceflow("login", "--once", "studio", "http://studio.example.com", "--show-token")

    assert done.code == 2
    assert "--allow-http" in done.err


def test_an_unreachable_server_exits_5_and_says_what_to_do(deviceflow: Command) -> None:
    with LocalServer(Settings()) as gone:
        url = gone.url
    done = deviceflow("login", "--once", "studio", url, "--show-token")

    assert done.code == 5
    assert "Check the URL" in done.err


def run_without(deviceflow: Command, modules: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run the command where some libraries are not installed."""
    code = (
        f"import sys; sys.modules |= dict.fromkeys({modules.split()!r});"
        "from deviceflow.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        check=False,
        cwd=deviceflow.home,
        env=deviceflow.environment,
        text=True,
        timeout=PATIENCE,
    )


def test_without_the_extra_everything_works_plainer(
    deviceflow: Command, local_server: LocalServer
) -> None:
    done = run_without(
        deviceflow,
        "rich segno cryptography",
        *(
            "login",
            "--once",
            "studio",
            local_server.url,
            "--show-token",
            "--qr",
            "--timeout",
            "0.2",
        ),
    )

    assert done.returncode == 75
    assert "deviceflow[cli]" in done.stderr
    assert "in memory only, and cannot be resumed" in done.stderr
    assert "deviceflow[seal]" in done.stderr
    assert "The login was cancelled. Run" in done.stderr


@pytest.mark.parametrize("form", [[], ["--json"]])
@pytest.mark.parametrize("command", [["start"], ["login"], ["login", "work"]])
def test_without_the_extra_a_login_that_has_to_be_kept_is_refused(
    deviceflow: Command, local_server: LocalServer, command: list[str], form: list[str]
) -> None:
    done = run_without(deviceflow, "cryptography", *command, "studio", local_server.url, *form)

    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "deviceflow[seal]" in (done.stdout if form else done.stderr)
    assert asked_of(local_server) == 0


@contextmanager
def terminal(deviceflow: Command, *args: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run the command with stderr on a terminal of its own."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *args],
        stdout=subprocess.PIPE,
        stderr=theirs,
        stdin=theirs,
        env=deviceflow.environment | {"TERM": "xterm-256color", "COLUMNS": "120"},
    ) as process:
        os.close(theirs)
        try:
            yield process, ours
        finally:
            process.kill()
            os.close(ours)


def read_until(descriptor: int, wanted: str) -> str:
    seen, until = "", time.monotonic() + PATIENCE
    while not re.search(wanted, seen) and time.monotonic() < until:
        if select.select([descriptor], [], [], 1)[0]:
            seen += os.read(descriptor, 65536).decode(errors="replace")
    return seen


def test_on_a_terminal_there_is_a_qr_code_and_a_countdown(
    deviceflow: Command, local_server: LocalServer
) -> None:
    with terminal(deviceflow, "login", "--once", "studio", local_server.url, "--show-token") as (
        process,
        screen,
    ):
        seen = read_until(screen, r"the code expires in 1[0-4]:\d\d")
        found = USER_CODE.search(seen)
        assert found
        assert "▀" in seen  # the blocks that a QR code is drawn with
        assert re.search(r"the code expires in 1[0-4]:\d\d", seen)

        decide(local_server, "approve")("", found[1])
        assert process.stdout is not None
        assert TOKEN.fullmatch(process.stdout.read().decode().strip())
        assert process.wait(PATIENCE) == 0


def test_the_demo_logs_in_and_shows_what_was_logged(deviceflow: Command) -> None:
    done = deviceflow.fresh("demo", "--auto-approve")

    assert done.code == 0, done.err
    shown = [line.split()[2] for line in done.out.splitlines() if "→" in line]
    assert shown[:2] == ["issue_code", "poll"]
    assert shown[-2:] == ["issue_token", "collect"]
    assert not TOKEN.search(done.out + done.err)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_prints_its_address_serves_and_stops(deviceflow: Command, number: int) -> None:
    with deviceflow.running("serve", "--port", "0") as running:
        assert running.process.stdout is not None
        url = running.process.stdout.readline().strip()
        assert requests.get(f"{url}/device", timeout=60).status_code == 200
        assert requests.get(f"{url}/control/log", timeout=60).status_code == 404
        running.process.send_signal(number)
        assert running.end().code == 0


def test_serve_takes_the_settings_of_tokens(deviceflow: Command) -> None:
    options = {
        "--access-token-lifetime": "2",
        "--refresh-tokens": "rotate",
        "--refresh-scope": "forever",
        "--refresh-token-lifetime": "60",
        "--reuse-grace": "30",
    }
    settings = [text for option in options.items() for text in option]
    flags = ("--port", "0", "--control", "--no-reuse-detection")
    with deviceflow.running("serve", *flags, *settings) as running:
        assert running.process.stdout is not None
        url = running.process.stdout.readline().strip()

        def post(path: str, **form: str) -> dict[str, Any]:
            data = {"client_id": "robot"} | form
            return dict(requests.post(f"{url}{path}", data=data, timeout=60).json())

        started = post("/oauth/device_authorization", scope="forever")
        approval = {"user_code": started["user_code"]}
        requests.post(f"{url}/control/approve", json=approval, timeout=60).raise_for_status()
        grant_type = "urn:ietf:params:oauth:grant-type:device_code"
        code = started["device_code"]
        first = post("/oauth/token", grant_type=grant_type, device_code=code)
        refresh_token = first["refresh_token"]
        refresh = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        second, replayed = post("/oauth/token", **refresh), post("/oauth/token", **refresh)
        found = post("/oauth/introspect", token=second["refresh_token"])
        third = post("/oauth/token", **refresh | {"refresh_token": second["refresh_token"]})
        reused = post("/oauth/token", **refresh)
        kept = post("/oauth/introspect", token=third["refresh_token"])

    assert first["expires_in"] == 2
    assert found["exp"] - found["iat"] == 60
    assert replayed["refresh_token"] == second["refresh_token"] != refresh_token
    assert reused["error"] == "invalid_grant"
    assert kept["active"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--access-token-lifetime", "0"], "access_token_lifetime must be greater than 0"),
        (["--reuse-grace", "-1"], "at least 0"),
        (["--refresh-tokens", "forever"], "is not one of"),
    ],
)
def test_serve_refuses_settings_of_tokens_that_make_no_sense(
    deviceflow: Command, options: list[str], said: str
) -> None:
    done = deviceflow("serve", "--port", "0", *options)

    assert done.code == 2
    assert said in done.err


def test_serve_says_what_is_wrong_with_its_settings(deviceflow: Command) -> None:
    done = deviceflow("serve", "--host", "0.0.0.0")

    assert done.code == 2
    assert "loopback" in done.err
    assert ".." not in done.err


def test_serve_names_the_port_that_is_taken(deviceflow: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = deviceflow("serve", "--port", str(port))

    assert done.code == 2
    assert f"port {port} of 127.0.0.1 is in use by another program. Choose another" in done.err


@pytest.mark.parametrize(
    ("line", "follows"),
    [
        ("deviceflow login gi", {"github", "gitlab"}),
        ("deviceflow providers show gi", {"github", "gitlab"}),
        ("deviceflow start --client-auth private", {"private_key_jwt"}),
    ],
)
def test_a_shell_completes_what_is_known(
    deviceflow: Command, line: str, follows: set[str], tmp_path: Path
) -> None:
    answers = tmp_path / "answers"
    asks = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answers),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    subprocess.run(COMMAND, env=deviceflow.environment | asks, check=False, timeout=PATIENCE)

    assert {*answers.read_text().split()} == follows
