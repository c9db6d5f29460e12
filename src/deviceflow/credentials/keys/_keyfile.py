"""Files with keys: each key stands on a line of its own, and only the owner may read them."""

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
    """Return the keys in a file, of which each stands on a line of its own.

    Args:
        path: The file.
        group: Whether its group may read it: systemd and Kubernetes hand files over so.

    Raises:
        StoreError: It cannot be read, or others can read it.
    """
    try:
        exposed = path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
        if group:
            exposed &= ~stat.S_IRGRP
        if not exposed or os.name != "posix":
            return [Secret(key) for key in path.read_text("ascii").split()]
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        problem = StoreError(f"The key file {path} cannot be read: {why}.")
    else:
        problem = StoreError(
            f"The key file {path} can be read by others.", hint=f"Fix it with: chmod 600 {path}"
        )
    raise problem


def write_keys(path: Path, keys: Iterable[Secret], *, new: bool = False) -> bool:
    """Write a key file, all of it or nothing, for its owner only.

    Args:
        path: The file.
        keys: The keys; the first one is to seal.
        new: Leave it as it is if it is there.

    Returns:
        Whether it was written.

    Raises:
        StoreError: It cannot be written.
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
