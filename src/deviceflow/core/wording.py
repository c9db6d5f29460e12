"""Numbers and times in messages for people."""

from __future__ import annotations

from datetime import UTC, datetime


def seconds(number: float) -> str:
    """Return a number of seconds in words: `1 second`, `2.5 seconds`."""
    text = f"{number:.15g}"
    return f"{text} second" if text == "1" else f"{text} seconds"


def moment(time: float) -> str:
    """Return a time in words, to the minute: `2026-01-31 08:00 UTC`."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M UTC")


def silence(since: float, requests: int) -> str:
    """Return in words for how long a server has given no usable answer."""
    counted = {0: "", 1: " (1 request)"}.get(requests, f" ({requests:,} requests)")
    return f"no usable answer since {moment(since)}{counted}"
