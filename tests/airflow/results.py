"""What was checked, and how it went."""

# ruff: noqa: T201  # printing is its work

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_PATIENCE: Final = 120.0  # seconds, for what takes a few


class Check(NamedTuple):
    """One thing that has to be so, and what was seen."""

    part: str
    what: str
    passed: bool
    seen: str


class Results:
    """The checks of one run."""

    def __init__(self) -> None:
        self.checks: list[Check] = []
        self._begun = time.monotonic()

    def check(self, part: str, what: str, passed: object, seen: object = "") -> None:
        """Note whether something is so, and print it."""
        check = Check(part, what, bool(passed), str(seen))
        self.checks.append(check)
        self.say(f"{'ok  ' if check.passed else 'FAIL'} {part}: {what} {seen}")

    def say(self, text: str) -> None:
        """Print what happens, and when."""
        print(f"{time.monotonic() - self._begun:6.1f} s  {text}", flush=True)

    @property
    def failed(self) -> bool:
        return not all(check.passed for check in self.checks)

    def table(self) -> str:
        """Return the table of all checks, in Markdown."""
        rows = [("part", "what", "result", "seen"), ("---",) * 4]
        rows += [
            (check.part, check.what, "ok" if check.passed else "**failed**", check.seen)
            for check in self.checks
        ]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def until(look: Callable[[], T], what: str, patience: float = _PATIENCE) -> T:
    """Wait for something, and return it.

    Raises:
        TimeoutError: It did not come.
    """
    deadline = time.monotonic() + patience
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"This did not happen within {patience:.0f} s: {what}")
        time.sleep(0.2)
    return found
