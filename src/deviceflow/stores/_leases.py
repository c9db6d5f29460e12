"""How much is left of a lease: by the clock that it was taken by, if that is the reader's as well.

The processes of one machine compare the readings of one monotonic clock. It is also the clock of a
request's hard deadline, and stands still with it while the machine sleeps: so a lease does not end
before the request that is sent under it. The wall clocks of processes may differ, and count for
nothing. Where a database has a clock, all go by that.

A lease that was taken by another clock (before the machine started anew, or on another machine that
shares the file), or by this one before it was set back, may have any age. Somebody may still send a
request under it. So it is restarted: it lasts its whole duration from when it was first seen.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from deviceflow.core.pacing import CLOCK_TOLERANCE
from deviceflow.core.ports import Moment

LONGEST_LEASE: Final = 86400.0
"""Seconds that a lease can last at most."""


class LeaseLeft(NamedTuple):
    """What is left of a lease.

    Attributes:
        seconds: How long it lasts; 0 if it has ended, or cannot be one.
        since: When it was taken, if it has to be restarted first.
    """

    seconds: float
    since: float | None = None


def steady_of(now: float) -> float:
    """Return what the clock of leases shows at a client's time."""
    return now.steady if isinstance(now, Moment) else now


def times(now: float) -> dict[str, Any]:
    """Return a client's time by the names of a statement's values."""
    clock = now.clock if isinstance(now, Moment) else ""
    return {"now": now, "steady": steady_of(now), "clock": clock}


def left(since: object, until: object, taken_by: object, steady: float, clock: str) -> LeaseLeft:
    """Return what is left of a lease, whatever somebody has put into its row.

    Args:
        since: When it was taken.
        until: When it ends.
        taken_by: The clock of both.
        steady: What the reader's clock shows.
        clock: Which clock that is.
    """
    if not isinstance(since, int | float) or not isinstance(until, int | float):
        return LeaseLeft(0.0)
    seconds = until - since
    if not 0 < seconds <= LONGEST_LEASE:
        return LeaseLeft(0.0)
    if taken_by != clock or since > steady + CLOCK_TOLERANCE:
        return LeaseLeft(seconds, since)
    return LeaseLeft(min(seconds, max(0.0, until - steady)))
