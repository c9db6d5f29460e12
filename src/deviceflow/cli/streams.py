"""What is printed: data on stdout, all of it or an error; words for the person on stderr."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from deviceflow.errors import DeviceFlowError, UsageError


def say(line: str) -> None:
    """Print a line for the person, if somebody is there to read it."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def show(text: str) -> None:
    """Print data to stdout, and see that it got there.

    Raises:
        UsageError: The text would steer the terminal; a server chose it.
        DeviceFlowError: It could not be written.
    """
    if sys.stdout is not None and sys.stdout.isatty():
        if not text.replace("\n", "").isprintable():
            raise UsageError(
                "There are characters in it that would steer this terminal.",
                hint="Put it into a file or a pipe, or take it as JSON: --json.",
            )
    try:
        print(text, file=_stdout())
    except UnicodeEncodeError as unfit:
        why = f"it takes no {unfit.encoding} text with such characters"
    except OSError as broken:
        why = _given_up(broken)
    else:
        flush()
        return
    raise _unwritten(why)


def flush() -> None:
    """See that what was printed got to stdout.

    Raises:
        DeviceFlowError: It did not.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError as broken:
        why = _given_up(broken)
    else:
        return
    raise _unwritten(why)
