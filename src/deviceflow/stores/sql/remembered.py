"""The flows that this process drives, so that their next poll need not read them back.

A flow that is remembered belongs to nobody; whoever claims it takes it out. It waits, and has no
token. Whether the store's row is still the one that was written is for a fence to say, in the
statement that moves it: what is remembered is never obeyed where the store has something else.
"""

from __future__ import annotations

import threading
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, Final

from deviceflow import _forks as forks
from deviceflow.core.flow import Flow
from deviceflow.core.states import State

if TYPE_CHECKING:
    from deviceflow.core.secret import Hidden

MOST: Final = 16_384
"""How many flows are remembered; then those that were not claimed for the longest are not."""

_slots_of: Final = attrgetter(*Flow.__slots__)
_written: Final = itemgetter("progress", "head", "mac")
_setters: Final = [getattr(Flow, name).__set__ for name in Flow.__slots__]


class RememberedFlow:
    """A flow, and what its row is known to have.

    Attributes:
        flow: The flow.
        progress: The column of this name.
        head: Likewise.
        mac: Likewise.
    """

    __slots__ = ("flow", "head", "mac", "progress")

    def __init__(self, flow: Flow, progress: str, head: str, mac: str) -> None:
        self.flow = flow
        self.progress = progress
        self.head = head
        self.mac = mac

    def fence(self) -> dict[str, Any]:
        """Return what the row has to have, as values of the statement `poll_remembered`."""
        flow = self.flow
        return {
            "old_mac": self.mac,
            "old_progress": self.progress,
            "old_head": self.head,
            "old_state": str(flow.state),
            "old_moved_at": flow.moved_at,
        }


class RememberedFlows:
    """Flows by their ids, up to `MOST`. A forked child begins with none."""

    def __init__(self) -> None:
        self._renew()
        forks.in_child(self._renew)

    def __len__(self) -> int:
        return len(self._flows)

    def __repr__(self) -> str:
        return f"<{len(self)} remembered flows>"

    def _renew(self) -> None:
        self._lock = threading.RLock()  # a signal handler may use the store as well
        self._flows: dict[str, RememberedFlow] = {}

    def take(self, flow_id: str) -> RememberedFlow | None:
        """Return a flow that is remembered, and forget it; it is the caller's from now on."""
        with self._lock:
            return self._flows.pop(flow_id, None)

    def put(self, flow: Flow, row: Hidden[dict[str, Any]]) -> None:
        """Remember a copy of a flow, which was written in this row, if it waits for its next poll.

        If it does not, it is forgotten.
        """
        if flow.state is not State.AWAITING_USER or flow.to_revoke:
            self.forget(flow.id)
            return
        kept = RememberedFlow(_copy(flow), *_written(row.reveal()))  # a local would show the row
        with self._lock:
            self._flows.pop(flow.id, None)
            self._flows[flow.id] = kept
            if len(self._flows) > MOST:
                del self._flows[next(iter(self._flows))]

    def forget(self, flow_id: str) -> None:
        """Forget a flow: it came to its end, or others went on with it."""
        self.take(flow_id)

    def forget_all(self) -> None:
        """Forget all flows."""
        with self._lock:
            self._flows.clear()


def _copy(flow: Flow) -> Flow:
    copy = object.__new__(Flow)
    for put, value in zip(_setters, _slots_of(flow), strict=True):
        put(copy, value)
    return copy
