"""What the async driver does about cancellations: it holds them back where work has to finish."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

_T = TypeVar("_T")

# An eager task runs at once up to where it first waits, and costs little if it never does.
_HOW: Final[dict[str, Any]] = {"eager_start": True} if sys.version_info >= (3, 12) else {}


class _Uncancellable(asyncio.Task[_T]):
    """A task that runs to its end, also where `asyncio.run` cancels whatever is left at its own."""

    def cancel(self, msg: Any = None) -> bool:  # noqa: ARG002  # as in `Task`
        """Do nothing, and say so: whoever awaits the task is cancelled once the task has ended."""
        return False


class Cancellation:
    """The cancellations of a task while it drives one operation.

    Left as a context manager, it raises the first of them, whatever the operation has made of it:
    a cancellation that is swallowed keeps a program from ending.

    Attributes:
        first: The first one, if there was one.
    """

    def __init__(self) -> None:
        self.first: asyncio.CancelledError | None = None
        self._held: asyncio.CancelledError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self.first not in (None, error) and not isinstance(error, GeneratorExit):
            raise self.first

    def note(self, stop: BaseException) -> None:
        """Remember an exception, if it is a cancellation."""
        if isinstance(stop, asyncio.CancelledError) and self.first is None:
            self.first = stop

    async def finish(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Await work to its end, and hold back what cancels the awaiting task meanwhile."""
        task = _Uncancellable(work, loop=asyncio.get_running_loop(), **_HOW)
        if not task.done():
            try:
                await task
            except asyncio.CancelledError as stop:
                if task.cancelled():
                    raise  # the work itself was
                self.note(stop)
                self._held = stop
        return task.result()

    def give_way(self) -> None:
        """Raise what was held back, if anything was."""
        if self._held is not None:
            stop, self._held = self._held, None
            raise stop
