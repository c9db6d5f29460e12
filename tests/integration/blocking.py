"""An async store behind a sync face, so that the tests of a sync store are its tests as well."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from functools import cache, partial
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from deviceflow.core.ports import AsyncStore


@cache
def loop() -> asyncio.AbstractEventLoop:
    """Return a loop that runs in a thread for as long as the tests do."""
    made = asyncio.new_event_loop()
    threading.Thread(target=_run, args=(made,), daemon=True).start()
    return made


def _run(made: asyncio.AbstractEventLoop) -> None:
    while True:
        with suppress(KeyboardInterrupt, SystemExit):  # of a task; whoever waits for it is told
            made.run_forever()


def performed(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run_coroutine_threadsafe(work, loop()).result()


class BlockingStore:
    """Each method of the store, performed in the loop while the caller waits."""

    def __init__(self, store: AsyncStore, *, opened: bool = True) -> None:
        self.store: Any = store
        if opened and hasattr(store, "__aenter__"):
            performed(store.__aenter__())

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.store, name)
        return partial(_call, found) if iscoroutinefunction(found) else found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        performed(self.store.close())


def _call(method: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **how: Any) -> Any:
    return performed(method(*args, **how))
