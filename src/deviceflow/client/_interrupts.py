"""Ctrl-C and SIGTERM, held back while the sync client does what has to finish."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_P = ParamSpec("_P")
_T = TypeVar("_T")

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """The signals of one client that have to wait.

    Python runs a handler between two instructions of the main thread, and most handlers raise. In
    the middle of a commit, that would leave a login stored that is neither logged nor known. So
    while such work runs in the main thread, the handlers only note the signal.
    """

    def __init__(self) -> None:
        self._held: list[tuple[Callable[..., Any], int, Any]] = []

    def finish(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Do work to its end, and hold back the signals that come meanwhile."""
        if threading.current_thread() is not threading.main_thread():
            return work(*args, **kwargs)  # no handler runs here
        replaced = list[tuple[signal.Signals, Any]]()
        try:
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler):
                    replaced.append((number, handler))
                    signal.signal(number, self._holding(handler))
            return work(*args, **kwargs)
        finally:
            for number, handler in replaced:
                signal.signal(number, handler)

    def _holding(self, handler: Callable[..., Any]) -> Callable[[int, Any], None]:
        return lambda number, frame: self._held.append((handler, number, frame))

    def give_way(self) -> None:
        """Let the handlers run that were held back, until one raises, in the main thread."""
        if self._held and threading.current_thread() is threading.main_thread():
            held, self._held = self._held, []
            for handler, number, frame in held:
                handler(number, frame)
