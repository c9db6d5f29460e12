"""Where a command's lines go: to stdout, or to a file that is never there half-written."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from deviceflow.cli import streams
from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def writing(name: str | None) -> Iterator[Callable[[str], object]]:
    """Give what writes a line.

    Args:
        name: The file, which is its owner's alone (0600); None for stdout.

    Raises:
        UsageError: It is no plain file.
        OutputError: It cannot be written.
    """
    if name is None:
        yield streams.show
        return
    path = Path(name)
    # It is replaced by another one; a device, or a link, had better not be.
    if os.path.lexists(name) and not stat.S_ISREG(os.lstat(name).st_mode):
        what = "a directory" if path.is_dir() else "no plain file"
        raise UsageError(f"{name} is {what}.", hint="Name a file of its own: --output FILE.")
    try:
        handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(handle, "w", encoding="utf-8", newline="\n") as file:  # noqa: PTH123
                yield lambda line: file.write(f"{line}\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)  # noqa: PTH105
        except BaseException:
            os.unlink(draft)  # noqa: PTH108
            raise
    except OSError as trouble:
        why = trouble.strerror
    else:
        return
    raise streams.OutputError(f"{name} could not be written: {why}.")
