"""The README's examples, run as a reader runs them: `python -m tests.readme`.

Makes an environment, runs the README's own line to install there, and then each example, in that
environment and nothing else. A local server stands for the servers that the README names, and
somebody approves at once.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from deviceflow.testing import DeviceServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT: Final = Path(__file__).parents[2]
PATIENCE: Final = 120.0  # seconds, for an example that takes a few

# GitHub, as the known providers have it, at another address.
PROVIDERS: Final = """[github]
title = "GitHub"
device_authorization_endpoint = "{url}/oauth/device_authorization"
token_endpoint = "{url}/oauth/token"
revocation_endpoint = "{url}/oauth/revoke"
"""


class Block(NamedTuple):
    """A block of code of a page."""

    command: str | None
    """The mark above it, if it has one."""
    language: str
    code: str


def blocks(page: str) -> Iterator[Block]:
    """Find the blocks of code of a page."""
    found = re.finditer(
        r"(?:^<!-- command: (\w+) -->\n)?^```(sh|python)\n(.*?)^```$",
        page,
        re.MULTILINE | re.DOTALL,
    )
    return (Block(*block.groups()) for block in found)


def adapted(code: str, url: str) -> str:
    """Put the local server in the place of those that the README names."""
    code = code.replace("https://login.example.com", url)
    return code.replace("https://api.github.com/user", f"{url}/oauth/resource")


def main() -> int:
    """Run the examples. Return 1 if one fails."""
    shown = list(blocks((ROOT / "README.md").read_text()))
    [install] = [block.code for block in shown if block.command == "install"]
    examples = [block for block in shown if block.command is None]
    with tempfile.TemporaryDirectory() as folder, DeviceServer() as server:
        server.auto_approve = True
        home = Path(folder)
        environment = _environment(home, server.url)
        _run(["bash", "-euc", install], ROOT, environment)
        failed = 0
        for number, block in enumerate(examples, 1):
            code = adapted(block.code, server.url)
            shell = ["bash", "-euo", "pipefail", "-c"]
            program = shell if block.language == "sh" else ["python", "-c"]
            done = _run([*program, code], home, environment, check=False)
            print(f"{'passed' if done == 0 else 'FAILED'}: example {number}, {block.language}")
            failed |= done
    return int(failed != 0)


def _environment(home: Path, url: str) -> Mapping[str, str]:
    """Make an environment of Python, and return the variables of a reader who has just made it."""
    subprocess.run([sys.executable, "-m", "venv", home / "venv"], check=True)
    providers = home / "providers.toml"
    providers.write_text(PROVIDERS.format(url=url))
    kept = {name: os.environ[name] for name in os.environ if not name.startswith("DEVICEFLOW_")}
    return kept | {
        "PATH": f"{home / 'venv' / 'bin'}:{os.environ['PATH']}",
        "XDG_STATE_HOME": str(home / "state"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "DEVICEFLOW_PROVIDERS": str(providers),
        "BROWSER": "true",
    }


def _run(
    command: list[str], folder: Path, environment: Mapping[str, str], *, check: bool = True
) -> int:
    return subprocess.run(
        command, cwd=folder, env=dict(environment), check=check, timeout=PATIENCE
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
