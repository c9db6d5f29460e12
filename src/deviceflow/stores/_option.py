"""Where the user's own store is, and how a command in another shell names a store."""

from __future__ import annotations

import os
import re
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from deviceflow.core.secret import Secret

VARIABLE: Final = "DEVICEFLOW_STORE"
SQLITE: Final = "sqlite:///"
# Where libpq reads a password: in the authority, among the parameters, or in a conninfo string.
_PASSWORD: Final = re.compile(r"://[^/?#@]*:[^/?#@]*@|password\s*=", re.IGNORECASE)


def state_directory() -> Path:
    """Return deviceflow's state directory of the user."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "deviceflow"
    if sys.platform == "darwin":
        return Path.home() / "Library/Application Support/deviceflow"
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(base) / "deviceflow"


def option_of(url: Secret) -> str:
    """Return the option of a command that names a store, without its password."""
    if _PASSWORD.search(url.reveal()):
        return f'--store "${VARIABLE}"'
    return f"--store {shlex.quote(url.reveal())}"


def option_of_file(file: Path) -> str:
    """Return the option of a command that names a SQLite file; nothing for the user's own."""
    with suppress(RuntimeError):  # raised by pathlib if the user has no home directory
        if file == (state_directory() / "flows.db").absolute():
            return ""
    return option_of(Secret(f"{SQLITE}{quoted(str(file))}"))


def has_password(url: str) -> bool:
    """Tell whether a URL has a password in it."""
    return bool(_PASSWORD.search(url))


def quoted(path: str) -> str:
    """Return a path as the URL of a file has it."""
    return path.replace("%", "%25").replace("?", "%3F")
