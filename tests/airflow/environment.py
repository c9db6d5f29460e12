"""An environment of its own for Airflow, whose pins and ours exclude each other."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

_REQUIREMENTS: Final = Path(__file__).with_name("requirements.txt")
_EXTRAS: Final = "airflow,oauth,postgres,server"


def default_folder() -> Path:
    """Return where the environment is unless the command line says otherwise."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Path(cache) / "deviceflow" / f"airflow-{version}"


def prepare(folder: Path) -> Path:
    """Make the environment, unless it is there already.

    The environment has this source tree as an editable installation. So the environment is made
    again only after what is installed has changed: the requirements, or this project's own.

    Returns:
        The folder of its programs.
    """
    programs = folder / "bin"
    stamp = folder / "made-from"
    if stamp.is_file() and stamp.read_text() == _digest():
        return programs
    pip = [str(programs / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([*pip, "-r", _REQUIREMENTS, "-e", f"{ROOT}[{_EXTRAS}]"], check=True)
    stamp.write_text(_digest())
    return programs


def run_tests(programs: Path) -> bool:
    """Run the tests that import Airflow; return whether they pass."""
    # Airflow warns of itself.
    options = ["-q", "-W", "default", "--disable-warnings", str(Path(__file__).parent)]
    command = [str(programs / "python"), "-m", "pytest", *options]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def _digest() -> str:
    made_from = [_REQUIREMENTS, ROOT / "pyproject.toml"]
    content = b"".join(path.read_bytes() for path in made_from)
    return hashlib.sha256(str(ROOT).encode() + content).hexdigest()
