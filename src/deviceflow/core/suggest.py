"""What somebody may have meant by a name that is unknown."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from deviceflow.core.sanitize import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

_LIKENESS: Final = 0.7
"""How alike two names must be. At less, `whoami` is like `wait`, and a guess misleads."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the begin of a hint that asks whether a similar known name was meant, or nothing."""
    names = {name.lstrip("-"): name for name in known}  # all options are alike in their dashes
    similar = get_close_matches(printable(word.lstrip("-"), 100), names, n=1, cutoff=_LIKENESS)
    return f"Did you mean {names[similar[0]]}? " if similar else ""
