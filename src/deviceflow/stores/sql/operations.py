"""Which statements an operation runs, and in which order: written once, for every connection.

Each function returns an `Operation`. What is computed before is computed once; the generator in it
is begun anew where a connection was lost, and must then find out whether it was done before. None
of them does I/O: a test can drive one by a list of rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from deviceflow.audit.chain import DAMAGED, link, omit, read, row_of
from deviceflow.audit.events import STORE, render, render_store_event
from deviceflow.core.actions import ACTIONS, POLL, PRUNE
from deviceflow.core.ports import Claim, LeaseHeld, Origin
from deviceflow.core.sanitize import storable
from deviceflow.core.secret import Hidden
from deviceflow.errors import DeviceFlowError, StoreError, UnknownLoginError, UsageError
from deviceflow.stores import _leases as leases
from deviceflow.stores.sql.rows import COLUMNS, damaged

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from deviceflow.audit.chain import AuditKey
    from deviceflow.core.actions import Action
    from deviceflow.core.flow import Flow
    from deviceflow.core.ports import Decide, StoreEvent
    from deviceflow.stores.sql.connection import Operation, Statements
    from deviceflow.stores.sql.remembered import RememberedFlows
    from deviceflow.stores.sql.rows import Rows

    Values = dict[str, Any]
    Row = Sequence[Any]

NOBODY: Final = Origin()
_TRIES: Final = 3
_HIGHEST: Final = 2**53
_NOW: Final = len(COLUMNS)
_MAC: Final = COLUMNS.index("mac")
_PROGRESS: Final = COLUMNS.index("progress")
_RECORD: Final = COLUMNS.index("record")
_SEQ: Final = COLUMNS.index("seq")


class Operations:
    """The operations on one store.

    Args:
        rows: Makes rows of flows, and flows of rows.
        audit_key: Authenticates events; None where none may be written.
        remembered: The flows that this process drives.
        summarize: Whether the trail leaves pending polls out.
    """

    def __init__(
        self,
        rows: Rows,
        audit_key: AuditKey | None,
        remembered: RememberedFlows,
        *,
        summarize: bool = False,
    ) -> None:
        self._rows = rows
        self._audit_key = audit_key
        self._remembered = remembered
        self._summarize = summarize

    # Keeping a flow.

    def add(
        self, flow: Flow, store_event: StoreEvent | None, client_now: float
    ) -> tuple[Operation[Flow], Values | None]:
        """Add a flow, or return the open one of the same name instead.

        Returns:
            The operation, and the event that is kept with it where the flow has a past: its events
            so far are elsewhere, and its chain here begins with saying so.
        """
        event = noted = None
        if flow.seq:
            flow.head = flow.omitted = None  # the chain here begins with the import
            event = render(flow, flow.record_import(client_now))
        self._rows.seal(flow)
        if event is None:
            digest, columns = self._rows.columns(flow)
            assert self._audit_key is not None  # noqa: S101  # the store may be written
            self._rows.sign(columns, digest, self._audit_key.mark(digest))
        else:
            columns, noted = self._linked(flow, event)
        values = columns.reveal()

        def attempt(now: float) -> Statements[Flow]:
            # The flow that has the name may end between two statements.
            for _ in range(_TRIES):
                if (yield "add", values).rowcount == 1:
                    yield from self._add_events(noted, store_event, now)
                    return flow
                looked = values | {"now": now}
                found = (yield "get", looked).fetchone()
                found = found or (yield "get_by_open_name", looked).fetchone()
                if found is not None:
                    return self._added(flow, values, Hidden(found))
            raise ignored(flow.id)

        return attempt, event

    def _added(self, flow: Flow, values: Values, row: Hidden[Row]) -> Flow:
        found = self._rows.flow(row)
        if found.id != flow.id:
            return found
        same = (row.reveal()[_RECORD], row.reveal()[_PROGRESS])
        if same != (values["record"], values["progress"]):
            raise UsageError("A flow of this id is in the store already.", flow_id=flow.id)
        # Added already, and the connection was lost just then.
        flow.as_stored = found.as_stored
        return flow

    def commit(
        self,
        flow: Flow,
        event: Values,
        release: str | None,
        store_event: StoreEvent | None,
    ) -> tuple[Operation[bool], Hidden[Values]]:
        """Keep a flow as it is after `event`, and that with it, unless others went on.

        Returns:
            The operation, and the columns that it writes.
        """
        columns, noted = self._linked(flow, event)
        columns.reveal().update(release=release, event=noted)
        statement = "turn" if flow.as_stored.columns is not None else "move"

        def attempt(now: float) -> Statements[bool]:
            values = columns.reveal()
            changed = (yield statement, values).rowcount
            if changed == 1:
                yield from self._add_events(noted, store_event, now)
                return True
            # Done already, if the connection was lost just as it was being done.
            found = (yield "text_of_event", values).fetchone()
            if found is not None and worker_of(found[0]) == event["worker"]:
                return True
            stored = (yield "get", values | {"now": now}).fetchone()
            if noted is None and stored is not None and stored[_MAC] == values["mac"]:
                return True
            if changed or (stored is not None and stored[_SEQ] == values["before"]):
                raise ignored(flow.id)
            if release is not None:
                yield "release", {"id": flow.id, "owner": release}
            return False

        return attempt, columns

    def _linked(self, flow: Flow, event: Values) -> tuple[Hidden[Values], Values | None]:
        """Make an event the next link of its flow's chain.

        Returns:
            The flow's row that goes with it, and the event's own; None if the trail leaves it out.
        """
        # Tried again, it is the very same row: the event names its digest.
        again = event["hash"] is not None
        if not again and (ACTIONS[event["action"]].changes_secrets or flow.as_stored is None):
            self._rows.seal(flow)
        left_out = flow.omitted is not None if again else self._is_left_out(flow, event)
        digest, columns = self._rows.columns(flow)
        if not again:
            event["row_digest"] = digest
        text = link(event, flow.head, self._audit_key, flow)
        head = flow.head = str(event["hash"])
        if left_out and self._audit_key is not None:
            # No stored event names the row's digest: the audit key vouches for the row instead.
            head = f"{head} {self._audit_key.mark(f'{digest} {head}')}"
        self._rows.sign(columns, digest, head)
        columns.reveal()["before"] = event["seq"] - 1
        return columns, None if left_out else row_of(event, text)

    def _is_left_out(self, flow: Flow, event: Values) -> bool:
        # Asked for each event: most trails leave none out.
        if not self._summarize and flow.omitted is None:
            return False
        return omit(event, flow, summarize=self._summarize)

    def _add_events(
        self, noted: Values | None, store_event: StoreEvent | None, now: float
    ) -> Statements[None]:
        if noted is not None and (yield "add_event", noted).rowcount != 1:
            raise ignored(noted["flow_id"])
        if store_event is not None:
            yield from self._add_store_event(store_event, now)

    # Leases.

    def claim(
        self, flow_id: str, owner: str, seconds: float, decide: Decide | None
    ) -> Operation[Claim | LeaseHeld]:
        """Take a flow's lease, or say who has it; and keep with it what is decided on."""
        claiming = _Claiming(self._linked, self._remembered, owner, seconds, decide)

        def attempt(now: float) -> Statements[Claim | LeaseHeld]:
            claim = yield from claiming.poll(flow_id, now)
            if claim is not None:
                return claim
            row = (yield "lock", leases.times(now) | {"id": storable(flow_id)}).fetchone()
            if row is None:
                raise UnknownLoginError(flow_id=flow_id)
            lease = _Lease(row[_NOW:], owner)
            if lease.left.seconds > 0:
                return LeaseHeld(self._rows.flow(Hidden(row), secrets=False), *lease.left)
            flow = self._rows.flow(Hidden(row))
            return (yield from claiming.read(flow, row[_MAC], lease, now))

        return attempt

    def claim_due(
        self, owner: str, seconds: float, decide: Decide | None
    ) -> Operation[Claim | DeviceFlowError | None]:
        """Take the lease of the flow that has been due the longest; likewise.

        The operation returns the error of one that cannot be read, whose lease is taken as well.
        """
        claiming = _Claiming(self._linked, self._remembered, owner, seconds, decide)

        def attempt(now: float) -> Statements[Claim | DeviceFlowError | None]:
            looked = leases.times(now) | {"owner": owner, "seconds": seconds}
            due = (yield "find_due", looked).fetchone()
            if due is None:
                return None
            flow_id: Any = due[0]
            claim = yield from claiming.poll(flow_id, now)
            if claim is not None:
                return claim
            row = (yield "lock", looked | {"id": flow_id}).fetchone()
            problem: DeviceFlowError = damaged(flow_id)
            if row is not None:  # an id that is not text may not be found
                try:
                    flow = self._rows.flow(Hidden(row))
                except DeviceFlowError as unreadable:
                    problem = unreadable
                else:
                    lease = _Lease(row[_NOW:], owner)
                    return (yield from claiming.read(flow, row[_MAC], lease, now))
            yield "lease_due", looked
            return problem

        return attempt

    def restart_lease(self, subject_id: str, since: float) -> Operation[None]:
        """Have the lease of a flow or a grant last its whole duration from now."""
        values = {"id": subject_id, "since": since}

        def attempt(now: float) -> Statements[None]:
            for name in ("restart_lease", "restart_grant_lease"):
                yield name, leases.times(now) | values

        return attempt

    # The store's own events, and what they tell of.

    def record_store_event(self, event: StoreEvent) -> Operation[None]:
        """Put on record what belongs to no flow."""
        return lambda now: self._add_store_event(event, now)

    def _add_store_event(self, event: StoreEvent, now: float) -> Statements[None]:
        action, _, detail, origin = event
        return add_store_event(self._audit_key, now, action, detail, origin)

    def delete(self, rows: Sequence[Mapping[str, Any]]) -> Operation[int]:
        """Drop flows, each if its row is still this one; return how many."""

        def attempt(_now: float) -> Statements[int]:
            gone = 0
            for row in rows:
                gone += (yield "delete", row).rowcount
            return gone

        return attempt

    def prune(self, ended: Collection[str], waiting: Mapping[str, int]) -> Operation[None]:
        """Drop events of flows, and put that on record.

        Args:
            ended: The flows whose events are all dropped.
            waiting: The flows that keep their events from a number on.
        """

        def attempt(now: float) -> Statements[None]:
            for flow_id in ended:
                yield "delete_events", {"id": flow_id}
            for flow_id, seq in waiting.items():
                yield "delete_events_before", {"id": flow_id, "seq": seq}
            about = f"the events of {len(ended)} flows"
            if waiting:
                about += f", and the first events of {len(waiting)} flows that have not ended"
            yield from add_store_event(self._audit_key, now, PRUNE, about)

        return attempt


class _Lease:
    """What a row says of its lease, whatever somebody has put there.

    Attributes:
        now: The time.
        left: What is left of it, if others have it.
        previous_owner: Who had it before, and never gave it back.
    """

    __slots__ = ("left", "now", "previous_owner")

    def __init__(self, columns: Row, owner: str) -> None:
        self.now, holder, previous_owner, *lasts = columns
        self.left = leases.LeaseLeft(0.0) if holder == owner else leases.left(*lasts)
        self.previous_owner = previous_owner if holder in (None, owner) else holder


class _Claiming:
    """A claim, for as many attempts as it takes."""

    def __init__(
        self,
        link_to_row: Callable[[Flow, Values], tuple[Hidden[Values], Values | None]],
        remembered: RememberedFlows,
        owner: str,
        seconds: float,
        decide: Decide | None,
    ) -> None:
        self._link_to_row = link_to_row
        self._remembered = remembered
        self._lease: Values = {"owner": owner, "seconds": seconds}
        self._decide = decide
        self._kept: tuple[str, Claim] | None = None

    def poll(self, flow_id: str, now: float) -> Statements[Claim | None]:
        """Poll a flow that is remembered, if one is, and its row is as it was written then."""
        known = self._decide and self._remembered.take(flow_id)
        if not (known and self._decide):
            return None
        flow, fence = known.opened()
        claim = Claim(flow, float(now))
        event = self._decide(claim)
        if event is None or event["action"] != POLL:
            return None
        row, noted = self._link_to_row(flow, event)
        values = row.reveal()
        values |= fence | self._lease | leases.times(now) | {"event": noted}
        if (yield "poll_remembered", values).rowcount != 1:
            return None
        return (yield from self._keep(claim, event, noted, values["mac"]))

    def read(self, flow: Flow, mac: str, lease: _Lease, now: float) -> Statements[Claim]:
        """Take the lease of a flow that was read, and keep what is decided on.

        Args:
            flow: The flow.
            mac: The MAC of its row.
            lease: Its lease.
            now: The client's time, where the database has no clock.
        """
        if self._kept is not None and mac == self._kept[0]:
            return self._kept[1]  # only the answer was lost
        claim = Claim(flow, lease.now, lease.previous_owner)
        event = None if self._decide is None else self._decide(claim)
        if event is None:
            values = self._lease | {"id": flow.id, "previous_owner": lease.previous_owner}
            if (yield "lease", values | leases.times(now)).rowcount != 1:
                raise ignored(flow.id)
            return claim
        row, noted = self._link_to_row(flow, event)
        values = row.reveal()
        values |= self._lease | leases.times(now) | {"event": noted}
        statement = "lease_and_move" if flow.as_stored.columns is None else "lease_and_turn"
        if (yield statement, values).rowcount != 1:
            raise ignored(flow.id)
        return (yield from self._keep(claim, event, noted, values["mac"]))

    def _keep(
        self, claim: Claim, event: Values, noted: Values | None, mac: str
    ) -> Statements[Claim]:
        if noted is not None and (yield "add_event", noted).rowcount != 1:
            raise ignored(claim.flow.id)
        claim = Claim(claim.flow, claim.now, claim.previous_owner, event)
        self._kept = (mac, claim)
        return claim


def add_store_event(
    key: AuditKey | None,
    now: float,
    action: Action,
    detail: str,
    origin: Origin = NOBODY,
) -> Statements[None]:
    """Put on record what belongs to no flow: the next link of the store's own chain.

    Args:
        key: What authenticates it.
        now: What time it is for the store.
        action: As in `StoreEvent`, like the rest.
        detail: Likewise.
        origin: Likewise.
    """
    yield "lock_store", {}  # one at a time
    seq, head, time = (yield "last_event", {"id": STORE}).fetchone() or (0, None, None)
    if not (isinstance(seq, int) and 0 <= seq < _HIGHEST and isinstance(head, str | None)):
        raise StoreError(
            "The store events are damaged, so no event can be added.",
            hint="Verify the trail: deviceflow audit verify",
        )
    previous = time if isinstance(time, str) else None
    event = render_store_event(action, now, seq + 1, detail, origin, previous=previous)
    noted = row_of(event, link(event, head, key))
    if (yield "add_event", noted).rowcount != 1:
        raise ignored(STORE)


def worker_of(text: object) -> str | None:
    """Return which worker an event names, by its text, whatever somebody has put there."""
    try:
        event, _ = read(text)
    except DAMAGED:
        return None
    worker: str | None = event["worker"]
    return worker


def query(name: str, values: Mapping[str, Any], *, secret: bool = False) -> Operation[list[Any]]:
    """Return all rows of a query, of which the value `now` is the time.

    Args:
        name: The query's name.
        values: Its values.
        secret: Whether the rows are of `flows`, and each of them is to be `Hidden`.
    """

    def attempt(now: float) -> Statements[list[Any]]:
        found = (yield name, {**leases.times(now), **values}).fetchall()
        return [*map(Hidden, found)] if secret else found

    return attempt


def statement(name: str, values: Mapping[str, Any]) -> Operation[int]:
    """Run one statement, for which the value `now` is the time; return how many rows it changed."""

    def attempt(now: float) -> Statements[int]:
        return (yield name, {**leases.times(now), **values}).rowcount

    return attempt


def ignored(flow_id: str) -> StoreError:
    """Return the error for a statement that did nothing, where it should have."""
    return StoreError(
        "The database ignored a statement without an error.",
        flow_id=flow_id,
        hint="Check whether its tables have triggers or rules, or lack their primary keys. Restore"
        " the store from a backup.",
    )
