"""Write a command's lines to stdout, or atomically to a file."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from deviceflow._files import is_replaceable, written_whole
from deviceflow.cli import streams
from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def writing(name: str | None) -> Iterator[Callable[[str], object]]:
    """Yield a function that writes a line.

    Args:
        name: The file, created with access for its owner only (0600); None for stdout.

    Raises:
        UsageError: The path is not a regular file.
        OutputError: The file cannot be written.
    """
    if name is None:
        yield streams.show
        return
    path = Path(name)
    check_replaceable(path)
    try:
        with written_whole(path) as file:
            yield lambda line: file.write(f"{line}\n".encode())
    except OSError as trouble:
        why = trouble.strerror
    else:
        return
    raise streams.OutputError(f"{name} could not be written: {why}.")


def check_replaceable(path: Path) -> None:
    """Check that the path is a regular file or does not exist.

    Raises:
        UsageError: The path is a directory, a device or a link.
    """
    if not is_replaceable(path):
        what = "a directory" if path.is_dir() else "not a regular file"
        raise UsageError(f"{path} is {what}.", hint="Name a regular file: --output FILE.")
