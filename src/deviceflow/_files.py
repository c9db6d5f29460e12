"""What this user may do with a file, and how a file is written whole or not at all."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

EFFECTIVE: Final = os.access in os.supports_effective_ids


def may_read(path: Path) -> bool:
    """Tell whether this user may read a file."""
    return os.access(path, os.R_OK, effective_ids=EFFECTIVE)


def may_write(path: Path) -> bool:
    """Tell whether this user may write a SQLite file, and make files beside it."""
    return all(os.access(place, os.W_OK, effective_ids=EFFECTIVE) for place in (path, path.parent))


@contextmanager
def written_whole(path: Path, *, new: bool = False, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Give a draft to write into. Without an exception the file at `path` has its content then.

    Nobody ever sees the file half written: the draft is beside it, is synced to the disk, and then
    takes its name.

    Args:
        path: The file.
        new: Raise an error where the file is there, instead of replacing it.
        mode: Its permissions. A draft is its owner's alone (0600) from the first moment.

    Raises:
        FileExistsError: It is there, and `new` is set.
        OSError: It cannot be written.
    """
    handle, draft = _draft(path)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if mode != 0o600:
            os.chmod(draft, mode)  # noqa: PTH101
        if new:
            os.link(draft, path)
        else:
            os.replace(draft, path)  # noqa: PTH105
    finally:
        _drop(draft)


def open_to_append(path: str | Path) -> int:
    """Open a file, or make it with access for its owner only, and return its descriptor.

    Each `os.write` goes to its end, and is not changed on its way.

    Raises:
        OSError: It cannot be opened.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    # Windows would write \r\n, and other processes on it would inherit the file.
    for name in ("O_BINARY", "O_CLOEXEC", "O_NOINHERIT"):
        flags |= getattr(os, name, 0)
    return os.open(path, flags, 0o600)


def try_to_write(path: Path) -> None:
    """See that `written_whole` can make a draft, which is removed at once.

    Raises:
        OSError: It cannot.
    """
    handle, draft = _draft(path)
    os.close(handle)
    _drop(draft)


def is_replaceable(path: Path) -> bool:
    """Tell whether a file may take the place of what is there: a regular file, or nothing.

    A device would be lost by it, and so would a link.
    """
    return not os.path.lexists(path) or stat.S_ISREG(os.lstat(path).st_mode)


def _draft(path: Path) -> tuple[int, str]:
    import tempfile  # noqa: PLC0415  # costs, and most processes write no such file

    return tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)


def _drop(draft: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(draft)  # noqa: PTH108
