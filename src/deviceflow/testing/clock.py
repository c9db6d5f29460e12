"""A clock that moves only when it is told to, or slept on."""

from __future__ import annotations


class VirtualClock:
    """A `deviceflow.typing.Clock` under a test's hand: sleeping on it takes no time.

    Args:
        wall: What the wall clock says at first, in seconds since 1970.

    Attributes:
        slept: How long each sleep was meant to be, in seconds.
    """

    def __init__(self, wall: float = 1_800_000_000.0) -> None:
        self._wall = wall
        self._steady = 1000.0
        self.slept: list[float] = []

    def time(self) -> float:
        """Return the wall clock's time, in seconds since 1970."""
        return self._wall

    def monotonic(self) -> float:
        """Return the monotonic clock's time, in seconds."""
        return self._steady

    def sleep(self, seconds: float) -> None:
        """Move both clocks on by `seconds`, at once."""
        self.slept.append(seconds)
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Move both clocks on, as time does."""
        self._wall += seconds
        self._steady += seconds

    def set_wall(self, ahead: float) -> None:
        """Set the wall clock alone by `ahead` seconds, as a suspended machine or a person does."""
        self._wall += ahead
