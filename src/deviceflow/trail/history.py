"""Check the history that an intact chain tells: legal transitions, times, and the flow's row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deviceflow.audit.events import STORE
from deviceflow.core.actions import IMPORT, LATE_TOKEN, RECOVER, STORE_EVENTS
from deviceflow.core.omitted import Omitted, Reservation, dead_driver
from deviceflow.core.states import Handover, Reason
from deviceflow.trail.evidence import (
    CLOCK_TOLERANCE,
    HASH,
    LEGAL,
    SEQ,
    anchor_of,
    at,
    before,
    begun,
    claimed_by,
    has_open_need,
    is_as_its_event_says,
    is_held,
    is_of_grant,
    is_possible,
    is_told_by,
    is_where_it_was_led,
    may_be_gone,
    seconds_between,
    told_by_record,
    was_reserved,
)
from deviceflow.trail.ledger import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from deviceflow.trail.evidence import Drivers, Evidence, Standing

    # The numbers of events, with their times.
    _Times = list[tuple[int, str]]

EDITED_ROW: Final = "the login's row was changed: its digest or its MAC does not match"

_NO_LATE_TOKEN: Final = (Reason.DENIED, Reason.CANCELLED)


def faults_of_chain(evidence: Evidence) -> Iterator[Finding]:
    """Yield what is wrong with an intact chain: first, whether it is the original chain."""
    events = [claimed_by(row) for row in evidence.rows]
    others = list(_beside_digests(evidence)) or list(_beyond(evidence, events))
    yield from others
    if not others:
        yield from _history(evidence.flow_id, events, anchor_of(events[0], evidence.heads)[0])
        yield from faults_of_holds(evidence, events)
        yield from _beside_flow(evidence, events)


def _beside_digests(evidence: Evidence) -> Iterator[Finding]:
    """Report an intact chain that is not the one in the digests."""
    hashes = {row[SEQ]: row[HASH] for row in evidence.rows}
    anchor, _ = anchor_of(claimed_by(evidence.rows[0]), evidence.heads)
    for head in evidence.heads:
        if head.seq > anchor and hashes.get(head.seq) != head.hash:
            message = f"event {head.seq} has another hash than in digest {head.digest}"
            yield Finding("replaced_chain", evidence.flow_id, head.seq, message)
            return


def _beyond(evidence: Evidence, events: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Report events behind the last one that the flow's row names, if there is no audit key."""
    stored = evidence.stored
    if evidence.key is not None or stored is None or type(stored.seq) is not int:
        return
    told = told_by_record(evidence)
    seq = stored.seq if told is None else told[0]
    known = max((seq, *(head.seq for head in evidence.heads)))
    before = [event for event in events if event["seq"] <= known]
    if before and is_where_it_was_led(stored, before[-1]):
        for event in events[len(before) :]:
            message = "the event comes after the last event that the flow's row names"
            yield Finding("inserted", evidence.flow_id, event["seq"], message)


def _history(flow_id: str, events: Sequence[Mapping[str, Any]], anchor: int) -> Iterator[Finding]:
    """Report illegal transitions, and times that go backwards."""
    first = events[0]
    standing = before(first)
    if anchor:
        standing = begun(first)
    elif first["seq"] != 1 and first["action"] != IMPORT:
        message = f"a flow cannot begin with {first['action']}"
        yield Finding("illegal_transition", flow_id, first["seq"], message)
    reason = None
    times: _Times = []
    seq = anchor
    for number, event in enumerate(events):
        run = Omitted.of(event["omitted"])
        if run is not None and event["seq"] == seq + run.events + 1:
            standing = at(run.leads_from(standing[0]))
            yield from _unreserved(flow_id, run, event, events[:number])
            # A run that was not counted lasts until this event, whose own time comes below.
            for at_time in (run.since, run.until) if run.counted else (run.since,):
                yield from _backwards(flow_id, event, at_time, times)
                times.append((event["seq"] - 1, at_time))
        elif run is not None and not is_told_by(run, events[:number]):
            message = "it names other pending polls than the events before it"
            yield Finding("illegal_transition", flow_id, event["seq"], message)
        seq = event["seq"]
        action, source, dest = event["action"], event["from"], event["to"]
        led = at(dest)
        if flow_id == STORE:
            legal = action in STORE_EVENTS and (source, dest) == (None, None)
        elif event is first and action == IMPORT:
            legal = source == dest
        else:
            may = LEGAL.get((action, *standing))
            refused = action == LATE_TOKEN and reason in _NO_LATE_TOKEN
            legal = may is not None and (source, dest) == (standing[0], may[0]) and not refused
            led = may if may is not None and legal else led
        if not legal:
            message = _illegal(action, standing, dest)
            yield Finding("illegal_transition", flow_id, event["seq"], message)
        yield from _about_clock(flow_id, event, times)
        times.append((event["seq"], event["time"]))
        standing, reason = led, event["reason"]


def _unreserved(
    flow_id: str, run: Omitted, event: Mapping[str, Any], events: Sequence[Mapping[str, Any]]
) -> Iterator[Finding]:
    """Report that polls were left out that nobody reserved, or for which there was no time."""
    if not events:
        return  # the event before it was pruned
    if not run.counted and not was_reserved(run, event, events[-1]):
        message = "it leaves out polls that no poll before it has reserved"
        yield Finding("illegal_transition", flow_id, event["seq"], message)
    if run.counted and not is_possible(run, events[-1]):
        message = "it leaves out more polls than there was time for"
        yield Finding("illegal_transition", flow_id, event["seq"], message)


def faults_of_holds(evidence: Evidence, events: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Report holds that contradict what the store's own events say of who drives logins.

    A driver holds logins only after it has begun. It stops, or counts as dead, only once nothing is
    left of what it held.
    """
    drivers, holder = evidence.drivers, None
    if drivers is None:
        return
    ahead = sum(event["clock_ahead"] or 0 for event in events)
    unsure = (CLOCK_TOLERANCE + drivers.ahead + ahead,) * 2
    for event in events:
        run, dead = Omitted.of(event["omitted"]), dead_driver(event)
        if run is not None and run.counted:
            holder = None  # the hold may have ended by an answer that was left out
        elif holder is not None and event["action"] == RECOVER and dead != holder:
            message = f"it does not say that {holder} had held the login"
            yield Finding("illegal_transition", evidence.flow_id, event["seq"], message)
        before, reservation = dead or holder, Reservation.of(event)
        holder = None if reservation is None else reservation.driver
        for driver in {before, holder}:
            if driver is not None:
                yield from _not_driving(driver, drivers, event, unsure)
        # What was wrong before an event does not make the event's own time too late.
        unsure = (unsure[0], unsure[1] - (event["clock_ahead"] or 0))
    if holder in drivers.gone and is_held(evidence.stored):
        message = f"{holder} holds the login, and was gone at {drivers.gone[holder]}"
        yield Finding("illegal_transition", evidence.flow_id, events[-1]["seq"], message)


def _not_driving(
    driver: str, drivers: Drivers, event: Mapping[str, Any], unsure: tuple[float, float]
) -> Iterator[Finding]:
    """Report a driver that held a login at the time of an event, and drove none by then.

    Args:
        driver: The driver.
        drivers: All that the store's own events tell of.
        event: The event.
        unsure: By how many seconds the event's time may be too early, and too late.
    """
    flow_id, seq = event["flow_id"], event["seq"]
    begun, gone = drivers.begun.get(driver), drivers.gone.get(driver)
    if begun is None:
        message = f"{driver} held the login, and has never begun to hold logins"
        yield Finding("illegal_transition", flow_id, seq, message)
    elif seconds_between(event["time"], begun) > unsure[0]:
        message = f"{driver} held the login, and had not begun before {begun}"
        yield Finding("clock_backwards", flow_id, seq, message)
    elif gone is not None and seconds_between(gone, event["time"]) > unsure[1]:
        message = f"{driver} held the login until then, and was gone at {gone}"
        yield Finding("clock_backwards", flow_id, seq, message)


def _about_clock(flow_id: str, event: Mapping[str, Any], times: _Times) -> Iterator[Finding]:
    """Report a time before the previous event's, unless the event itself says so."""
    said = event["clock_ahead"]
    if said is None or not times:
        yield from _backwards(flow_id, event, event["time"], times)
    elif abs(seconds_between(event["time"], times[-1][1]) - said) > CLOCK_TOLERANCE:
        message = f"it says that its time is {said:g} s before the previous event's"
        yield Finding("clock_backwards", flow_id, event["seq"], message)
    else:
        yield from _wrong_clock(flow_id, event, times)


def _backwards(
    flow_id: str, event: Mapping[str, Any], at_time: str, times: _Times
) -> Iterator[Finding]:
    before = times[-1][1] if times else ""
    if at_time < before and seconds_between(at_time, before) > CLOCK_TOLERANCE:
        message = f"the event's time, {at_time}, is before the previous event's"
        yield Finding("clock_backwards", flow_id, event["seq"], message)


def _wrong_clock(flow_id: str, event: Mapping[str, Any], times: _Times) -> Iterator[Finding]:
    """Say which of the events before this one have a time after it, and how wrong they may be.

    They were recorded before it. So their clock was ahead, at least by the greatest difference; and
    at most by what it was ahead of the last event with an earlier time, which no time after may
    precede. Or this event's clock is behind by as much.

    Args:
        flow_id: The flow.
        event: The event, which says that it is earlier than the one before it.
        times: Those before it.
    """
    late = len(times)
    while late and times[late - 1][1] > event["time"]:
        late -= 1
    ahead = times[late:]
    least = max((seconds_between(event["time"], time) for _, time in ahead), default=0.0)
    if least <= CLOCK_TOLERANCE:
        return
    most = ""
    if late:
        most = f" and at most {seconds_between(times[late - 1][1], ahead[0][1]):.0f} s"
    which = f"event {ahead[0][0]}" if len(ahead) == 1 else f"events {ahead[0][0]} to {ahead[-1][0]}"
    message = (
        f"the clock of {which} was at least {least:.0f} s{most} ahead of this event's, as the event"
        " itself says: one of the two clocks was wrong"
    )
    yield Finding("wrong_clock", flow_id, event["seq"], message)


def _illegal(action: str, standing: Standing, dest: str | None) -> str:
    state, handover = standing
    if dest in {LEGAL[step][0] for of in Handover if (step := (action, state, of)) in LEGAL}:
        return f"{action} is not allowed when the hand-over is {handover}"
    return f"{action} does not lead from {state} to {dest}"


def _beside_flow(evidence: Evidence, events: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Report a flow whose row does not match the flow's last event."""
    flow_id, stored, last = evidence.flow_id, evidence.stored, events[-1]
    if evidence.alone or flow_id == STORE:
        return
    if stored is None:
        if not may_be_gone(events):
            message = (
                f"the flow was deleted in the state {last['to']}:"
                " only ended flows without a token are deleted"
            )
            if is_of_grant(events[0]) and has_open_need(events):
                message = (
                    "the grant was deleted while a person has to log in for it:"
                    " a purge ends the need first, and that is not on record"
                )
            yield Finding("wrong_state", flow_id, last["seq"], message)
        return
    if not is_where_it_was_led(stored, last):
        message = (
            f"the row's state is {stored.state} at event {stored.seq},"
            " which does not match the flow's last event"
        )
        if stored.authentic and (stored.seq, stored.head) in (
            (e["seq"], e["hash"]) for e in events
        ):
            message = (
                f"the row was set back to what it was after event {stored.seq}, {stored.state}:"
                " somebody has put an old copy of it into the store, which hides the events since"
                " then. Restore the whole store from a backup, or log in anew"
            )
        yield Finding("wrong_state", flow_id, last["seq"], message)
    elif not is_as_its_event_says(stored, last, evidence.key):
        yield Finding("edited_row", flow_id, last["seq"], EDITED_ROW)
