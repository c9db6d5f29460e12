"""What the async driver does about cancellations: it holds them back where work has to finish."""

from __future__ import annotations

import asyncio
import sys
import types
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

_T = TypeVar("_T")

# An eager task runs at once up to where it first waits, and costs little if it never does.
_HOW: Final[dict[str, Any]] = {"eager_start": True} if sys.version_info >= (3, 12) else {}


class _Uncancellable(asyncio.Task[_T]):
    """A task that runs to its end, also where `asyncio.run` cancels whatever is left at its own."""

    def cancel(self, msg: Any = None) -> bool:  # noqa: ARG002  # as in `Task`
        """Do nothing, and say so: whoever awaits the task is cancelled once the task has ended."""
        return False


class _Held:
    """What a task waits for in the place of a future, so that a cancellation waits as well.

    `Task.cancel` asks it to be cancelled, is refused, and cancels the task once the future is done.
    """

    __slots__ = ("_asyncio_future_blocking", "_future")

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self._future = future
        self._asyncio_future_blocking = True  # as a future says that it is awaited

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._future.get_loop()

    def add_done_callback(self, callback: Any, *, context: Any = None) -> None:
        self._future.add_done_callback(callback, context=context)

    def cancel(self, msg: Any = None) -> bool:  # noqa: ARG002  # as in `Future`
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

    @types.coroutine
    def finish_here(self, work: Coroutine[Any, Any, _T]) -> Generator[Any, Any, _T]:
        """Await work to its end as `finish` does, but in the awaiting task, which costs less.

        What the work awaits must not cancel this task itself, as `asyncio.timeout` does.
        """
        while True:
            try:
                future = work.send(None)
            except StopIteration as done:
                result: _T = done.value
                return result
            try:
                yield future if future is None else _Held(future)
            except GeneratorExit:
                work.close()
                raise
            except asyncio.CancelledError as stop:
                if future is None or not future.cancelled():
                    self.note(stop)
                    self._held = stop
            except BaseException:  # noqa: BLE001, S110  # the future's: it raises it in the work
                pass

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
