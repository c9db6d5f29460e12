"""Numbers in messages for people."""

from __future__ import annotations


def seconds(number: float) -> str:
    """Return a number of seconds in words: `1 second`, `2.5 seconds`."""
    text = f"{number:.15g}"
    return f"{text} second" if text == "1" else f"{text} seconds"
