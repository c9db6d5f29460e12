"""Sync parts behind an async face: what tests have for a `Client` serves an `AsyncClient` too."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Call = Callable[[Callable[[], Any]], Coroutine[Any, Any, Any]]

_PLAIN: Final = ("time", "boot", "monotonic")


async def in_turn(work: Callable[[], Any]) -> Any:
    """Call it in the loop; other tasks run, or cancel this one, before that and after it."""
    await asyncio.sleep(0)
    done = work()
    await asyncio.sleep(0)
    return done


class Awaited:
    """A store, a transport or a clock, whose methods are awaited.

    Args:
        part: The sync part.
        call: How its methods are called: `in_turn`, or `asyncio.to_thread`.
        in_task: Whether a client may await what has to finish in its own task.
    """

    def __init__(self, part: Any, call: Call, *, in_task: bool = False) -> None:
        self.part = part
        self.works_in_callers_task = in_task
        self._call = call

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.part, name)
        return found if name in _PLAIN or not callable(found) else partial(self._awaited, found)

    async def _awaited(self, method: Callable[..., Any], *args: Any, **how: Any) -> Any:
        return await self._call(partial(method, *args, **how))
