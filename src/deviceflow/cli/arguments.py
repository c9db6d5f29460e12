"""The types of arguments: numbers, durations, times, and the id of a digest."""

from __future__ import annotations

from argparse import ArgumentTypeError
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from argparse import Action
    from collections.abc import Callable, Iterable

    from deviceflow.trail.digest import DigestId

_LAST_PORT: Final = 65535
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> float:
    """Return a number of seconds, at least 0."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ArgumentTypeError(f"must be a number of seconds, at least 0, not {text!r}")
    return number


def natural(text: str) -> int:
    """Return a whole number, at least 0."""
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise ArgumentTypeError(f"must be a whole number, at least 0, not {text!r}")
    return number


def positive(text: str) -> int:
    """Return a whole number, at least 1."""
    number = natural(text)
    if not number:
        raise ArgumentTypeError("must be a whole number, at least 1, not 0")
    return number


def address(text: str) -> tuple[str, int]:
    """Return the host and the port of `HOST:PORT`, `[HOST]:PORT`, or a port of this machine."""
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdecimal() or int(port) > _LAST_PORT:
        raise ArgumentTypeError(f"must be an address such as 127.0.0.1:8080, not {text!r}")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


def duration(text: str) -> float:
    """Return an age such as `12h` or `7d`, in seconds. Only 0 needs no unit."""
    factor = _UNITS.get(text[-1:], 0)
    try:
        if factor:
            return seconds(text[:-1]) * factor
        number = seconds(text)
    except ArgumentTypeError:
        number = -1.0
    if number:
        raise ArgumentTypeError(f"must be an age such as 12h or 7d, not {text!r}")
    return number


def moment(text: str) -> float:
    """Return a time, given as a time or as an age (`2d`, `2d ago`), in seconds since 1970."""
    import time

    from deviceflow.trail.login_view import seconds_of

    at: float | None
    age = text.removesuffix(" ago").rstrip()
    if age[-1:] in _UNITS:
        at = max(0.0, time.time() - duration(age))
    else:
        # 20260131 is a date for one reader, and seconds for another.
        at = None if text.isdecimal() else seconds_of(text)
    if at is None:
        raise ArgumentTypeError(
            f"must be an age such as 12h or 7d ago, or a time such as 2026-01-31, not {text!r}"
        )
    return at


def digest_id(text: str) -> DigestId:
    """Return the id of a digest, as `deviceflow audit digest` prints it."""
    from deviceflow.trail.digest import DigestId

    try:
        return DigestId.parse(text)
    except ValueError:
        raise ArgumentTypeError(
            f"must be NUMBER:HASH, as printed by `deviceflow audit digest`, not {text!r}"
        ) from None


def completed(argument: Action, known: Callable[[], Iterable[str]]) -> None:
    """Have a shell complete an argument by what is known, and not by the names of files.

    Args:
        argument: The argument.
        known: Returns what is known. It is called when a shell asks.
    """
    argument.completer = lambda **_: known()  # type: ignore[attr-defined]  # as argcomplete reads it


def providers() -> Iterable[str]:
    """Return the names of the known providers."""
    from deviceflow.providers.known import known

    return known()


def methods() -> Iterable[str]:
    """Return the ways in which a client authenticates."""
    from typing import get_args

    from deviceflow.providers.oauth import AuthMethod

    return get_args(AuthMethod)
