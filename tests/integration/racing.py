"""Processes that do the same thing at the same moment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ROOT: Final = Path(__file__).parents[2]


def started(
    script: str, each: Iterable[Sequence[str]], **environment: str
) -> list[subprocess.Popen[str]]:
    """Run a script once for each list of arguments, and let all go on as soon as all are ready.

    Args:
        script: Prints `ready`, and then waits for a line on stdin.
        each: The arguments.
        environment: Variables besides those that there are.
    """
    path = {"PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path])}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            env=os.environ | path | environment,
        )
        for args in each
    ]
    for child in children:
        assert line_of(child) == "ready\n"
    for child in children:
        assert child.stdin
        child.stdin.write("go\n")
        child.stdin.flush()
    return children


def line_of(child: subprocess.Popen[str]) -> str:
    """Return the next line that a process prints."""
    assert child.stdout
    return child.stdout.readline()
