"""Output: data to stdout, with an error if writing fails; messages for people to stderr.

All output of commands goes through these functions, line by line. Control characters, which may be
in rows, responses, files and arguments, are removed. JSON is ASCII and is not changed.
"""

from __future__ import annotations

import errno
import os
import sys

from deviceflow.errors import DeviceFlowError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO


class OutputError(DeviceFlowError):
    """The output could not be written."""


class NobodyReadsError(OutputError):
    """The reader of the output closed the pipe, as `head` does. The command has not failed."""


def say(line: str, *, strong: bool = False, link: bool = False) -> None:
    """Print a message for people to stderr. Errors are ignored.

    Args:
        line: The message.
        strong: Whether a terminal shows the line in bold.
        link: Whether the line is a URL, which a terminal opens by a click (OSC 8).
    """
    text = _cleaned(line)
    if len(text) > columns(sys.stderr) and not link:
        text = _wrapped(text, int(columns(sys.stderr)))
    if (strong or link) and decorated(sys.stderr):
        text = f"\x1b[1m{text}\x1b[0m" if strong else f"\x1b]8;;{text}\x1b\\{text}\x1b]8;;\x1b\\"
    try:
        print(_encodable(text, sys.stderr), file=sys.stderr, flush=True)
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
            print(text if foreign else _encodable(_cleaned(text), sys.stdout), flush=True)
        except UnicodeEncodeError as failed:
            why = f"its encoding, {failed.encoding}, does not have all of the characters"
        except OSError as broken:
            why = _give_up(sys.stdout, broken)
            if _nobody_reads(broken) and not foreign:
                raise NobodyReadsError(_unwritten(why)) from None
        else:
            return
    raise OutputError(_unwritten(why))


def columns(stream: TextIO | None) -> float:
    """Return how wide a terminal is; infinity if the stream is no terminal."""
    try:
        wide = 0 if stream is None else os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        wide = 0
    return wide or float("inf")


def _wrapped(text: str, width: int) -> str:
    """Wrap a message at words. A command is on a line of its own, to be copied whole."""
    import re  # both cost, and few lines need them
    import textwrap

    lines = list[str]()
    for part in re.split(_COMMAND, text):
        if part.startswith("deviceflow "):
            lines.append(part)
        else:
            prose = part.lstrip(" .,;")
            lines += textwrap.wrap(prose, width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


_COMMAND = r"(?<=:) (deviceflow (?:'[^']*'|[^'])+?)(?=[;,] |\. |\.?$)"
"""A command in a message. What a shell's quotes hold is part of it."""


def on_terminal() -> bool:
    """Tell whether stdout is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def flush() -> None:
    """Flush stdout. It raises the same errors as `show`."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as broken:
        why = _give_up(sys.stdout, broken)
    else:
        return
    raise OutputError(_unwritten(why))


def _unwritten(why: str) -> str:
    return f"stdout could not be written: {why}."


def _cleaned(line: str) -> str:
    if line.isascii() and line.isprintable():
        return line
    from deviceflow.core.sanitize import printable  # costs, and few lines need it

    return printable(line, len(line))


def decorated(stream: TextIO | None) -> bool:
    """Tell whether a stream is for colours and links: NO_COLOR, FORCE_COLOR, TERM=dumb count."""
    if stream is None or os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "linux")


_PLAIN = str.maketrans({"→": "->", "…": "...", "·": "-"})


def _encodable(text: str, stream: TextIO) -> str:
    """Return the text in characters that the stream's encoding has."""
    if text.isascii():
        return text
    encoding = stream.encoding or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        plain = text.translate(_PLAIN)
        return plain.encode(encoding, "backslashreplace").decode(encoding)
    return text


def _nobody_reads(broken: OSError) -> bool:
    # Windows says EINVAL of a pipe whose reader has gone.
    return isinstance(broken, BrokenPipeError) or (
        sys.platform == "win32" and broken.errno == errno.EINVAL
    )


def _give_up(stream: TextIO, broken: OSError) -> str:
    """Redirect a broken stream to the null device, so that Python can exit; return the reason."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
    return broken.strerror or type(broken).__name__
