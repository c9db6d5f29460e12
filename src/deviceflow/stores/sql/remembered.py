"""The flows that this process drives, so that their next poll need not read them back.

A remembered flow waits, has no token, and has no owner: a claim takes the flow out. The statement
that moves the flow checks that the store's row is still the row that was written. If the row has
changed, the store's row counts, and not what is remembered.
"""

from __future__ import annotations

import threading
from operator import itemgetter
from sys import intern
from typing import TYPE_CHECKING, Any, Final

from deviceflow import _forks as forks
from deviceflow.core.states import State
from deviceflow.stores._parked import Parked, fixed_of
from deviceflow.stores.sql.rows import Fixed, progress_of

if TYPE_CHECKING:
    from deviceflow.core.flow import Flow
    from deviceflow.core.secret import Hidden

MOST: Final = 16_384
"""How many flows are remembered; then those that were not claimed for the longest are not."""

_written: Final = itemgetter("head", "mac")
_HASH: Final = 32
_HEX: Final = 2 * _HASH


class RememberedFlow(Parked):
    """A flow, and what its row is known to have.

    Args:
        flow: The flow, as it was written.
        head: The row's column of this name: the hash of the flow's last event, and a mark where the
            trail leaves that event out.
        mac: The row's column of this name: a prefix and a hash.
    """

    __slots__ = ("_hashes", "_mac_prefix", "_mark", "_open_name")

    def __init__(self, flow: Flow, head: str, mac: str) -> None:
        super().__init__(flow)
        self.note(flow, head, mac)

    def note(self, flow: Flow, head: str, mac: str) -> None:
        """Take over what the row has beside what the flow has."""
        stored: Fixed = flow.as_stored
        self._open_name = stored.open_name
        self._hashes = bytes.fromhex(f"{stored.digest}{head[:_HEX]}{mac[-_HEX:]}")
        self._mac_prefix, self._mark = intern(mac[:-_HEX]), head[_HEX:]

    def opened(self) -> tuple[Flow, dict[str, Any]]:
        """Return the flow, and what its row has to have, for the statement `poll_remembered`."""
        flow, hashes = self.flow(), self._hashes.hex()
        digest, flow.head, mac = hashes[:_HEX], hashes[_HEX:-_HEX], hashes[-_HEX:]
        flow.as_stored = stored = Fixed(self._open_name, digest)
        stored.remembered = self, fixed_of(flow)
        return flow, {
            "old_mac": f"{self._mac_prefix}{mac}",
            "old_progress": progress_of(flow),
            "old_head": f"{flow.head}{self._mark}",
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
        """Remember a flow, which was written in this row, if it waits for its next poll.

        If it does not, it is forgotten.
        """
        if flow.state is not State.AWAITING_USER or flow.to_revoke:
            self.forget(flow.id)
            return
        kept = _kept(flow, *_written(row.reveal()))  # a local would show the row
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


def _kept(flow: Flow, head: str, mac: str) -> RememberedFlow:
    """Return what is kept of the flow: what it was made of, where that is known, with its moves."""
    stored: Fixed = flow.as_stored
    made_of, stored.remembered = stored.remembered, None
    if made_of is None:
        return RememberedFlow(flow, head, mac)
    kept = made_of[0]
    kept.update(flow, moved_only=made_of[1] == fixed_of(flow))
    kept.note(flow, head, mac)
    return kept
