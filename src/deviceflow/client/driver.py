"""Who a client holds logins as, and by which lease."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from deviceflow import _forks as forks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deviceflow.client.lease import Clocks, Lease
    from deviceflow.core.flow import Flow

HEARTBEAT: Final = 10.0
"""Seconds after which the lease of what is held is renewed. It outlives two of them."""

LOOK: Final = 0.5
"""Seconds between two looks for logins that others have moved while they were held."""


class Driver:
    """What a client holds, for all its threads or tasks. A forked child holds nothing.

    Args:
        holds: Whether the client's store lets logins be held.

    Attributes:
        holds: The same.
        lease: The lease of all that is held; None while nothing is.
        renewing: Whether somebody is renewing it just now.
        watcher: The hold that looks for moved logins, while all holds wait.
        taken: Held logins that others have moved.
        flows: The logins that a worker holds, by their ids.
    """

    def __init__(self, *, holds: bool) -> None:
        self.holds = holds
        self._forget()
        forks.in_child(self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._flow_ids: set[str] = set()
        self._names: set[str] = set()
        self._looked = 0.0
        self._reserved_name: str | None = None
        self.lease: Lease | None = None
        self.renewing = False
        self.watcher: object = None
        self.taken: set[str] = set()
        self.flows: dict[str, Flow] = {}

    def enter(self, flow_id: str) -> None:
        """Have a lease from now on, for a login that is to be held."""
        with self._lock:
            self._flow_ids.add(flow_id)

    def leave(self, flow_id: str) -> str | None:
        """Hold a login no more. Return the name of the driver if that was the last one."""
        with self._lock:
            self._flow_ids.discard(flow_id)
            self.taken.discard(flow_id)
            if self._flow_ids or self.lease is None:
                return None
            lease, self.lease = self.lease, None
            self.taken.clear()
            return lease.owner

    def reserve_name(self, name: str) -> str:
        """Return the name to begin the next lease by, the same for all that begin it at once."""
        with self._lock:
            self._reserved_name = self._reserved_name or name
            return self._reserved_name

    def drop_name(self) -> None:
        """Have the next lease another name than the one that was reserved."""
        with self._lock:
            self._reserved_name = None

    def take(self, lease: Lease) -> None:
        """Hold by another lease from now on."""
        with self._lock:
            self._names.add(lease.owner)
            self._reserved_name = None
            self.lease = lease

    def lose(self, flow_id: str) -> None:
        """Hold by another lease from now on: the store failed, and may say that a login is held.

        Nobody holds that login, so the lease by which it seems to be must end. The other logins are
        held again by the next one.
        """
        with self._lock:
            self.flows.pop(flow_id, None)
            self.lease = None

    def is_name(self, name: str | None) -> bool:
        """Tell whether this process held logins by a name."""
        return name in self._names

    def mark_moved(self, flow_id: str) -> None:
        """Note that others have moved a login, if this client holds any."""
        with self._lock:
            if self.lease is not None:
                self.taken.add(flow_id)

    def forget_moved(self, flow_ids: Iterable[str]) -> None:
        """Forget that logins were moved, except those that are still held here."""
        with self._lock:
            self.taken.difference_update(set(flow_ids) - self._flow_ids - self.flows.keys())

    def next_to_watch(self) -> str | None:
        """Return a held login whose hold is to be the watcher; None if there is a watcher."""
        with self._lock:
            return next(iter(self._flow_ids), None) if self.watcher is None else None

    def is_look_due(self, clocks: Clocks) -> bool:
        """Tell whether to look for what others have moved: after `LOOK` seconds."""
        due = clocks.steady - self._looked >= LOOK
        if due:
            self._looked = clocks.steady
        return due
