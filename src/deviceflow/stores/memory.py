"""Flows in this process's memory."""

from __future__ import annotations

import threading
from math import inf
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Literal

from deviceflow import _forks as forks
from deviceflow.core.ports import FIRST_SNOOZE, Claim, LeaseHeld, UpcomingFlow, reraise
from deviceflow.errors import UnknownLoginError, UsageError
from deviceflow.stores._leases import steady_of
from deviceflow.stores._memory_grants import MemoryGrants
from deviceflow.stores._parked import Parked, fixed_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deviceflow.core.actions import Action
    from deviceflow.core.flow import Flow
    from deviceflow.core.ports import Decide, Origin, StoreEvent
    from deviceflow.errors import DeviceFlowError


_FREE: Final = (None, 0.0, None)
"""A lease: who has it, until when by the monotonic clock, and who left it behind before."""


_MOST_SNOOZES: Final = 6


class MemoryStore(MemoryGrants):
    """Keeps flows in memory while the process lives, and writes nothing to the disk.

    A forked child gets a copy of the flows, the grants and their leases, and neither process sees
    what the other one does from then on. Only one of the two may go on with them: both would poll
    with the same code, and the server gives the token to only one of them; and both would send the
    same refresh token, after which a server with reuse detection revokes the grant.
    """

    durable = False
    keeps_trail = False

    def __init__(self) -> None:
        super().__init__()
        self._renew_lock()
        forks.in_child(self._renew_lock)
        self._flows: dict[str, _Parked] = {}
        self._names: dict[str, str] = {}
        self._leases: dict[str, tuple[str | None, float, str | None]] = {}
        self._snoozes: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._flows)

    def now(self, client_now: float) -> float:
        """Return the given time."""
        return client_now

    def add(self, flow: Flow, *, store_event: StoreEvent | None = None) -> Flow:  # noqa: ARG002
        """Keep a new flow, or return the open one of the same name instead."""
        with self._lock:
            known = (
                self._flows.get(self._names.get(flow.name, "")) if flow.name is not None else None
            )
            if known is not None:
                return _unpark(known)
            if flow.id in self._flows:
                raise UsageError("A flow of this id is in the store already.", flow_id=flow.id)
            self._flows[flow.id] = _Parked(flow)
            if flow.name is not None and flow.open:
                self._names[flow.name] = flow.id
        return flow

    def get(self, flow_id: str, *, secrets: bool = True) -> Flow:
        """Return a copy of the flow, or raise `UnknownLoginError`."""
        with self._lock:
            flow = self._find(flow_id)
        return flow if secrets else _bare(flow)

    def find(self, name: str) -> Flow | None:
        """Return a copy of the open flow of a name, without its secrets; None if there is none."""
        with self._lock:
            parked = self._flows.get(self._names.get(name, ""))
        return None if parked is None else _bare(_unpark(parked))

    def flows(
        self,
        *,
        skip_ended: bool = False,
        on_problem: Callable[[DeviceFlowError], object] = reraise,  # noqa: ARG002  # there are none
    ) -> Iterator[Flow]:
        """Yield copies of all flows, or of those that have not ended, the newest first."""
        with self._lock:
            flows = [_bare(_unpark(parked)) for parked in self._flows.values()]
        for flow in sorted(flows, key=attrgetter("created_at"), reverse=True):
            if not (skip_ended and flow.state.ended):
                yield flow

    def claim(
        self,
        flow_id: str,
        owner: str,
        client_now: float,
        seconds: float,
        decide: Decide | None = None,
    ) -> Claim | LeaseHeld:
        """Take the flow's lease, or return the lease that another worker holds."""
        with self._lock:
            return self._claim(flow_id, owner, client_now, seconds, decide)

    def upcoming(
        self, client_now: float, ahead: float, grace: float | None = None
    ) -> list[UpcomingFlow]:
        """Return flows that nobody seems to drive and nobody has leased, the longest due first."""
        left_behind = -inf if grace is None else client_now - grace
        with self._lock:
            found = [
                UpcomingFlow(
                    parked.flow_id, parked.seq, parked.wake_at, float(client_now), parked.server
                )
                for parked in self._flows.values()
                if parked.wake_at <= (client_now + ahead if parked.seq <= 1 else left_behind)
                and self._held(parked.flow_id, "", client_now) <= 0
            ]
        return sorted(found, key=attrgetter("wake_at"))

    def any_pending(self) -> bool:
        """Tell whether a flow waits for an approval. Flows that are snoozed do not count."""
        with self._lock:
            return any(
                parked.wake_at < inf
                and not parked.state.ended
                and not self._snoozes.get(parked.flow_id)
                for parked in self._flows.values()
            )

    def restart_lease(self, subject_id: str, since: float, client_now: float) -> None:
        """Do nothing: all leases are by this machine's clock."""

    def foreign_leases(self, client_now: float) -> list[tuple[str, float]]:  # noqa: ARG002
        """Return nothing, for the same reason."""
        return []

    def wake_after_clock_change(self, client_now: float) -> None:
        """Do nothing: a client's own clock is never set back."""

    def commit(
        self,
        flow: Flow,
        event: dict[str, Any],
        *,
        release: str | None = None,
        store_event: StoreEvent | None = None,  # noqa: ARG002
    ) -> bool:
        """Keep the flow as it is after `event`, unless others went on meanwhile.

        Event and note are not kept: in memory the log is all there is of a flow's history.
        """
        with self._lock:
            if release is not None:
                self._release(flow.id, release)
            return self._move(flow, event)

    def _move(self, flow: Flow, event: dict[str, Any]) -> bool:
        stored = self._flows.get(flow.id)
        if stored is not None and event["hash"] and _unpark(stored).head == event["hash"]:
            return True  # done already, and only the file of the trail failed
        if stored is None or stored.seq != event["seq"] - 1:
            return False
        self._keep(flow)
        return True

    def release(self, flow_id: str, owner: str) -> None:
        """Give the lease back, if `owner` still has it."""
        with self._lock:
            self._release(flow_id, owner)

    def snooze(self, flow_id: str, owner: str, client_now: float) -> None:
        """Give the lease back, if `owner` has it, and have no sweep find the flow for a while."""
        with self._lock:
            if flow_id in self._flows and self._held(flow_id, owner, client_now) <= 0:
                previous_owner = self._leases.get(flow_id, _FREE)[2]
                self._leases[flow_id] = (None, 0.0, previous_owner)
                snoozes = self._snoozes.get(flow_id, 0)
                self._snoozes[flow_id] = min(snoozes + 1, _MOST_SNOOZES)
                self._flows[flow_id].wake_at = client_now + FIRST_SNOOZE * 2**snoozes

    def reschedule(self, flow: Flow, owner: str) -> None:
        """Give the lease back, and have sweeps find the flow when it is due."""
        with self._lock:
            self._release(flow.id, owner)
            self._snoozes.pop(flow.id, None)
            if flow.id in self._flows:
                self._flows[flow.id].wake_at = _wake_at(flow)

    def record_store_event(
        self, action: Action, client_now: float, detail: str, origin: Origin
    ) -> None:
        """Do nothing: in memory the log is all there is."""

    def ids_with_secrets(
        self,
        kind: Literal["token", "revoke"],
        ended_before: float,
        client_now: float,  # noqa: ARG002
        skip: int = 0,
    ) -> list[str]:
        """Return the ids of flows that ended before then and hold such secrets."""
        found = [
            flow.id
            for flow in self._ended(ended_before)
            if (flow.token if kind == "token" else flow.to_revoke)
        ]
        return found[skip:]

    def delete_ended(
        self,
        ended_before: float,
        *,
        on_problem: Callable[[DeviceFlowError], object] = reraise,  # noqa: ARG002  # none here
    ) -> int:
        """Drop the flows that ended before then and hold no secret; return how many."""
        over = [f for f in self._ended(ended_before) if not (f.token or f.to_revoke)]
        for flow in over:
            self.remove(flow.id)
        return len(over)

    def remove(self, flow_id: str) -> None:
        """Forget the flow; unknown ones are forgotten already."""
        with self._lock:
            parked = self._flows.pop(flow_id, None)
            self._leases.pop(flow_id, None)
            self._snoozes.pop(flow_id, None)
            name = None if parked is None else _unpark(parked).name
            if name is not None:
                self._free(name, flow_id)

    def close(self) -> None:
        """Keep what there is: it lives as long as this object does."""

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def _find(self, flow_id: str) -> Flow:
        parked = self._flows.get(flow_id)
        if parked is None:
            raise UnknownLoginError(flow_id=flow_id)
        return _unpark(parked)

    def _held(self, flow_id: str, owner: str, client_now: float) -> float:
        """Return for how many seconds others hold the lease; 0 or less if none do."""
        holder, until, _ = self._leases.get(flow_id, _FREE)
        return 0.0 if holder in (owner, None) else until - steady_of(client_now)

    def _keep(self, flow: Flow) -> None:
        self._flows[flow.id].keep(flow)
        self._snoozes.pop(flow.id, None)
        if flow.id in self._leases:
            self._leases[flow.id] = (*self._leases[flow.id][:2], None)
        if flow.name is not None and not flow.open:
            self._free(flow.name, flow.id)

    def _claim(
        self, flow_id: str, owner: str, client_now: float, seconds: float, decide: Decide | None
    ) -> Claim | LeaseHeld:
        flow, now = self._find(flow_id), float(client_now)
        if (left := self._held(flow_id, owner, client_now)) > 0:
            return LeaseHeld(_bare(flow), left)
        holder, _, previous_owner = self._leases.get(flow_id, _FREE)
        previous_owner = previous_owner if holder in (owner, None) else holder
        event = None if decide is None else decide(Claim(flow, now, previous_owner))
        self._leases[flow_id] = (owner, steady_of(client_now) + seconds, previous_owner)
        if event is not None:
            self._keep(flow)
        return Claim(flow, now, previous_owner, event)

    def _ended(self, before: float) -> list[Flow]:
        with self._lock:
            flows = [_unpark(parked) for parked in self._flows.values() if parked.state.ended]
        return [flow for flow in flows if flow.ended_at is not None and flow.ended_at <= before]

    def _free(self, name: str, flow_id: str) -> None:
        if self._names.get(name) == flow_id:
            del self._names[name]

    def _release(self, flow_id: str, owner: str) -> None:
        holder, _, previous_owner = self._leases.get(flow_id, _FREE)
        if holder == owner:
            del self._leases[flow_id]
            if previous_owner is not None:
                self._leases[flow_id] = (None, 0.0, previous_owner)


def _bare(flow: Flow) -> Flow:
    flow.device_code = flow.verifier = flow.token = None
    flow.to_revoke = ()
    return flow


class _Parked(Parked):
    """A flow as it is kept, with when it is due.

    A flow that was read from here has as `as_stored` what of it is kept as bytes.
    """

    __slots__ = ("head", "wake_at")

    def __init__(self, flow: Flow) -> None:
        super().__init__(flow)
        self._note(flow)

    def keep(self, flow: Flow) -> None:
        """Take over what has changed of the flow since it was read from here."""
        self.update(flow, moved_only=flow.as_stored == fixed_of(flow))
        self._note(flow)

    def _note(self, flow: Flow) -> None:
        flow.as_stored = fixed_of(flow)
        self.head = flow.head
        self.wake_at = _wake_at(flow)


def _unpark(parked: _Parked) -> Flow:
    flow = parked.flow()
    flow.head = parked.head
    flow.as_stored = fixed_of(flow)
    return flow


def _wake_at(flow: Flow) -> float:
    wake_at = flow.wake_at
    return inf if wake_at is None else wake_at
