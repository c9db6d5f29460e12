"""What somebody may have meant by a name that is unknown."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from deviceflow.core.sanitize import printable

if TYPE_CHECKING:
    from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the begin of a hint that asks whether a similar known name was meant, or nothing."""
    similar = get_close_matches(printable(word, 100), [*known], n=1)
    return f"Did you mean {similar[0]}? " if similar else ""
