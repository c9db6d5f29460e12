"""When to send the next request: intervals, backoff, jitter, and the last poll before the deadline.

All times are in seconds. Nothing here knows a flow: numbers come in, and a wait goes out.
"""

from __future__ import annotations

from math import inf
from typing import Final
from zlib import crc32

SLOW_DOWN: Final = 5.0
"""Seconds that each `slow_down` adds to the interval (RFC 8628 section 3.5)."""

LAST_POLL: Final = 1.0
"""Seconds before the deadline at which the last poll is due, if the interval allows."""

LONGEST_BACKOFF: Final = 60.0
"""The longest wait in seconds that backing off from failed polls leads to."""

REFUSED_BACKOFF: Final = 10.0
"""The wait in seconds after a refusal that has to come again before it counts."""

LONGEST_CODE_WAIT: Final = 30.0
"""The longest wait in seconds before another request for a device code."""

CODE_ATTEMPTS: Final = 3
"""How many times a device code is requested before the server counts as unreachable."""

LONGEST_REVOCATION_WAIT: Final = 3600.0
"""The longest wait in seconds before another attempt to revoke a token."""

CLOCK_TOLERANCE: Final = 1.0
"""Seconds by which a clock may be behind before it counts as set back."""


def clock_ahead(before: float, now: float) -> float | None:
    """Return by how many seconds the clock of an earlier time was ahead; None if it was not.

    Half of the tolerance counts already, so that rounded times that part by more are explained.
    """
    return before - now if before - now > CLOCK_TOLERANCE / 2 else None


def seconds_left(until: float, now: float) -> float:
    """Return the seconds until a time; 0 once the time has come."""
    # A time of day as a float has no finer grain. A caller that slept as told must find it due.
    seconds = until - now
    return round(seconds, 6) if seconds > 2e-6 else 0.0


def between_polls(interval: float, margin: float, slow_downs: int) -> float:
    """Return the wait between two polls: the interval and a margin.

    The margin begins small, and grows by a tenth of the interval with each `slow_down`: some
    clocks run fast by as much (https://github.com/cli/cli/issues/9370).

    Args:
        interval: The interval that the server asks for.
        margin: The margin of the provider.
        slow_downs: How many times the server answered `slow_down`.
    """
    return interval + margin + interval * min(slow_downs, 5) / 10


def jitter(flow_id: str, seq: int) -> float:
    """Return a factor from 1 to 1.25, the same whenever it is computed again for this moment."""
    return 1 + crc32(f"{flow_id}{seq}".encode()) / 2**34


def poll_backoff(interval: float, failures: int) -> float:
    """Return the backoff after failed polls in a row, before jitter."""
    # The exponent is bounded first: 2.0**1024 raises.
    return min(interval * 2.0 ** min(failures, 9), LONGEST_BACKOFF)


def code_backoff(failures: int) -> float:
    """Return the backoff after failed requests for a device code, before jitter."""
    return 2.0 ** (failures - 1)


def refresh_backoff(failures: int, *, refused: bool = False) -> float:
    """Return the backoff after failed refreshes in a row, before jitter.

    Args:
        failures: How many.
        refused: Whether the server refused the last one, which does not count yet: soon after
            that, it would refuse another one for the same passing cause.
    """
    first = REFUSED_BACKOFF if refused else 1.0
    return min(first * 2.0 ** min(failures - 1, 9), LONGEST_BACKOFF)


def revocation_backoff(failures: int) -> float:
    """Return the backoff after failed revocations in a row, before jitter."""
    return min(2.0 ** min(failures, 12), LONGEST_REVOCATION_WAIT)


def next_poll(
    wait: float, floor: float, pace: float, now: float, expires_at: float | None
) -> float:
    """Return the wait before the next poll, which may be the last one before the deadline.

    If no further poll would fit in after the next one, the next one is the last. The last poll is
    made just before the deadline, so that an approval within the final interval counts.

    Args:
        wait: The wait if there were no deadline.
        floor: The shortest wait that the server allows.
        pace: The wait between two polls.
        now: The time.
        expires_at: The deadline; None if there is none.
    """
    left = inf if expires_at is None else max(0.0, expires_at - now)
    last = max(floor, left - LAST_POLL)
    return last if last < min(left, wait + pace) else wait
