"""What a browser that is opened for a person inherits, by a real child process that says so."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deviceflow.client.browser import kept_back, open_page
from deviceflow.core.encryption import generate_key
from deviceflow.server import LocalServer, Settings
from tests.integration.command import PATIENCE, decide

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.command import Command

CANARY: Final = "canary-3f1c-of-the-environment"
BROWSER: Final = """\
import json, os, sys
there = sys.argv[1]
with open(there + ".part", "w") as file:
    json.dump(dict(os.environ), file)
os.rename(there + ".part", there)
"""
PROFILES: Final = """
[profiles.work]
issuer = "https://login.example.com"
client_id = "work"
client_secret = "env:WORK_SECRET"

[profiles.signs]
issuer = "https://login.example.com"
client_id = "signs"
private_key = "env:SIGNING_PEM"
"""
OWN: Final = (
    "DEVICEFLOW_AUDIT_KEY",
    "DEVICEFLOW_AUDIT_SIGNING_KEY",
    "DEVICEFLOW_OF_A_LATER_VERSION",
    "PGPASSWORD",
    "PGPASSFILE",
)
NAMED: Final = ("WORK_SECRET", "SIGNING_PEM", "OF_THE_SETTINGS", "OF_THE_LOGIN")

LOGS_IN: Final = """\
import os, sys
from deviceflow import Client, Studio
from deviceflow.auth import get_access_token
if sys.argv[1] == "auth":
    get_access_token(hostname=sys.argv[2], client_name="robot")
else:
    Client(output=print).login(Studio(sys.argv[2]))
assert os.environ["DEVICEFLOW_KEYS"] and os.environ["PGPASSWORD"]
"""


def browser(folder: Path) -> tuple[str, Path]:
    """Return a command that says what it inherits, and where it does so."""
    program, said = folder / "browser.py", folder / "inherited.json"
    program.write_text(BROWSER)
    command = folder / "browser"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {program} {said} "$@"\n')
    command.chmod(stat.S_IRWXU)
    return f"{command} %s", said


def inherited(said: Path) -> dict[str, str]:
    until = time.monotonic() + PATIENCE
    while not said.exists():
        assert time.monotonic() < until, "no browser was opened"
        time.sleep(0.01)
    read: dict[str, str] = json.loads(said.read_text())
    return read


def test_the_command_hands_no_secret_to_the_browser(deviceflow: Command) -> None:
    command, said = browser(deviceflow.home.parent)
    deviceflow.configure(PROFILES)
    given = dict.fromkeys((*OWN, *NAMED), CANARY)
    given |= {
        "BROWSER": command,
        "DISPLAY": ":0",
        "DEVICEFLOW_AUDIT_KEY": "ab" * 32,
        "DEVICEFLOW_CLIENT_SECRET": "env:OF_THE_SETTINGS",
        "DEVICEFLOW_KEYS": generate_key().reveal(),
    }
    with (
        LocalServer(Settings(interval=1, control=True)) as server,
        deviceflow.running(
            *("login", "--once", "--issuer", server.url, "--client-id", "robot", "--show-token"),
            *("--client-secret", "env:OF_THE_LOGIN"),
            environment=given,
        ) as running,
    ):
        code = running.when_asked()
        seen = inherited(said)
        decide(server, "approve")("", code)
        done = running.end()

    assert done.code == 0, done.err
    kept = [name for name in given if name in seen and name not in ("BROWSER", "DISPLAY")]
    assert kept == []
    assert CANARY not in str(seen)
    assert seen["DISPLAY"] == ":0"
    assert seen["HOME"] == str(deviceflow.home)


def test_the_demo_hands_no_secret_to_the_browser(deviceflow: Command) -> None:
    command, said = browser(deviceflow.home.parent)
    deviceflow.configure(PROFILES)
    given = dict.fromkeys((*OWN, "WORK_SECRET", "SIGNING_PEM"), CANARY) | {"BROWSER": command}

    with deviceflow.running("demo", environment=given) as running:
        seen = inherited(said)
        running.process.send_signal(signal.SIGINT)
        assert running.end().code == 130

    assert CANARY not in str(seen)


@pytest.mark.parametrize("face", ["auth", "client"])
def test_a_program_of_one_thread_hands_none_of_ours_to_the_browser(
    tmp_path: Path, face: str
) -> None:
    command, said = browser(tmp_path)
    environment = os.environ | dict.fromkeys(OWN, CANARY) | {"BROWSER": command}
    environment |= {"DEVICEFLOW_KEYS": CANARY, "ITS_OWN": "stays"}
    with (
        LocalServer(Settings(interval=1, control=True)) as server,
        subprocess.Popen(
            [sys.executable, "-c", LOGS_IN, face, server.url],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as program,
    ):
        seen = inherited(said)
        _approve_all(server)
        out, err = program.communicate(timeout=PATIENCE)

    assert program.returncode == 0, out + err
    assert CANARY not in str(seen)
    assert seen["ITS_OWN"] == "stays"


def _approve_all(server: LocalServer) -> None:
    for login in requests.get(f"{server.url}/control/log", timeout=60).json()["logins"]:
        decide(server, "approve")("", login["user_code"])


def test_where_threads_share_the_environment_it_is_left_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DEVICEFLOW_KEYS", CANARY)
    seen: list[str | None] = []
    asked, done = threading.Event(), threading.Event()

    def other() -> None:
        asked.wait(PATIENCE)
        seen.append(os.environ.get("DEVICEFLOW_KEYS"))
        done.set()

    def opened(_: str) -> bool:
        asked.set()
        return done.wait(PATIENCE)

    monkeypatch.setattr("webbrowser.open", opened)
    thread = threading.Thread(target=other)
    thread.start()

    assert open_page("https://example.com/")

    thread.join()
    assert seen == [CANARY]


NAMES: Final = st.text("ABCXYZ_", min_size=1, max_size=12)


@given(
    own=st.sets(st.builds("{}{}".format, st.sampled_from(["DEVICEFLOW_", "PG"]), NAMES)),
    others=st.sets(NAMES.filter(lambda name: not name.startswith("PG"))),
)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_variable_of_ours_is_kept_back_and_is_there_again(
    monkeypatch: pytest.MonkeyPatch, own: set[str], others: set[str]
) -> None:
    seen: dict[str, Any] = {}

    def opened(_: str) -> bool:
        seen.clear()
        seen.update(os.environ)
        return True

    monkeypatch.setattr("webbrowser.open", opened)
    with pytest.MonkeyPatch.context() as patch:
        for name in own | others:
            patch.setenv(name, CANARY)
        before = dict(os.environ)

        with kept_back(*others):
            assert open_page("https://example.com/")

        assert dict(os.environ) == before
    assert not (own | others) & seen.keys()
