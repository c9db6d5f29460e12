"""What a client tells a store of the time, for tests that take a lease themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deviceflow._boot import clock_name
from deviceflow.core.ports import Moment

if TYPE_CHECKING:
    from deviceflow.typing import Clock


def moment(clock: Clock) -> Moment:
    """Return the time by a clock, as a client of it says it."""
    boot = getattr(clock, "boot", None)
    return Moment(clock.time(), clock.monotonic(), clock_name() if boot is None else boot()[0])
