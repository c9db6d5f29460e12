"""An event loop, and a clock for it, by which time passes faster."""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING

from tests.crash.clock import SharedClock

if TYPE_CHECKING:
    from pathlib import Path


class _PacedSelector(selectors.DefaultSelector):
    def __init__(self, pace: int) -> None:
        super().__init__()
        self._pace = pace

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(None if timeout is None else timeout / self._pace)


class PacedLoop(asyncio.SelectorEventLoop):
    """An event loop all of whose timers run faster, by a whole number."""

    def __init__(self, pace: int) -> None:
        super().__init__(_PacedSelector(pace))
        self._pace = pace

    def time(self) -> float:
        return super().time() * self._pace


class PacedClock:
    """The shared clock, for a `PacedLoop` of the same pace."""

    def __init__(self, path: Path) -> None:
        self._shared = SharedClock(path)
        self.pace = self._shared.pace
        self.time = self._shared.time
        self.monotonic = self._shared.monotonic

    async def sleep(self, seconds: float) -> None:
        """Wait until so much of its time has passed."""
        await asyncio.sleep(seconds)
