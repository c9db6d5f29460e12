"""Clocks that move only when they are told to, or slept on."""

from __future__ import annotations

import asyncio
import heapq


class _Hands:
    """What both clocks show, and what was slept on them."""

    def __init__(self, wall: float) -> None:
        self.wall = wall
        self.steady = 1000.0
        self.asleep = 0.0
        self.slept: list[float] = []


class _Virtual:
    def __init__(self, wall: float = 1_800_000_000.0) -> None:
        self._hands = _Hands(wall)

    @property
    def slept(self) -> list[float]:
        """How long each sleep was meant to be, in seconds."""
        return self._hands.slept

    def time(self) -> float:
        """Return the wall clock's time, in seconds since 1970."""
        return self._hands.wall

    def monotonic(self) -> float:
        """Return the monotonic clock's time, in seconds."""
        return self._hands.steady

    def advance(self, seconds: float) -> None:
        """Move both clocks on, as time does."""
        self._hands.wall += seconds
        self._hands.steady += seconds

    def boot(self) -> tuple[str, float | None]:
        """Return a name of the monotonic clock, and the seconds since the machine started."""
        return "virtual", self._hands.steady + self._hands.asleep

    def set_wall(self, ahead: float) -> None:
        """Set the wall clock alone by `ahead` seconds, as a person does."""
        self._hands.wall += ahead

    def suspend(self, seconds: float) -> None:
        """Let time pass while the machine sleeps: the monotonic clock stands still, as on Linux."""
        self._hands.wall += seconds
        self._hands.asleep += seconds


class VirtualClock(_Virtual):
    """A `deviceflow.typing.Clock` that a test controls: sleeping on it takes no real time.

    Args:
        wall: What the wall clock says at first, in seconds since 1970.
    """

    def sleep(self, seconds: float) -> None:
        """Move both clocks on by `seconds`, at once."""
        self.slept.append(seconds)
        self.advance(seconds)

    def for_asyncio(self) -> AsyncVirtualClock:
        """Return a clock for an `AsyncClient` that shows the same time: sleeping moves both."""
        clock = AsyncVirtualClock()
        clock._hands = self._hands  # noqa: SLF001  # of the same class
        return clock


class AsyncVirtualClock(_Virtual):
    """The same for asyncio: a `deviceflow.typing.AsyncClock`.

    Tasks that sleep at the same time share the clock: the task that wakes first moves it on.

    Args:
        wall: What the wall clock says at first, in seconds since 1970.
    """

    def __init__(self, wall: float = 1_800_000_000.0) -> None:
        super().__init__(wall)
        self._ends: list[float] = []

    async def sleep(self, seconds: float) -> None:
        """Let other tasks run, and once nobody is to wake earlier, move both clocks on."""
        self.slept.append(seconds)
        end = self.monotonic() + seconds
        heapq.heappush(self._ends, end)
        try:
            await asyncio.sleep(0)
            while self.monotonic() < end:
                if self._ends[0] == end:
                    self.advance(end - self.monotonic())
                else:
                    await asyncio.sleep(0)
        finally:
            self._ends.remove(end)
            heapq.heapify(self._ends)
