"""Flows in this process's memory."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from deviceflow.errors import UnknownFlowError
from deviceflow.stores.base import Claim, Held

if TYPE_CHECKING:
    from deviceflow.flow import Flow, Transition


class MemoryStore:
    """Keeps flows while the process lives; nothing of them is written anywhere."""

    persistent = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flows: dict[str, Flow] = {}
        self._keys: dict[str, str] = {}
        self._leases: dict[str, tuple[str, float]] = {}

    def __len__(self) -> int:
        return len(self._flows)

    def add(self, flow: Flow) -> Flow:
        """Keep a new flow, or return the live one of the same key instead."""
        with self._lock:
            if flow.key is not None:
                lives = self._flows.get(self._keys.get(flow.key, ""))
                if lives is not None and not lives.state.ended:
                    return lives.copy()
                self._keys[flow.key] = flow.id
            self._flows[flow.id] = flow.copy()
        return flow

    def get(self, flow_id: str) -> Flow:
        """Return a copy of the flow, or raise `UnknownFlowError`."""
        with self._lock:
            return self._find(flow_id).copy()

    def claim(self, flow_id: str, owner: str, now: float, seconds: float) -> Claim | Held:
        """Take the flow's lease for so many seconds, or say who has it."""
        with self._lock:
            flow = self._find(flow_id).copy()
            left_by, until = self._leases.get(flow_id, (None, now))
            if until > now:
                return Held(flow, until - now)
            self._leases[flow_id] = (owner, now + seconds)
            return Claim(flow, now, left_by)

    def commit(self, flow: Flow, transition: Transition, *, release: str | None = None) -> bool:
        """Keep the flow as it is after `transition`, unless others went on meanwhile."""
        with self._lock:
            if release is not None:
                self._release(flow.id, release)
            stored = self._flows.get(flow.id)
            if stored is None or stored.seq != transition.seq - 1:
                return False
            self._flows[flow.id] = flow.copy()
            return True

    def release(self, flow_id: str, owner: str) -> None:
        """Give the lease back, if `owner` still has it."""
        with self._lock:
            self._release(flow_id, owner)

    def remove(self, flow_id: str) -> None:
        """Forget the flow."""
        with self._lock:
            flow = self._flows.pop(flow_id, None)
            self._leases.pop(flow_id, None)
            if flow is not None and self._keys.get(flow.key or "") == flow_id:
                del self._keys[flow.key or ""]

    def _find(self, flow_id: str) -> Flow:
        flow = self._flows.get(flow_id)
        if flow is None:
            raise UnknownFlowError(flow_id=flow_id)
        return flow

    def _release(self, flow_id: str, owner: str) -> None:
        if self._leases.get(flow_id, ("", 0.0))[0] == owner:
            del self._leases[flow_id]
