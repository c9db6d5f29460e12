"""Run coroutines that never suspend: what is written once as `async def` serves sync code, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

_T = TypeVar("_T")


def complete(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine that never suspends, and return its result.

    Raises:
        RuntimeError: It suspended, so it waits for an event loop that is not there.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: _T = done.value
        return result
    coroutine.close()
    raise RuntimeError("A coroutine of a sync client or store waits for an event loop.")
