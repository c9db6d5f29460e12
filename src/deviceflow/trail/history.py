"""Check the history that an intact chain tells: legal transitions, times, and the flow's row."""

from __future__ import annotations

from datetime import datetime
from math import inf
from typing import TYPE_CHECKING, Final

from deviceflow.audit.events import STORE
from deviceflow.core.actions import IMPORT, LATE_TOKEN, STORE_EVENTS
from deviceflow.core.omitted import Omitted
from deviceflow.core.states import Handover, Reason
from deviceflow.trail.evidence import (
    HASH,
    LEGAL,
    SEQ,
    anchor_of,
    at,
    before,
    begun,
    claimed_by,
    is_as_its_event_says,
    is_told_by,
    is_where_it_was_led,
    may_be_gone,
    told_by_record,
)
from deviceflow.trail.ledger import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from deviceflow.trail.evidence import Evidence, Standing

EDITED_ROW: Final = "the login's row was changed: its digest or its MAC does not match"

CLOCK_TOLERANCE: Final = 1.0
"""Seconds by which an event's time may be before the time of the previous event."""

_NO_LATE_TOKEN: Final = (Reason.DENIED, Reason.CANCELLED)


def faults_of_chain(evidence: Evidence) -> Iterator[Finding]:
    """Yield what is wrong with an intact chain: first, whether it is the original chain."""
    events = [claimed_by(row) for row in evidence.rows]
    others = list(_beside_digests(evidence)) or list(_beyond(evidence, events))
    yield from others
    if not others:
        yield from _history(evidence.flow_id, events, anchor_of(events[0], evidence.heads)[0])
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
    reason, time = None, ""
    seq = anchor
    for number, event in enumerate(events):
        run = Omitted.of(event["omitted"])
        if run is not None and event["seq"] == seq + run.events + 1:
            standing = at(run.leads_from(standing[0]))
            for at_time in (run.since, run.until):
                yield from _backwards(flow_id, event, at_time, time)
                time = max(time, at_time)
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
        yield from _backwards(flow_id, event, event["time"], time)
        standing, reason, time = led, event["reason"], event["time"]


def _backwards(
    flow_id: str, event: Mapping[str, Any], at_time: str, before: str
) -> Iterator[Finding]:
    if at_time < before and _seconds(at_time, before) > CLOCK_TOLERANCE:
        message = f"the event's time, {at_time}, is before the previous event's"
        yield Finding("clock_backwards", flow_id, event["seq"], message)


def _illegal(action: str, standing: Standing, dest: str | None) -> str:
    state, handover = standing
    if dest in {LEGAL[step][0] for of in Handover if (step := (action, state, of)) in LEGAL}:
        return f"{action} is not allowed when the hand-over is {handover}"
    return f"{action} does not lead from {state} to {dest}"


def _seconds(earlier: str, later: str) -> float:
    try:
        parted = datetime.fromisoformat(later) - datetime.fromisoformat(earlier)
    except (TypeError, ValueError):
        return inf  # not a time that deviceflow writes
    return parted.total_seconds()


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
            yield Finding("wrong_state", flow_id, last["seq"], message)
        return
    if not is_where_it_was_led(stored, last):
        message = (
            f"the row's state is {stored.state} at event {stored.seq},"
            " which does not match the flow's last event"
        )
        yield Finding("wrong_state", flow_id, last["seq"], message)
    elif not is_as_its_event_says(stored, last, evidence.key):
        yield Finding("edited_row", flow_id, last["seq"], EDITED_ROW)
