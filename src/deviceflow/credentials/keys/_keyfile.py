"""Key files: one key on each line. Only the owner may have access."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from deviceflow._files import written_whole
from deviceflow.core.secret import Secret
from deviceflow.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def read_keys(path: Path, *, group: bool = False) -> list[Secret]:
    """Return the keys in a file with one key on each line.

    Args:
        path: The file.
        group: Whether the file's group may read it, as with files from systemd and Kubernetes.

    Raises:
        StoreError: The file cannot be read, or other users can read it.
    """
    try:
        exposed = path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
        if group:
            exposed &= ~stat.S_IRGRP
        if not exposed or os.name != "posix":
            return [Secret(key) for key in path.read_text("ascii").split()]
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not ASCII text"
        problem = StoreError(f"The key file {path} cannot be read: {why}.")
    else:
        problem = StoreError(
            f"Other users can read the key file {path}.", hint=f"Fix it with: chmod 600 {path}"
        )
    raise problem


def write_keys(path: Path, keys: Iterable[Secret], *, new: bool = False) -> bool:
    """Write a key file atomically, with access for its owner only (0600).

    Args:
        path: The file.
        keys: The keys. The first one seals.
        new: Do not overwrite an existing file.

    Returns:
        Whether the file was written.

    Raises:
        StoreError: The file cannot be written.
    """
    try:
        with written_whole(path, new=new) as file:
            file.writelines(f"{key.reveal()}\n".encode() for key in keys)
    except FileExistsError:
        return False
    except OSError as error:
        why = error.strerror
    else:
        return True
    raise StoreError(f"The key file {path} cannot be written: {why}.")
