"""A limit on guessing user codes (RFC 8628 section 5.1)."""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Guesses:
    """The wrong codes of the last while.

    They count for everybody together: a guesser has as many cookies and addresses as they like.
    """

    def __init__(self, limit: int, window: float, clock: Callable[[], float]) -> None:
        """Allow `limit` wrong codes in any `window` seconds of the `clock`."""
        self._window = window
        self._clock = clock
        self._lock = Lock()
        self._wrong: deque[float] = deque(maxlen=limit)

    def wait(self) -> float:
        """Return the seconds until a code may be tried; 0 where it may be now."""
        with self._lock:
            if len(self._wrong) < (self._wrong.maxlen or 0):
                return 0.0
            return max(0.0, self._wrong[0] + self._window - self._clock())

    def wrong(self) -> None:
        """Count a wrong code."""
        with self._lock:
            self._wrong.append(self._clock())
