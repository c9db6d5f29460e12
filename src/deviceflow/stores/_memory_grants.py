"""Grants in this process's memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from deviceflow.core.ports import StoredGrant
from deviceflow.core.states import GrantState
from deviceflow.stores._leases import steady_of

if TYPE_CHECKING:
    import threading

    from deviceflow.core.flow import Flow
    from deviceflow.core.grant import Grant
    from deviceflow.core.ports import GrantLease
    from deviceflow.core.secret import Secret
    from deviceflow.core.uses import Use

_SNOOZE: Final = 3600.0
_FREE: Final = ("", 0.0)
"""A lease: who has it, and until when by the monotonic clock."""


class MemoryGrants:
    """The methods of `Store` that are about grants."""

    _lock: threading.Lock

    def __init__(self) -> None:
        self._grants: dict[str, Grant] = {}
        self._grant_leases: dict[str, tuple[str, float]] = {}
        self._used: dict[str, tuple[float, tuple[Use, ...]]] = {}
        self._snoozed: dict[str, float] = {}
        self._notices: dict[str, float] = {}

    def _move(self, flow: Flow, event: dict[str, Any]) -> bool:
        """Keep the flow as it is after `event`, unless others went on meanwhile; under the lock."""
        raise NotImplementedError

    def load_grant(self, name: str, client_now: float) -> StoredGrant | None:
        """Return the grant of a name; None if there is none."""
        with self._lock:
            return self._load(self._grants.get(name), client_now)

    def load_grant_by_id(self, grant_id: str, client_now: float) -> StoredGrant | None:
        """Return the grant of an id; None if there is none."""
        with self._lock:
            return self._load(self._of_id(grant_id), client_now)

    def load_grant_by_link(self, link: Secret, client_now: float) -> StoredGrant | None:
        """Return the grant whose last need has this link; None if there is none."""
        with self._lock:
            return self._load(self._of_link(link), client_now)

    def commit_grant(
        self,
        grant: Grant,
        event: dict[str, Any],
        *,
        lease: GrantLease | None = None,
        release: str | None = None,
        flow: Flow | None = None,
        flow_event: dict[str, Any] | None = None,
    ) -> bool:
        """Keep a grant as it is after `event`, and a flow with it, unless others went on."""
        with self._lock:
            stored = self._grants.get(grant.name)
            if stored is not None and event["hash"] and stored.head == event["hash"]:
                return True  # done already, and only the file of the trail failed
            if (0 if stored is None else stored.seq) != event["seq"] - 1:
                return False
            if stored is not None and stored.id != grant.id:
                return False
            owner, until = self._grant_leases.get(grant.id, _FREE)
            free = lease is None or owner in (lease.owner, lease.ended)
            if lease is not None and not free and until > steady_of(lease.client_now):
                return False
            if flow is not None and flow_event is not None and not self._move(flow, flow_event):
                return False
            self._grants[grant.name] = grant.copy()
            self._snoozed.pop(grant.name, None)
            self._notices.pop(grant.id, None)
            if lease is not None:
                until = steady_of(lease.client_now) + lease.seconds
                self._grant_leases[grant.id] = (lease.owner, until)
            elif release is not None and owner == release:
                self._grant_leases.pop(grant.id, None)
            return True

    def use_grant(self, grant_id: str, client_now: float, uses: tuple[Use, ...]) -> None:
        """Note that the grant is used, and by what."""
        with self._lock:
            self._used[grant_id] = float(client_now), uses

    def grants(self, client_now: float, after: str | None = None) -> list[StoredGrant | str]:
        """Return all grants behind a name, by their names."""
        with self._lock:
            names = sorted(name for name in self._grants if after is None or name > after)
            loaded = [self._load(self._grants[name], client_now) for name in names]
        return [*filter(None, loaded)]

    def due_grants(self, client_now: float, unused: float, limit: int) -> list[tuple[str, str]]:
        """Return the names and servers of grants that are due, and nobody has a lease of."""
        due = list[tuple[float, str, str]]()
        with self._lock:
            for name, grant in self._grants.items():
                used = self._used.get(grant.id)
                in_use = used is not None and used[0] >= client_now - unused
                held = self._grant_leases.get(grant.id, _FREE)[1] > steady_of(client_now)
                wake_at = grant.wake_at
                if wake_at is None or held or not (in_use or grant.state is GrantState.REVOKED):
                    continue
                wake_at = max(wake_at, self._snoozed.get(name, wake_at))
                if wake_at <= client_now:
                    due.append((wake_at, name, grant.provider.server))
        return [(name, server) for _, name, server in sorted(due)[:limit]]

    def due_notices(self, client_now: float, limit: int) -> list[str]:
        """Return names of grants with a need that the program is to be notified of."""
        with self._lock:
            due = [name for name, one in self._grants.items() if self._is_due(one, client_now)]
        return due[:limit]

    def claim_notice(self, grant_id: str, client_now: float, seconds: float) -> bool:
        """Put off what is to be notified of a grant, and return whether it was due."""
        with self._lock:
            grant = self._of_id(grant_id)
            if grant is None or not self._is_due(grant, client_now):
                return False
            self._notices[grant_id] = client_now + seconds
        return True

    def _is_due(self, grant: Grant, client_now: float) -> bool:
        put_off = self._notices.get(grant.id, 0.0)
        return grant.need_to_tell(client_now) is not None and put_off <= client_now

    def ended_grants(self, ended_before: float, after: str | None = None) -> list[str]:
        """Return the names of grants behind a name that a purge looks at."""
        with self._lock:
            return sorted(
                name
                for name, grant in self._grants.items()
                if grant.purge_from is not None
                and grant.purge_from <= ended_before
                and (after is None or name > after)
            )

    def delete_grant(self, grant: Grant) -> bool:
        """Delete a grant, if it is still at the same transition; return whether it was deleted."""
        with self._lock:
            stored = self._grants.get(grant.name)
            if stored is None or (stored.id, stored.seq) != (grant.id, grant.seq):
                return False
            del self._grants[grant.name]
            self._grant_leases.pop(grant.id, None)
            self._used.pop(grant.id, None)
            self._snoozed.pop(grant.name, None)
            return True

    def snooze_grant(self, name: str, client_now: float) -> None:
        """Have no sweep find a grant for an hour."""
        with self._lock:
            self._snoozed[name] = client_now + _SNOOZE
            if (grant := self._grants.get(name)) is not None and self._is_due(grant, client_now):
                self._notices[grant.id] = client_now + _SNOOZE

    def _of_id(self, grant_id: str) -> Grant | None:
        return next((one for one in self._grants.values() if one.id == grant_id), None)

    def _of_link(self, link: Secret) -> Grant | None:
        for grant in self._grants.values():
            if grant.need is not None and grant.need.link == link:
                return grant
        return None

    def _load(self, grant: Grant | None, client_now: float) -> StoredGrant | None:
        if grant is None:
            return None
        owner, until = self._grant_leases.get(grant.id, _FREE)
        held = max(0.0, until - steady_of(client_now))
        used_at, uses = self._used.get(grant.id, (None, ()))
        return StoredGrant(grant.copy(), float(client_now), used_at, held, owner or None, uses)
