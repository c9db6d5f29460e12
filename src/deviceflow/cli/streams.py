"""Output: data to stdout, with an error if writing fails; messages for people to stderr.

All output of commands goes through these functions, line by line. Control characters, which may be
in rows, responses, files and arguments, are removed. JSON is ASCII and is not changed.
"""

from __future__ import annotations

import os
import sys

from deviceflow.errors import DeviceFlowError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO


class OutputError(DeviceFlowError):
    """The output could not be written."""


def say(line: str) -> None:
    """Print a message for people to stderr. Errors are ignored."""
    try:
        print(_cleaned(line), file=sys.stderr, flush=True)
    except OSError as broken:
        _give_up(sys.stderr, broken)


def show(text: str, *, foreign: bool = False) -> None:
    """Print a line of data to stdout, and flush it.

    Args:
        text: The data.
        foreign: Whether the text is from a server and must be printed unchanged, as a token.

    Raises:
        UsageError: A foreign text has control characters, and stdout is a terminal.
        OutputError: stdout could not be written.
    """
    why = "it is closed"
    if sys.stdout is not None:
        if foreign and sys.stdout.isatty() and not text.replace("\n", "").isprintable():
            raise UsageError(
                "The token contains control characters, which are not printed on a terminal.",
                hint="Write it to a file or print it as JSON: --output FILE, --json.",
            )
        try:
            print(text if foreign else _cleaned(text), flush=True)
        except UnicodeEncodeError as failed:
            why = f"its encoding, {failed.encoding}, does not have all of the characters"
        except OSError as broken:
            why = _give_up(sys.stdout, broken)
        else:
            return
    raise OutputError(f"stdout could not be written: {why}.")


def flush() -> None:
    """Flush stdout. It raises the same errors as `show`."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as broken:
        why = _give_up(sys.stdout, broken)
    else:
        return
    raise OutputError(f"stdout could not be written: {why}.")


def _cleaned(line: str) -> str:
    if line.isascii() and line.isprintable():
        return line
    from deviceflow.core.sanitize import printable  # costs, and few lines need it

    return printable(line, len(line))


def _give_up(stream: TextIO, broken: OSError) -> str:
    """Redirect a broken stream to the null device, so that Python can exit; return the reason."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
    return broken.strerror or type(broken).__name__
