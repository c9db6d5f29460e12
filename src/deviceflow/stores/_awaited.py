"""A sync store for asyncio, whose methods are called in the event loop's thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from deviceflow.core.ports import refuse

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
        Store,
        StoredGrant,
        StoreEvent,
    )
    from deviceflow.errors import DeviceFlowError


class AwaitedStore:
    """An `AsyncStore` over a sync store that does not block."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @property
    def durable(self) -> bool:
        return self.store.durable

    @property
    def keeps_trail(self) -> bool:
        return self.store.keeps_trail

    async def now(self, client_now: float) -> float:
        return self.store.now(client_now)

    async def add(self, flow: Flow, *, store_event: StoreEvent | None = None) -> Flow:
        return self.store.add(flow, store_event=store_event)

    async def get(self, flow_id: str, *, secrets: bool = True) -> Flow:
        return self.store.get(flow_id, secrets=secrets)

    async def flows(
        self, *, skip_ended: bool = False, on_problem: Callable[[DeviceFlowError], object] = refuse
    ) -> AsyncIterator[Flow]:
        for flow in self.store.flows(skip_ended=skip_ended, on_problem=on_problem):
            yield flow

    async def claim(
        self,
        flow_id: str,
        owner: str,
        client_now: float,
        seconds: float,
        decide: Decide | None = None,
    ) -> Claim | LeaseHeld:
        return self.store.claim(flow_id, owner, client_now, seconds, decide)

    async def claim_due(
        self, owner: str, client_now: float, seconds: float, decide: Decide | None = None
    ) -> Claim | None:
        return self.store.claim_due(owner, client_now, seconds, decide)

    async def end_lease(self, flow_id: str, since: float, client_now: float) -> None:
        self.store.end_lease(flow_id, since, client_now)

    async def leases_taken_after(self, client_now: float) -> list[tuple[str, float]]:
        return self.store.leases_taken_after(client_now)

    async def wake_after_clock_change(self, client_now: float) -> None:
        self.store.wake_after_clock_change(client_now)

    async def commit(
        self,
        flow: Flow,
        event: dict[str, Any],
        *,
        release: str | None = None,
        store_event: StoreEvent | None = None,
    ) -> bool:
        return self.store.commit(flow, event, release=release, store_event=store_event)

    async def release(self, flow_id: str, owner: str) -> None:
        self.store.release(flow_id, owner)

    async def snooze(self, flow_id: str, owner: str, client_now: float) -> None:
        self.store.snooze(flow_id, owner, client_now)

    async def reschedule(self, flow: Flow, owner: str) -> None:
        self.store.reschedule(flow, owner)

    async def record_store_event(
        self, action: Action, client_now: float, detail: str, origin: Origin
    ) -> None:
        self.store.record_store_event(action, client_now, detail, origin)

    async def ids_with_secrets(
        self,
        kind: Literal["token", "revoke"],
        ended_before: float,
        client_now: float,
        skip: int = 0,
    ) -> list[str]:
        return self.store.ids_with_secrets(kind, ended_before, client_now, skip)

    async def delete_ended(
        self,
        ended_before: float,
        *,
        on_problem: Callable[[DeviceFlowError], object] = refuse,
    ) -> int:
        return self.store.delete_ended(ended_before, on_problem=on_problem)

    async def find(self, name: str) -> Flow | None:
        return self.store.find(name)

    async def load_grant(self, name: str, client_now: float) -> StoredGrant | None:
        return self.store.load_grant(name, client_now)

    async def load_grant_by_id(self, grant_id: str, client_now: float) -> StoredGrant | None:
        return self.store.load_grant_by_id(grant_id, client_now)

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
        return self.store.commit_grant(
            grant, event, lease=lease, release=release, flow=flow, flow_event=flow_event
        )

    async def use_grant(self, grant_id: str, client_now: float) -> None:
        self.store.use_grant(grant_id, client_now)

    async def grants(self, client_now: float, after: str | None = None) -> list[StoredGrant | str]:
        return self.store.grants(client_now, after)

    async def due_grants(self, client_now: float, unused: float, limit: int) -> list[str]:
        return self.store.due_grants(client_now, unused, limit)

    async def snooze_grant(self, name: str, client_now: float) -> None:
        self.store.snooze_grant(name, client_now)

    async def close(self) -> None:
        self.store.close()


def open_async_store(url: str) -> AwaitedStore:
    from deviceflow.stores.url import open_store

    return AwaitedStore(open_store(url))
