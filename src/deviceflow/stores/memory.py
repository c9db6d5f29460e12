"""Logins and grants in this process's memory."""

from __future__ import annotations

import threading
from math import inf
from typing import TYPE_CHECKING, Any, Final, TypeVar

from deviceflow import _forks as forks
from deviceflow.core.flow import Flow
from deviceflow.core.grant import Grant
from deviceflow.core.ports import FIRST_SNOOZE, Claim, LeaseHeld, Page, Stored, UpcomingFlow
from deviceflow.core.secret import Secret
from deviceflow.core.states import GrantState
from deviceflow.errors import UnknownLoginError, UsageError
from deviceflow.stores._leases import steady_of
from deviceflow.stores._parked import Parked, fixed_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from deviceflow.core.ports import By, Decide, GrantLease, StoreEvent
    from deviceflow.core.queries import Query
    from deviceflow.core.uses import Use

_R = TypeVar("_R", Flow, Grant)
_T = TypeVar("_T")

_GRANT_SNOOZE: Final = 3600.0
_MOST_SNOOZES: Final = 6


class _Entry:
    """A login or a grant, and what the store knows besides.

    Attributes:
        record: The grant, or the login as it is kept.
        owner: Who has the lease, or had it last and did not give it back.
        until: When the lease ends, by the monotonic clock.
        previous_owner: Who had it before, and did not give it back.
        snoozes: How often the login was put off.
        hidden_until: When the grant is found again, and
        silent_until: when somebody may be notified of it.
        used_at: When the grant was used last.
        uses: By what.
    """

    __slots__ = (
        *("hidden_until", "owner", "previous_owner", "record", "silent_until", "snoozes", "until"),
        *("used_at", "uses"),
    )

    def __init__(self, record: Any) -> None:
        self.record = record
        self.owner: str | None = None
        self.previous_owner: str | None = None
        self.until = self.hidden_until = self.silent_until = 0.0
        self.snoozes = 0
        self.used_at: float | None = None
        self.uses: tuple[Use, ...] = ()

    def held(self, owner: str | None, now: float) -> float:
        """Return for how many seconds others hold the lease; 0 or less if none do."""
        return 0.0 if self.owner in (owner, None) else self.until - steady_of(now)

    def release(self, owner: str | None) -> None:
        if owner is not None and self.owner == owner:
            self.owner = None


class MemoryStore:
    """Keeps logins and grants in memory while the process lives, and writes nothing to the disk.

    A forked child gets a copy of the logins, the grants and their leases, and neither process sees
    what the other one does from then on. Only one of the two may continue them: both would poll
    with the same code, and the server gives the token to only one of them; and both would send the
    same refresh token, after which a server with reuse detection revokes the grant.
    """

    durable = False
    keeps_trail = False

    def __init__(self) -> None:
        self._renew_lock()
        forks.in_child(self._renew_lock)
        self._entries: dict[type[Any], dict[str, _Entry]] = {Flow: {}, Grant: {}}
        self._names: dict[type[Any], dict[str, str]] = {Flow: {}, Grant: {}}

    def __len__(self) -> int:
        return len(self._entries[Flow])

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    # The protocol; see `Store`.

    def now(self, client_now: float) -> float:
        """Return the given time."""
        return client_now

    def add(self, flow: Flow, *, store_event: StoreEvent | None = None) -> Flow:  # noqa: ARG002
        """Keep a new login, or return the open one of the same name instead."""
        with self._lock:
            known = self._find(Flow, flow.name, "name") if flow.name is not None else None
            if known is not None:
                kept: Flow = _copy(known)
                return kept
            if flow.id in self._entries[Flow]:
                raise UsageError("A flow of this id is in the store already.", flow_id=flow.id)
            self._entries[Flow][flow.id] = _Entry(_Parked(flow))
            if flow.name is not None and flow.open:
                self._names[Flow][flow.name] = flow.id
        return flow

    def load(
        self,
        kind: type[_R],
        key: str | Secret,
        client_now: float = 0.0,
        *,
        by: By = "id",
        secrets: bool = True,
    ) -> Stored[_R] | None:
        """Return a copy of a login or a grant; None if there is none."""
        with self._lock:
            entry = self._find(kind, key, by)
            return None if entry is None else _stored(entry, client_now, secrets=secrets)

    def page(
        self,
        kind: type[_R],
        client_now: float,
        after: Any = None,  # noqa: ARG002  # there is only one page
        *,
        skip_ended: bool = False,
    ) -> Page[_R]:
        """Return all logins, newest first, or all grants, by their names."""
        with self._lock:
            entries = self._entries[kind].values()
            found: list[Any] = [_stored(entry, client_now, secrets=False) for entry in entries]
        if kind is Grant:
            found.sort(key=lambda one: one.record.name)
        else:
            found = [one for one in found if not (skip_ended and one.record.state.ended)]
            found.sort(key=lambda one: one.record.created_at, reverse=True)
        return Page(found, None)

    def claim(
        self,
        flow_id: str,
        owner: str,
        client_now: float,
        seconds: float,
        decide: Decide | None = None,
    ) -> Claim | LeaseHeld:
        """Take the login's lease, or return the lease that another worker holds."""
        now = float(client_now)
        with self._lock:
            entry = self._entries[Flow].get(flow_id)
            if entry is None:
                raise UnknownLoginError(flow_id=flow_id)
            flow: Flow = _copy(entry)
            if (left := entry.held(owner, client_now)) > 0:
                return LeaseHeld(_bare(flow), left)
            previous = entry.previous_owner if entry.owner in (owner, None) else entry.owner
            event = None if decide is None else decide(Claim(flow, now, previous))
            entry.owner, entry.until = owner, steady_of(client_now) + seconds
            entry.previous_owner = previous
            if event is not None:
                self._keep(entry, flow)
        return Claim(flow, now, previous, event)

    def restart_lease(self, subject_id: str, since: float, client_now: float) -> None:
        """Do nothing: all leases are by this machine's clock."""

    def wake_after_clock_change(self, client_now: float) -> None:
        """Do nothing: a client's own clock is never set back."""

    def commit(
        self,
        record: Flow | Grant,
        event: dict[str, Any],
        *,
        release: str | None = None,
        lease: GrantLease | None = None,
        store_event: StoreEvent | None = None,  # noqa: ARG002
        flow: Flow | None = None,
        flow_event: dict[str, Any] | None = None,
    ) -> bool:
        """Keep a record as it is after `event`, and a login with it, unless others went on.

        Events are not kept: in memory the log is all there is of a login's history.
        """
        with self._lock:
            entry = self._entries[type(record)].get(record.id)
            if isinstance(record, Flow) and entry is not None:
                entry.release(release)
            if _is_done(entry, event):
                return True  # done already, and only the file of the trail failed
            if not self._may_move(record, entry, event, lease):
                return False
            if flow is not None and flow_event is not None:
                other = self._entries[Flow].get(flow.id)
                if not _is_done(other, flow_event):
                    if other is None or not self._may_move(flow, other, flow_event, None):
                        return False
                    self._keep(other, flow)
            if entry is None:
                entry = self._entries[Grant][record.id] = _Entry(None)
                self._names[Grant][str(record.name)] = record.id
            self._keep(entry, record)
            if lease is not None:
                entry.owner = lease.owner
                entry.until = steady_of(lease.client_now) + lease.seconds
            else:
                entry.release(release)
            return True

    def release(self, flow_id: str, owner: str, *, due: Flow | None = None) -> None:
        """Give the lease back, if `owner` still has it."""
        with self._lock:
            entry = self._entries[Flow].get(flow_id)
            if entry is None:
                return
            if due is None:
                entry.release(owner)
            elif entry.owner == owner and entry.record.seq == due.seq:
                entry.owner, entry.snoozes, entry.record.wake_at = None, 0, _wake_at(due)

    def put_off(
        self, kind: type[Flow | Grant], key: str, client_now: float, owner: str | None = None
    ) -> None:
        """Have no sweep find a login or a grant for a while."""
        with self._lock:
            entry = self._find(kind, key, "id" if kind is Flow else "name")
            if entry is None:
                return
            if kind is Grant:
                entry.hidden_until = client_now + _GRANT_SNOOZE
                if _is_to_tell(entry, client_now):
                    entry.silent_until = client_now + _GRANT_SNOOZE
            elif entry.held(owner, client_now) <= 0:
                entry.owner = None
                entry.record.wake_at = client_now + FIRST_SNOOZE * 2**entry.snoozes
                entry.snoozes = min(entry.snoozes + 1, _MOST_SNOOZES)

    def claim_notice(self, grant_id: str, client_now: float, seconds: float) -> bool:
        """Put off what is to be notified of a grant, and return whether it was due."""
        with self._lock:
            entry = self._entries[Grant].get(grant_id)
            if entry is None or not _is_to_tell(entry, client_now):
                return False
            entry.silent_until = client_now + seconds
            return True

    def use(self, grant_id: str, client_now: float, uses: tuple[Use, ...]) -> None:
        """Note that a grant is used, and by what."""
        with self._lock:
            if (entry := self._entries[Grant].get(grant_id)) is not None:
                entry.used_at, entry.uses = float(client_now), uses

    def select(self, query: Query[_T], client_now: float) -> list[_T]:
        """Return the answers to a query of `deviceflow.core.queries`."""
        with self._lock:
            answer: Callable[..., Iterable[_T]] = getattr(self, f"_{query.name}")
            return [*answer(client_now, **query.values)]

    def delete(self, records: Sequence[Flow | Grant]) -> int:
        """Delete logins or grants, each if it is still at the same transition."""
        with self._lock:
            found = [one for one in records if self._seq(type(one), one.id) == one.seq]
            for record in found:
                self._remove(type(record), record.id)
        return len(found)

    def append(self, event: StoreEvent) -> None:
        """Do nothing: in memory the log is all there is."""

    def remove(self, flow_id: str) -> None:
        """Forget a login; unknown ones are forgotten already."""
        with self._lock:
            self._remove(Flow, flow_id)

    def close(self) -> None:
        """Keep what there is: it lives as long as this object does."""

    # All under the lock.

    def _find(self, kind: type[Any], key: str | Secret, by: By) -> _Entry | None:
        entries = self._entries[kind]
        if isinstance(key, Secret):
            needs = ((entry, entry.record.need) for entry in entries.values())
            return next((entry for entry, need in needs if need and need.link == key), None)
        return entries.get(key if by == "id" else self._names[kind].get(key, ""))

    def _seq(self, kind: type[Any], record_id: str) -> int | None:
        entry = self._entries[kind].get(record_id)
        return None if entry is None else entry.record.seq

    def _may_move(
        self,
        record: Flow | Grant,
        entry: _Entry | None,
        event: dict[str, Any],
        lease: GrantLease | None,
    ) -> bool:
        if entry is None:
            # The first transition of a grant adds it, unless another one has its name.
            taken = isinstance(record, Flow) or record.name in self._names[Grant]
            return event["seq"] == 1 and not taken
        if entry.record.seq != event["seq"] - 1:
            return False
        free = lease is None or entry.owner in (lease.owner, lease.ended)
        return free or (lease is not None and entry.held(lease.owner, lease.client_now) <= 0)

    def _keep(self, entry: _Entry, record: Flow | Grant) -> None:
        entry.snoozes, entry.previous_owner = 0, None
        entry.hidden_until = entry.silent_until = 0.0
        if isinstance(record, Grant):
            entry.record = record.copy()
            return
        entry.record.keep(record)
        if record.name is not None and not record.open:
            self._free(Flow, record.name, record.id)

    def _remove(self, kind: type[Any], record_id: str) -> None:
        entry = self._entries[kind].pop(record_id, None)
        if entry is not None and (name := _copy(entry).name) is not None:
            self._free(kind, name, record_id)

    def _free(self, kind: type[Any], name: str, record_id: str) -> None:
        if self._names[kind].get(name) == record_id:
            del self._names[kind][name]

    # The queries.

    def _upcoming(self, now: float, *, ahead: float, grace: float | None) -> Iterator[UpcomingFlow]:
        left_behind = -inf if grace is None else now - grace
        found = [
            entry.record
            for entry in self._entries[Flow].values()
            if entry.record.wake_at <= (now + ahead if entry.record.seq <= 1 else left_behind)
            and entry.held(None, now) <= 0
        ]
        for one in sorted(found, key=lambda one: one.wake_at):
            yield UpcomingFlow(one.flow_id, one.seq, one.wake_at, float(now), one.server)

    def _pending(self, _now: float) -> Iterator[bool]:
        for entry in self._entries[Flow].values():
            waits = entry.record.wake_at < inf and not entry.record.state.ended
            if waits and not entry.snoozes:
                yield True
                return

    def _foreign_leases(self, _now: float) -> tuple[()]:
        return ()  # all leases are by this machine's clock

    def _ended(self, before: float) -> Iterator[Flow]:
        for entry in self._entries[Flow].values():
            flow: Flow | None = _copy(entry) if entry.record.state.ended else None
            if flow is not None and flow.ended_at is not None and flow.ended_at <= before:
                yield flow

    def _with_token(self, _now: float, *, ended_before: float, skip: int) -> list[str]:
        return [flow.id for flow in self._ended(ended_before) if flow.token][skip:]

    def _with_revoke(self, _now: float, *, ended_before: float, skip: int) -> list[str]:
        return [flow.id for flow in self._ended(ended_before) if flow.to_revoke][skip:]

    def _without_secrets(self, now: float, *, ended_before: float, skip: int) -> list[Stored[Flow]]:
        found = [flow for flow in self._ended(ended_before) if not (flow.token or flow.to_revoke)]
        entries = self._entries[Flow]
        return [_stored(entries[flow.id], now, secrets=False) for flow in found[skip:]]

    def _due_grants(self, now: float, *, unused: float, limit: int) -> list[tuple[str, str]]:
        due = list[tuple[float, str, str]]()
        for entry in self._entries[Grant].values():
            grant: Grant = entry.record
            in_use = entry.used_at is not None and entry.used_at >= now - unused
            if grant.wake_at is None or entry.held(None, now) > 0:
                continue
            if not (in_use or grant.state is GrantState.REVOKED):
                continue
            wake_at = max(grant.wake_at, entry.hidden_until)
            if wake_at <= now:
                due.append((wake_at, grant.name, grant.provider.server))
        return [(name, server) for _, name, server in sorted(due)[:limit]]

    def _due_notices(self, now: float, *, limit: int) -> list[str]:
        entries = self._entries[Grant].values()
        return [entry.record.name for entry in entries if _is_to_tell(entry, now)][:limit]

    def _ended_grants(self, _now: float, *, ended_before: float, after: str) -> list[str]:
        return sorted(
            entry.record.name
            for entry in self._entries[Grant].values()
            if entry.record.purge_from is not None
            and entry.record.purge_from <= ended_before
            and entry.record.name > after
        )


def _is_done(entry: _Entry | None, event: dict[str, Any]) -> bool:
    return entry is not None and bool(event["hash"]) and entry.record.head == event["hash"]


def _is_to_tell(entry: _Entry, now: float) -> bool:
    return entry.record.need_to_tell(now) is not None and entry.silent_until <= now


def _copy(entry: _Entry) -> Any:
    record = entry.record
    return record.copy() if isinstance(record, Grant) else _unpark(record)


def _stored(entry: _Entry, now: float, *, secrets: bool) -> Stored[Any]:
    record = _copy(entry)
    if isinstance(record, Flow) and not secrets:
        _bare(record)
    held = max(0.0, entry.held(None, now))
    return Stored(record, float(now), entry.used_at, held, entry.owner, entry.uses)


def _bare(flow: Flow) -> Flow:
    flow.device_code = flow.verifier = flow.token = None
    flow.to_revoke = ()
    return flow


class _Parked(Parked):
    """A login as it is kept, with when it is due.

    A login that was read from here has as `as_stored` what of it is kept as bytes.
    """

    __slots__ = ("head", "wake_at")

    def __init__(self, flow: Flow) -> None:
        super().__init__(flow)
        self._note(flow)

    def keep(self, flow: Flow) -> None:
        """Take over what has changed of the login since it was read from here."""
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
    return inf if flow.wake_at is None else flow.wake_at
