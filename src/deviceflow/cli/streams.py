"""What is printed: data to stdout, all of it or an error; words for the person to stderr.

Whatever a command prints goes through here, one line at a time, and loses what steers a terminal:
rows, servers, files and arguments may have that in them. JSON is ASCII, and so is left as it is.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO

from deviceflow.core.sanitize import printable
from deviceflow.errors import DeviceFlowError, UsageError


class OutputError(DeviceFlowError):
    """What was to be printed could not be written."""


def say(line: str) -> None:
    """Print a line for the person, where somebody is there to read it."""
    try:
        print(_cleaned(line), file=sys.stderr, flush=True)
    except OSError as broken:
        _give_up(sys.stderr, broken)


def show(text: str, *, foreign: bool = False) -> None:
    """Print a line of data, and see that it got out.

    Args:
        text: The data.
        foreign: Whether it must be printed as it came from a server, as a token must.

    Raises:
        UsageError: It is foreign, and would steer the terminal.
        OutputError: It could not be written.
    """
    why = "it is closed"
    if sys.stdout is not None:
        if foreign and sys.stdout.isatty() and not text.replace("\n", "").isprintable():
            raise UsageError(
                "There are characters in it that would steer this terminal.",
                hint="Have it in a file, or as JSON: --output FILE, --json.",
            )
        try:
            print(text if foreign else _cleaned(text), flush=True)
        except UnicodeEncodeError as strange:
            why = f"its encoding, {strange.encoding}, has not all of the characters"
        except OSError as broken:
            why = _give_up(sys.stdout, broken)
        else:
            return
    raise OutputError(f"stdout could not be written: {why}.")


def flush() -> None:
    """See that all got out which was printed; raises what `show` does."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as broken:
        why = _give_up(sys.stdout, broken)
    else:
        return
    raise OutputError(f"stdout could not be written: {why}.")


def _cleaned(line: str) -> str:
    return printable(line, len(line))


def _give_up(stream: TextIO, broken: OSError) -> str:
    """Have nothing more said of a stream when Python ends, which would fail then; return why."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
    return broken.strerror or type(broken).__name__
