"""Fresh environments of each supported Python, with nothing but what a test of the wheel needs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.release.running import FailedError, run, tool

PYTHONS: Final = ("3.11", "3.12", "3.13")


def interpreter(version: str) -> Path:
    """Return the Python of a version: on the path, or one of pyenv's.

    Raises:
        FailedError: There is none.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = [shutil.which(f"python{version}")]
    found += sorted(map(str, pyenv.glob(f"versions/{version}.*/bin/python")))
    for python in filter(None, found):
        asked = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
        if said.strip() == version:
            return Path(python)
    raise FailedError(f"Python {version} is not installed: install it, or name others (--python).")


def create(python: Path, home: Path, *requirements: str | Path) -> Path:
    """Make an environment without pip, install into it, and return its Python."""
    run(python, "-m", "venv", "--without-pip", home)
    inside = home / "bin" / "python"
    install = ("install", "--quiet", "--disable-pip-version-check", *requirements)
    tool("pip", "--python", inside, *install)
    tool("pip", "--python", inside, "check")
    return inside
