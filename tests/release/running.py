"""Programs that the checks run, and how a check that fails says so."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class FailedError(Exception):
    """A check failed."""


def run(
    *command: str | Path, cwd: Path | None = None, variables: Mapping[str, str] | None = None
) -> str:
    """Run a program, and return what it printed.

    Raises:
        FailedError: It ended with another code than 0.
    """
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | {"NO_COLOR": "1"} | dict(variables or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        shown = " ".join(map(str, command))
        raise FailedError(f"{shown}\nended with the code {done.returncode}:\n{done.stdout}")
    return done.stdout


def tool(module: str, *arguments: str | Path, cwd: Path | None = None, **variables: str) -> str:
    """Run a module of this environment (extra `release`)."""
    return run(sys.executable, "-m", module, *arguments, cwd=cwd, variables=variables)
