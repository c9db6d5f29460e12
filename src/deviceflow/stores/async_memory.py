"""Flows in this process's memory, for asyncio."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from deviceflow.core.ports import reraise
from deviceflow.core.states import State
from deviceflow.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from deviceflow.core.flow import Flow
    from deviceflow.core.ports import StoreEvent
    from deviceflow.errors import DeviceFlowError

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
    get = _awaited(MemoryStore.get)
    find = _awaited(MemoryStore.find)
    claim = _awaited(MemoryStore.claim)
    upcoming = _awaited(MemoryStore.upcoming)
    any_pending = _awaited(MemoryStore.any_pending)
    restart_lease = _awaited(MemoryStore.restart_lease)
    foreign_leases = _awaited(MemoryStore.foreign_leases)
    wake_after_clock_change = _awaited(MemoryStore.wake_after_clock_change)
    release = _awaited(MemoryStore.release)
    snooze = _awaited(MemoryStore.snooze)
    reschedule = _awaited(MemoryStore.reschedule)
    record_store_event = _awaited(MemoryStore.record_store_event)
    ids_with_secrets = _awaited(MemoryStore.ids_with_secrets)
    delete_ended = _awaited(MemoryStore.delete_ended)
    load_grant = _awaited(MemoryStore.load_grant)
    load_grant_by_id = _awaited(MemoryStore.load_grant_by_id)
    load_grant_by_link = _awaited(MemoryStore.load_grant_by_link)
    commit_grant = _awaited(MemoryStore.commit_grant)
    use_grant = _awaited(MemoryStore.use_grant)
    grants = _awaited(MemoryStore.grants)
    due_grants = _awaited(MemoryStore.due_grants)
    due_notices = _awaited(MemoryStore.due_notices)
    claim_notice = _awaited(MemoryStore.claim_notice)
    snooze_grant = _awaited(MemoryStore.snooze_grant)
    ended_grants = _awaited(MemoryStore.ended_grants)
    delete_grant = _awaited(MemoryStore.delete_grant)
    close = _awaited(MemoryStore.close)

    async def add(self, flow: Flow, *, store_event: StoreEvent | None = None) -> Flow:
        kept = self._store.add(flow, store_event=store_event)
        if kept is flow:
            self._change.set()
        return kept

    async def commit(
        self,
        flow: Flow,
        event: dict[str, Any],
        *,
        release: str | None = None,
        store_event: StoreEvent | None = None,
    ) -> bool:
        kept = self._store.commit(flow, event, release=release, store_event=store_event)
        if kept and (flow.state.ended or event["from"] == State.INIT):
            self._change.set()
        return kept

    async def flows(
        self, *, skip_ended: bool = False, on_problem: Callable[[DeviceFlowError], object] = reraise
    ) -> AsyncIterator[Flow]:
        """Yield copies of all flows, or of those that have not ended, the newest first."""
        for flow in self._store.flows(skip_ended=skip_ended, on_problem=on_problem):
            yield flow

    async def wait_for_change(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._change.wait()
        changed = self._change.is_set()
        self._change.clear()
        return changed

    def remove(self, flow_id: str) -> None:
        """Forget the flow; unknown ones are forgotten already."""
        self._store.remove(flow_id)
