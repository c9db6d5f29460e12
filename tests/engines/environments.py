"""An environment for each engine, outside the tree: their requirements exclude each other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT: Final = Path(__file__).parents[2]


def default() -> Path:
    """Return where environments are kept if the command does not say."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "deviceflow"


def programs_of(
    engine: str, requirements: Sequence[str], folder: Path, extras: str = "postgres"
) -> Path:
    """Return the `bin` of an engine's environment, which is made first if need be.

    deviceflow itself is installed for its requirements only, and for its entry points: the trial
    runs what is in the tree.
    """
    home = folder / f"engines-{engine}"
    stamp = home / "requirements.json"
    wanted = json.dumps([f"{ROOT}[{extras}]", *requirements])
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(home, ignore_errors=True)
        venv.create(home, with_pip=True)
        pip = [
            str(home / "bin/pip"),
            "install",
            "--quiet",
            "--quiet",
            "--disable-pip-version-check",
        ]
        subprocess.run([*pip, *json.loads(wanted)], check=True)
        stamp.write_text(wanted)
    return home / "bin"


def version_of(package: str, programs: Path) -> str:
    """Return the version of a package in an environment."""
    asked = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
    done = subprocess.run(
        [programs / "python", "-c", asked], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()
