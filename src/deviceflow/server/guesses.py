"""A limit on guessing user codes (RFC 8628 section 5.1)."""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Guesses:
    """Counts wrong user codes within a sliding window.

    The limit applies to all visitors together: an attacker can use many cookies and addresses.
    """

    def __init__(self, limit: int, window: float, clock: Callable[[], float]) -> None:
        """Allow `limit` wrong codes within `window` seconds of the `clock`."""
        self._window = window
        self._clock = clock
        self._lock = Lock()
        self._wrong: deque[float] = deque(maxlen=limit)

    def wait(self) -> float:
        """Return the seconds until the next code may be tried; 0 if it may be tried now."""
        with self._lock:
            if len(self._wrong) < (self._wrong.maxlen or 0):
                return 0.0
            return max(0.0, self._wrong[0] + self._window - self._clock())

    def wrong(self) -> None:
        """Count a wrong code."""
        with self._lock:
            self._wrong.append(self._clock())
