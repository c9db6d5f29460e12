"""Flows in this process's memory, for asyncio."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from deviceflow.core.ports import reraise
from deviceflow.core.states import State
from deviceflow.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from deviceflow.core.actions import Action
    from deviceflow.core.flow import Flow
    from deviceflow.core.grant import Grant
    from deviceflow.core.ports import (
        Claim,
        Decide,
        GrantLease,
        LeaseHeld,
        Origin,
        StoredGrant,
        StoreEvent,
        UpcomingFlow,
    )
    from deviceflow.core.secret import Secret
    from deviceflow.core.uses import Use
    from deviceflow.errors import DeviceFlowError


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

    async def now(self, client_now: float) -> float:
        return self._store.now(client_now)

    async def add(self, flow: Flow, *, store_event: StoreEvent | None = None) -> Flow:
        kept = self._store.add(flow, store_event=store_event)
        if kept is flow:
            self._change.set()
        return kept

    async def get(self, flow_id: str, *, secrets: bool = True) -> Flow:
        return self._store.get(flow_id, secrets=secrets)

    async def flows(
        self, *, skip_ended: bool = False, on_problem: Callable[[DeviceFlowError], object] = reraise
    ) -> AsyncIterator[Flow]:
        """Yield copies of all flows, or of those that have not ended, the newest first."""
        for flow in self._store.flows(skip_ended=skip_ended, on_problem=on_problem):
            yield flow

    async def claim(
        self,
        flow_id: str,
        owner: str,
        client_now: float,
        seconds: float,
        decide: Decide | None = None,
    ) -> Claim | LeaseHeld:
        return self._store.claim(flow_id, owner, client_now, seconds, decide)

    async def upcoming(
        self, client_now: float, ahead: float, grace: float | None = None
    ) -> list[UpcomingFlow]:
        return self._store.upcoming(client_now, ahead, grace)

    async def any_pending(self) -> bool:
        return self._store.any_pending()

    async def restart_lease(self, subject_id: str, since: float, client_now: float) -> None:
        self._store.restart_lease(subject_id, since, client_now)

    async def foreign_leases(self, client_now: float) -> list[tuple[str, float]]:
        return self._store.foreign_leases(client_now)

    async def wake_after_clock_change(self, client_now: float) -> None:
        self._store.wake_after_clock_change(client_now)

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

    async def release(self, flow_id: str, owner: str) -> None:
        self._store.release(flow_id, owner)

    async def snooze(self, flow_id: str, owner: str, client_now: float) -> None:
        self._store.snooze(flow_id, owner, client_now)

    async def reschedule(self, flow: Flow, owner: str) -> None:
        self._store.reschedule(flow, owner)

    async def record_store_event(
        self, action: Action, client_now: float, detail: str, origin: Origin
    ) -> None:
        self._store.record_store_event(action, client_now, detail, origin)

    async def ids_with_secrets(
        self,
        kind: Literal["token", "revoke"],
        ended_before: float,
        client_now: float,
        skip: int = 0,
    ) -> list[str]:
        return self._store.ids_with_secrets(kind, ended_before, client_now, skip)

    async def delete_ended(
        self,
        ended_before: float,
        *,
        on_problem: Callable[[DeviceFlowError], object] = reraise,
    ) -> int:
        return self._store.delete_ended(ended_before, on_problem=on_problem)

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

    async def find(self, name: str) -> Flow | None:
        return self._store.find(name)

    async def load_grant(self, name: str, client_now: float) -> StoredGrant | None:
        return self._store.load_grant(name, client_now)

    async def load_grant_by_id(self, grant_id: str, client_now: float) -> StoredGrant | None:
        return self._store.load_grant_by_id(grant_id, client_now)

    async def load_grant_by_link(self, link: Secret, client_now: float) -> StoredGrant | None:
        return self._store.load_grant_by_link(link, client_now)

    async def commit_grant(
        self,
        grant: Grant,
        event: dict[str, Any],
        *,
        lease: GrantLease | None = None,
        release: str | None = None,
        flow: Flow | None = None,
        flow_event: dict[str, Any] | None = None,
    ) -> bool:
        return self._store.commit_grant(
            grant, event, lease=lease, release=release, flow=flow, flow_event=flow_event
        )

    async def use_grant(self, grant_id: str, client_now: float, uses: tuple[Use, ...]) -> None:
        self._store.use_grant(grant_id, client_now, uses)

    async def grants(self, client_now: float, after: str | None = None) -> list[StoredGrant | str]:
        return self._store.grants(client_now, after)

    async def due_grants(
        self, client_now: float, unused: float, limit: int
    ) -> list[tuple[str, str]]:
        return self._store.due_grants(client_now, unused, limit)

    async def due_notices(self, client_now: float, limit: int) -> list[str]:
        return self._store.due_notices(client_now, limit)

    async def claim_notice(self, grant_id: str, client_now: float, seconds: float) -> bool:
        return self._store.claim_notice(grant_id, client_now, seconds)

    async def snooze_grant(self, name: str, client_now: float) -> None:
        self._store.snooze_grant(name, client_now)

    async def ended_grants(self, ended_before: float, after: str | None = None) -> list[str]:
        return self._store.ended_grants(ended_before, after)

    async def delete_grant(self, grant: Grant) -> bool:
        return self._store.delete_grant(grant)

    async def close(self) -> None:
        """Keep what there is: it lives as long as this object does."""
