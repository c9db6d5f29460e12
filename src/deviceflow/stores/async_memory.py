"""Logins and grants in this process's memory, for asyncio."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from deviceflow.core.states import ENDS, State
from deviceflow.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from deviceflow.core.flow import Flow
    from deviceflow.core.grant import Grant
    from deviceflow.core.ports import StoreEvent

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _awaited(
    method: Callable[Concatenate[MemoryStore, _P], _T],
) -> Callable[Concatenate[AsyncMemoryStore, _P], Coroutine[Any, Any, _T]]:
    """Return a method of `MemoryStore` as one that is awaited. It never suspends."""

    async def call(self: AsyncMemoryStore, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return method(self._store, *args, **kwargs)

    update_wrapper(call, method)
    return call


class AsyncMemoryStore:
    """A `MemoryStore` for the tasks of one event loop."""

    durable = False
    keeps_trail = False

    works_in_callers_task = True

    def __init__(self) -> None:
        self._store = MemoryStore()
        self._change = asyncio.Event()
        self._change.set()

    def __len__(self) -> int:
        return len(self._store)

    # The protocol; see `AsyncStore`.

    now = _awaited(MemoryStore.now)
    load = _awaited(MemoryStore.load)
    page = _awaited(MemoryStore.page)
    claim = _awaited(MemoryStore.claim)
    restart_lease = _awaited(MemoryStore.restart_lease)
    wake_after_clock_change = _awaited(MemoryStore.wake_after_clock_change)
    release = _awaited(MemoryStore.release)
    put_off = _awaited(MemoryStore.put_off)
    claim_notice = _awaited(MemoryStore.claim_notice)
    use = _awaited(MemoryStore.use)
    select = _awaited(MemoryStore.select)
    delete = _awaited(MemoryStore.delete)
    append = _awaited(MemoryStore.append)
    close = _awaited(MemoryStore.close)

    async def add(self, flow: Flow, *, store_event: StoreEvent | None = None) -> Flow:
        """Keep a new login, or return the open one of the same name instead."""
        kept = self._store.add(flow, store_event=store_event)
        if kept is flow:
            self._change.set()
        return kept

    async def commit(self, record: Flow | Grant, event: dict[str, Any], **how: Any) -> bool:
        """Keep a record as it is after `event`, unless others went on."""
        kept = self._store.commit(record, event, **how)
        if kept and (record.state in ENDS or event["from"] == State.INIT):
            self._change.set()
        return kept

    async def watch(self, seconds: float) -> bool:
        """Wait until somebody adds, starts or ends a login."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._change.wait()
        changed = self._change.is_set()
        self._change.clear()
        return changed

    def remove(self, flow_id: str) -> None:
        """Forget a login; unknown ones are forgotten already."""
        self._store.remove(flow_id)
