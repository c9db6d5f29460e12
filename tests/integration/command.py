"""The command as a process of its own, and somebody who acts on what it asks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest
import requests

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deviceflow.server import LocalServer

COMMAND: Final = [sys.executable, "-m", "deviceflow"]
PROMPT: Final = re.compile(r"Open (\S+) and (?:check .* the|enter the) code (\S+)")


class Command:
    """Runs the command in a home of its own, with nothing set but what the test sets."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.config = home / ".config" / "deviceflow" / "config.toml"
        kept = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER", "DEVICEFLOW_", "XDG_")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(kept)} | {
            "HOME": str(home)
        }

    def __call__(
        self, *args: str, act: Callable[[str, str], object] | None = None, **environment: str
    ) -> Done:
        """Run it to its end; when it asks, `act` is called with the page and the code."""
        with subprocess.Popen(
            [*COMMAND, *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.home,
            env=self.environment | environment,
        ) as process:
            killer = threading.Timer(60, process.kill)
            killer.start()
            assert process.stdout is not None
            assert process.stderr is not None
            prompts = ""
            for line in process.stderr:
                prompts += line
                if act is not None and (asked := PROMPT.search(line)):
                    act(asked[1], asked[2])
            out = process.stdout.read()
            process.wait()
            killer.cancel()
        return Done(process.returncode, out, prompts)

    def configure(self, text: str, mode: int = 0o600) -> None:
        self.config.parent.mkdir(parents=True, exist_ok=True)
        self.config.write_text(text)
        self.config.chmod(mode)


class Done:
    """How a command ended, and what it said."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err
        assert "Traceback" not in err, err

    @property
    def said(self) -> dict[str, Any]:
        said = json.loads(self.out)
        assert isinstance(said, dict)
        return said


@pytest.fixture
def deviceflow(tmp_path: Path) -> Command:
    home = tmp_path / "home"
    home.mkdir()
    return Command(home)


def decide(server: LocalServer, decision: str) -> Callable[[str, str], object]:
    def act(_: str, user_code: str) -> None:
        code = {"user_code": user_code}
        answer = requests.post(f"{server.url}/control/{decision}", json=code, timeout=10)
        answer.raise_for_status()

    return act


def asked_of(server: LocalServer) -> int:
    log = requests.get(f"{server.url}/control/log", timeout=10).json()
    return len(log["logins"])
