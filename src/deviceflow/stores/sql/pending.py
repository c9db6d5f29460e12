"""Jobs that tasks wait for, while a thread or another task performs them in groups."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from deviceflow.stores.sql.foreseen import Foreseen
    from deviceflow.stores.sql.methods import Job


class Done(NamedTuple):
    """What came of a job.

    Attributes:
        result: The operation's result.
        problem: What the operation raised.
        cancelled: The cancellation that came while the job was performed.
    """

    result: Any = None
    problem: BaseException | None = None
    cancelled: asyncio.CancelledError | None = None


class Pending:
    """A job, and the task that waits for it.

    Attributes:
        job: The job; None for closing the connection.
        loop: The task's event loop.
        alone: Whether it must not share a transaction, since one that it shared failed.
        asked: When it was asked for, by `time.monotonic`.
        begun: Whether it is performed by now, or was.
        dropped: Whether its task was cancelled before that: it must not be performed.
        foreseen: What the job comes to, if that was foreseen.
    """

    __slots__ = (
        *("_done", "_future", "alone", "asked", "begun", "dropped", "foreseen", "job", "loop"),
    )

    def __init__(self, job: Job | None) -> None:
        self.job = job
        self.asked = time.monotonic()
        self.loop = asyncio.get_running_loop()
        self._done: Done | None = None
        self._future: asyncio.Future[Done] = self.loop.create_future()
        self.alone = self.begun = self.dropped = False
        self.foreseen: Foreseen | None = None

    def answer(self, done: Done) -> None:
        """Tell the task, in its own loop."""
        self._done = done  # the future may be cancelled, and its task not know yet
        if not self._future.done():
            self._future.set_result(done)

    async def wait(self, drop: Callable[[Pending], bool]) -> Done:
        """Wait for what comes of the job.

        Args:
            drop: Drops the job if it was not begun, and tells whether that is so.

        Raises:
            asyncio.CancelledError: The job was not begun, and will not be. Of a job that was, the
                end is awaited first.
        """
        cancelled = None
        while True:
            try:
                done = await self._future
            except asyncio.CancelledError as stop:
                cancelled = cancelled or stop
                if self._done is not None:
                    return self._done._replace(cancelled=cancelled)
                if drop(self):
                    raise
                self._future = self.loop.create_future()
            else:
                return done if cancelled is None else done._replace(cancelled=cancelled)


def answer_all(answers: Iterable[tuple[Pending, Done]]) -> None:
    """Tell the tasks of one loop, in that loop."""
    for pending, done in answers:
        pending.answer(done)
