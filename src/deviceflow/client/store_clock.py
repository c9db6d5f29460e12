"""What time it is for a store whose clock is not ours: between two bounds, and how far apart."""

from __future__ import annotations

from typing import Final, NamedTuple

_DRIFT: Final = 1e-3
"""By how many seconds in a second two clocks may part."""


class Seen(NamedTuple):
    """What a store's clock said at some moment between two moments of the monotonic clock.

    Attributes:
        now: The store's time.
        before: When the store was asked.
        after: When its answer was there.
    """

    now: float
    before: float
    after: float


class _Bounds(NamedTuple):
    """By how many seconds a store's clock is ahead of the monotonic one.

    Attributes:
        least: At least.
        most: At most.
        known_at: When that was known, by the monotonic clock.
    """

    least: float
    most: float
    known_at: float


class StoreClock:
    """What time it is for the store, by the monotonic clock of this process.

    Each observation says by how much the store's clock is ahead at least, and at most. Several
    together say so more exactly, unless the clock was set in between.
    """

    def __init__(self) -> None:
        self._bounds: _Bounds | None = None

    def observe(self, seen: Seen) -> tuple[float, float]:
        """Learn what time it was for the store.

        Returns:
            By how many seconds the store's clock is ahead of the monotonic one, at least and at
            most.
        """
        bounds = _Bounds(seen.now - seen.after, seen.now - seen.before, seen.after)
        known = self._bounds
        if known is not None:
            drift = _DRIFT * max(0.0, seen.after - known.known_at)
            least = max(known.least - drift, bounds.least)
            most = min(known.most + drift, bounds.most)
            if least <= most:
                bounds = _Bounds(least, most, seen.after)
        self._bounds = bounds
        return bounds.least, bounds.most

    def at(self, steady: float) -> float:
        """Return the store's time at a moment of the monotonic clock, or a little less.

        A login that is stepped by it is due for the store as well.
        """
        return steady + (0.0 if self._bounds is None else self._bounds.least)
