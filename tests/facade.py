"""An `AsyncClient` behind the face of a `Client`: the tests of the one are those of both."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from functools import partial
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Self

from deviceflow.client._async import AsyncClient
from deviceflow.client.clock import SystemClock
from deviceflow.stores.memory import MemoryStore
from tests.awaited import Awaited
from tests.integration.blocking import BlockingStore, performed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deviceflow.core.login import Login
    from deviceflow.core.provider import Token


class AsyncFacade:
    """Each method of an `AsyncClient`, performed in a loop while the caller waits.

    The parts are those of a `Client`. They are called in threads, and so is what may call the
    client again.

    Args:
        store: As for `Client`.
        transport: As for `Client`; by default that of `AsyncClient`.
        clock: As for `Client`.
        **parts: As for `Client`.
    """

    def __init__(
        self, store: Any = None, *, transport: Any = None, clock: Any = None, **parts: Any
    ) -> None:
        store = MemoryStore() if store is None else store
        self._store, self._transport, self._clock = store, transport, clock
        if isinstance(store, BlockingStore):
            store = store.store
        elif not isinstance(store, str):
            store = Awaited(store, asyncio.to_thread)
        if transport is not None and not iscoroutinefunction(transport.send):
            transport = Awaited(transport, asyncio.to_thread)
        if type(clock) is SystemClock:
            clock = None
        elif clock is not None:
            clock = Awaited(clock, asyncio.to_thread)
        if "output" in parts:
            parts["output"] = partial(asyncio.to_thread, parts["output"])
        self._client = AsyncClient(store, transport=transport, clock=clock, **parts)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return partial(_called, found) if iscoroutinefunction(found) else found

    def logins(self, **how: Any) -> Iterator[Login]:
        found = self._client.logins(**how)
        while (login := performed(anext(found, None))) is not None:
            yield login

    @contextmanager
    def collect(self, *args: Any, **how: Any) -> Iterator[Token]:
        held = self._client.collect(*args, **how)
        token = performed(held.__aenter__())
        try:
            yield token
        except BaseException as error:
            performed(held.__aexit__(type(error), error, error.__traceback__))
            raise
        performed(held.__aexit__(None, None, None))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        performed(self._client.close())


def _called(method: Callable[..., Any], *args: Any, **how: Any) -> Any:
    if how.get("on_step") is not None:
        how["on_step"] = partial(asyncio.to_thread, how["on_step"])
    return performed(method(*args, **how))
