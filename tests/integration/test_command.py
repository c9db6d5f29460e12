from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import requests

from deviceflow.server import LocalServer, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMAND = [sys.executable, "-m", "deviceflow"]
USER_CODE = re.compile(r"the code ([B-Z]{4}-[B-Z]{4})")
TOKEN = re.compile(r"isat_[\w-]{20,}")


class Running:
    """The command at work, with a person who reads its stderr and acts on the first code."""

    def __init__(self, server: LocalServer, *args: str, act: str | None, **kwargs: Any) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "BROWSER")}
        self.process = subprocess.Popen(
            [*COMMAND, "login", server.url, *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            **kwargs,
        )
        self.prompts: list[str] = []
        self.asked = threading.Event()
        self._person = threading.Thread(target=self._read, args=(server.url, act))
        self._person.start()

    def _read(self, url: str, act: str | None) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.prompts.append(line)
            found = USER_CODE.search(line)
            if found and not self.asked.is_set():
                if act:
                    decision = {"user_code": found[1]}
                    requests.post(f"{url}/control/{act}", json=decision, timeout=10)
                self.asked.set()

    def end(self) -> tuple[int, str, str]:
        assert self.process.stdout is not None
        with self.process.stdout:
            out = self.process.stdout.read()
        code = self.process.wait(timeout=60)
        self._person.join(timeout=10)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code, out, "".join(self.prompts)


def test_an_approved_login_prints_the_bare_token_on_stdout(local_server: LocalServer) -> None:
    code, out, err = Running(local_server, "--show-token", "--no-browser", act="approve").end()

    assert code == 0
    assert TOKEN.fullmatch(out.strip())
    assert local_server.url in err
    assert not TOKEN.search(err)


def test_the_file_for_the_token_is_its_owners_alone(
    local_server: LocalServer, tmp_path: Path
) -> None:
    file = tmp_path / "token.txt"
    code, out, err = Running(local_server, "--output", str(file), act="approve").end()

    assert (code, out) == (0, "")
    assert TOKEN.fullmatch(file.read_text().strip())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["token.txt"]
    assert str(file) in err


def test_json_is_one_object_and_has_no_token_unless_it_is_asked_for(
    local_server: LocalServer, tmp_path: Path
) -> None:
    file = tmp_path / "token.txt"
    code, out, _ = Running(
        local_server, "--json", "--output", str(file), "--token-name", "mine", act="approve"
    ).end()

    said = json.loads(out)
    assert code == 0
    assert said["state"] == "authorized"
    assert said["reason"] is None
    assert said["issuer"] == local_server.url
    assert said["token_name"] == "mine"
    assert said["output"] == str(file)
    assert file.read_text().strip() not in out


def test_json_with_the_token(local_server: LocalServer) -> None:
    code, out, _ = Running(local_server, "--json", "--show-token", act="approve").end()

    assert code == 0
    assert TOKEN.fullmatch(json.loads(out)["token"])


@pytest.mark.parametrize(
    ("act", "exit_code", "state", "reason"),
    [("deny", 4, "failed", "denied"), ("expire", 3, "expired", None)],
)
def test_the_exit_code_says_how_it_ended(
    local_server: LocalServer,
    tmp_path: Path,
    act: str,
    exit_code: int,
    state: str,
    reason: str | None,
) -> None:
    file = tmp_path / "token.txt"
    code, out, _ = Running(local_server, "--json", "--output", str(file), act=act).end()

    said = json.loads(out)
    assert code == exit_code
    assert (said["state"], said["reason"]) == (state, reason)
    assert said["error"]
    assert list(tmp_path.iterdir()) == []


def test_a_login_still_pending_at_its_timeout_exits_75(local_server: LocalServer) -> None:
    code, out, err = Running(local_server, "--show-token", "--timeout", "0.2", act=None).end()

    assert (code, out) == (75, "")
    assert "still pending after 0.2 seconds, and was given up" in err


def test_ctrl_c_exits_130_and_leaves_no_file(local_server: LocalServer, tmp_path: Path) -> None:
    running = Running(
        local_server,
        "--output",
        str(tmp_path / "token.txt"),
        "--verbose",
        act=None,
        process_group=0,
    )
    assert running.asked.wait(timeout=30)
    running.process.send_signal(signal.SIGINT)
    code, out, err = running.end()

    assert (code, out) == (130, "")
    assert "Traceback" not in err
    assert "action=cancel" in err
    assert list(tmp_path.iterdir()) == []


def login(*args: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "login", *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **kwargs,
    )


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--output", "no/such/folder/token.txt"],
        ["--output", "."],
        ["--show-token", "--scopes", "experiments,everything"],
        ["--show-token", "--timeout", "soon"],
    ],
)
def test_what_cannot_work_is_refused_before_anybody_is_asked(
    local_server: LocalServer, tmp_path: Path, args: list[str]
) -> None:
    done = login(local_server.url, *args, cwd=tmp_path)

    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    log = requests.get(f"{local_server.url}/control/log", timeout=10).json()
    assert log == {"logins": []}


def test_plain_http_to_another_machine_is_refused() -> None:
    done = login("http://studio.example.com", "--show-token")

    assert done.returncode == 2
    assert "allow_http" in done.stderr


def test_an_unreachable_server_exits_5_and_says_what_to_do() -> None:
    with LocalServer(Settings()) as gone:
        url = gone.url
    done = login(url, "--show-token")

    assert done.returncode == 5
    assert "Check the address" in done.stderr


def test_without_the_extra_everything_works_plainer(local_server: LocalServer) -> None:
    code = (
        "import sys; sys.modules |= {'rich': None, 'segno': None}; from deviceflow.cli import main"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{code}; sys.exit(main(sys.argv[1:]))",
            *("login", local_server.url, "--show-token", "--qr", "--timeout", "0.2"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 75
    assert "deviceflow[cli]" in done.stderr


@contextmanager
def terminal(*args: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run the command with stderr on a terminal of its own."""
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "BROWSER")}
    with subprocess.Popen(
        [*COMMAND, *args],
        stdout=subprocess.PIPE,
        stderr=theirs,
        stdin=theirs,
        env=environment | {"TERM": "xterm-256color", "COLUMNS": "120"},
    ) as process:
        os.close(theirs)
        try:
            yield process, ours
        finally:
            process.kill()
            os.close(ours)


def read_until(descriptor: int, wanted: str) -> str:
    seen, until = "", time.monotonic() + 30
    while wanted not in seen and time.monotonic() < until:
        if select.select([descriptor], [], [], 1)[0]:
            seen += os.read(descriptor, 65536).decode(errors="replace")
    return seen


def test_on_a_terminal_there_is_a_qr_code_and_a_countdown(local_server: LocalServer) -> None:
    with terminal("login", local_server.url, "--show-token") as (process, screen):
        seen = read_until(screen, "the code expires in 14:5")
        found = USER_CODE.search(seen)
        assert found
        assert "▀" in seen  # the blocks that a QR code is drawn with
        assert re.search(r"the code expires in 14:5\d", seen)

        approve = {"user_code": found[1]}
        requests.post(f"{local_server.url}/control/approve", json=approve, timeout=10)
        assert process.stdout is not None
        assert TOKEN.fullmatch(process.stdout.read().decode().strip())
        assert process.wait(timeout=30) == 0


def test_the_demo_logs_in_and_shows_what_was_logged() -> None:
    done = subprocess.run(
        [*COMMAND, "demo", "--auto-approve"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    shown = [line.split()[2] for line in done.stdout.splitlines() if "→" in line]
    assert shown[:2] == ["issue_code", "poll"]
    assert shown[-1] == "grant"
    assert not TOKEN.search(done.stdout + done.stderr)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_prints_its_address_serves_and_stops(number: int) -> None:
    with subprocess.Popen(
        [*COMMAND, "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert requests.get(f"{url}/device", timeout=10).status_code == 200
        assert requests.get(f"{url}/control/log", timeout=10).status_code == 404
        process.send_signal(number)
        assert process.wait(timeout=30) == 0


def test_serve_says_what_is_wrong_with_its_settings() -> None:
    done = subprocess.run(
        [*COMMAND, "serve", "--host", "0.0.0.0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 2
    assert "loopback" in done.stderr
