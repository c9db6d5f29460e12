"""When each login of a worker is due. Nothing here does I/O, reads a clock, or knows a protocol.

A waiting login costs one small record in a heap. All times are the store's, in seconds since 1970;
`StoreClock` translates them to the monotonic clock of this process.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

GRACE: Final = 2.0
"""Seconds after which a login that is due counts as left behind: nobody drives it."""

LOOK_EACH: Final = 1.0
"""Seconds between two looks for logins that nobody drives, where no store wakes the worker."""

LOOK_AHEAD: Final = 2 * LOOK_EACH
"""How many seconds before they are due new logins are found, so that none waits for a look."""

NEW: Final = 1
"""The version of a login that has its code and was never polled."""


class Due(NamedTuple):
    """A login that is to be stepped.

    Attributes:
        at: When, by the store's clock.
        flow_id: The login.
        seq: Its version. If the store has another one by then, another worker drives the login.
        server: Where it is.
    """

    at: float
    flow_id: str
    seq: int
    server: str


class Schedule:
    """The logins that a worker drives, in the order in which they are due."""

    def __init__(self) -> None:
        self._heap: list[Due] = []
        self._new: set[str] = set()

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_at(self) -> float | None:
        """When the next login is due; None if there is none."""
        return self._heap[0].at if self._heap else None

    def put(self, due: Due) -> None:
        """Drive a login from now on, or further."""
        heappush(self._heap, due)

    def put_found(self, found: Iterable[Due]) -> None:
        """Drive the logins that a look has found, each new one once.

        Other logins may be there already. Whichever record comes first moves the login to another
        version, and the other record is of no version any more.
        """
        for due in found:
            if due.seq <= NEW:
                if due.flow_id in self._new:
                    continue
                self._new.add(due.flow_id)
            heappush(self._heap, due)

    def take(self, now: float) -> Due | None:
        """Remove the login that is due the longest, and return it; None if none is due."""
        if not self._heap or self._heap[0].at > now:
            return None
        due = heappop(self._heap)
        self._new.discard(due.flow_id)
        return due

    def any_due(self, now: float) -> bool:
        """Tell whether any login is due."""
        return bool(self._heap) and self._heap[0].at <= now

    def behind(self, now: float) -> float:
        """Return for how many seconds the login that is due the longest has been due."""
        return max(0.0, now - self._heap[0].at) if self._heap else 0.0

    def due(self, now: float) -> int:
        """Return how many logins are due."""
        return sum(due.at <= now for due in self._heap)
