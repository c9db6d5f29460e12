"""Time, as a part that can be replaced."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from deviceflow import _boot as machine
from deviceflow import _forks as forks
from deviceflow.client.lease import Clocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deviceflow.core.ports import AsyncClock, Clock


class _SystemClocks:
    def time(self) -> float:
        """Return `time.time()`."""
        return time.time()

    def monotonic(self) -> float:
        """Return `time.monotonic()`."""
        return time.monotonic()

    def boot(self) -> tuple[str, float | None]:
        """Return the monotonic clock's name, and the seconds since the machine started."""
        return machine.clock_name(), machine.uptime()


class SystemClock(_SystemClocks):
    """The machine's own clocks."""

    def sleep(self, seconds: float) -> None:
        """Wait, as `time.sleep` does; not at all for less than nothing."""
        time.sleep(max(0.0, seconds))


class AsyncSystemClock(_SystemClocks):
    """The machine's own clocks, for asyncio."""

    async def sleep(self, seconds: float) -> None:
        """Wait, as `asyncio.sleep` does."""
        import asyncio  # noqa: PLC0415  # costs, and sync programs do without

        await asyncio.sleep(seconds)


_stand_ins: Final[list[tuple[Clock, AsyncClock]]] = []


def default_clock(otherwise: Clock | None = None) -> Clock:
    """Return the clock to use where none is passed: the machine's, or a test's in its place.

    Args:
        otherwise: What to return outside of such a test; the machine's own clocks where not given.
    """
    return _stand_ins[-1][0] if _stand_ins else otherwise or SystemClock()


def default_async_clock() -> AsyncClock:
    """Return the same for asyncio."""
    return _stand_ins[-1][1] if _stand_ins else AsyncSystemClock()


@contextmanager
def standing_in(clock: Clock, async_clock: AsyncClock) -> Iterator[None]:
    """Make these two the default clocks until the end of the block.

    For tests. An object that was created before the block keeps its clock.
    """
    both = (clock, async_clock)
    _stand_ins.append(both)
    try:
        yield
    finally:
        _stand_ins.remove(both)


def sleeps_in_real_time(clock: Clock | AsyncClock) -> bool:
    """Tell whether a sleep on the clock is that of the machine, which an event may replace."""
    sleep = getattr(clock.sleep, "__func__", None)
    return sleep in (SystemClock.sleep, AsyncSystemClock.sleep)


_JUMP: Final = 1.0
"""Seconds by which the two clocks may part between two looks before it counts as a jump."""


class Timeline:
    """The time that one client uses: the wall clock's, but never set back.

    Deadlines are absolute, so the wall clock decides. If the wall clock were set back by an hour,
    every waiting flow would wait an hour longer. The monotonic clock shows the lost time, and the
    client adds the lost time from then on, until it sees another process that uses the wall clock
    unchanged (see `resync`). Set forward, or after a suspended machine woke (where the monotonic
    clock may have stood still), the wall clock is right. Where the monotonic clock merely runs fast
    (WSL's does, by a tenth) the wall clock is the slower one, and waiting for it is the safe side.

    Args:
        clock: The two clocks.
        jumped: Told by how many seconds the wall clock ran ahead of the monotonic one since the
            look before (negative: behind), where that was a jump.
    """

    def __init__(self, clock: Clock | AsyncClock, jumped: Callable[[float], object]) -> None:
        self._clock = clock
        self._jumped = jumped
        # A clock of the program's own is taken for one that all processes read alike.
        self._boot: Callable[[], tuple[str, float | None]] = getattr(
            clock, "boot", lambda: (machine.clock_name(), None)
        )
        self._renew_lock()
        forks.in_child(self._renew_lock)
        _, self._wall, self._steady = self._look()
        self._added = self._set_at = 0.0

    def read(self) -> Clocks:
        """Return what both clocks say at one moment.

        The monotonic clock is read first: a moment in between makes it seem later than it is when
        the lease began, and no poll is too early.
        """
        with self._lock:
            before, wall, steady = self._look()
            steady_ran = steady - self._steady
            parted = wall - self._wall - steady_ran
            self._wall, self._steady = wall, steady
            jump = abs(parted) > max(_JUMP, steady_ran / 2)
            if jump and parted < 0:
                self._added -= parted
                self._set_at = wall
            added, set_at = self._added, self._set_at
        if jump:
            self._jumped(parted)
        return Clocks(wall + added, before, added, set_at, *self._boot())

    def resync(self) -> None:
        """Use the wall clock as it is: others do, and did not see that it was set back.

        Else each would find what the other one has written expired, or in the future.
        """
        with self._lock:
            self._added = 0.0

    def now(self) -> float:
        """Return the time, in seconds since 1970."""
        return self.read().wall

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def _look(self) -> tuple[float, float, float]:
        """Return what the monotonic clock says, the wall clock, and the monotonic one again."""
        clock = self._clock
        while True:
            before, wall, steady = clock.monotonic(), clock.time(), clock.monotonic()
            # Else the process was kept waiting in between, and they would seem to have parted.
            if steady - before < _JUMP / 2:
                return before, wall, steady
