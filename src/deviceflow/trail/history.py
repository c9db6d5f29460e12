"""Saying whether what a flow's events tell can have been so, where their chain is whole."""

from __future__ import annotations

from datetime import datetime
from math import inf
from typing import TYPE_CHECKING, Final

from deviceflow.audit.events import STORE
from deviceflow.core.actions import IMPORT, LATE_TOKEN, STORE_EVENTS
from deviceflow.core.states import Handover, Reason
from deviceflow.trail.evidence import (
    HASH,
    LEGAL,
    SEQ,
    at,
    before,
    is_as_its_event_says,
    is_where_it_was_led,
    may_be_gone,
    said_by,
)
from deviceflow.trail.ledger import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from deviceflow.trail.evidence import Evidence, Standing

EDITED_ROW: Final = "the login's row is not as it was written: its digest or its MAC is another"

CLOCK_TOLERANCE: Final = 1.0
"""Seconds by which one event's time may be before the time of the one before."""

_NO_LATE_TOKEN: Final = (Reason.DENIED, Reason.CANCELLED)


def strange(evidence: Evidence) -> Iterator[Finding]:
    """Yield what is wrong with a chain that is whole: whose it is, first of all."""
    events = [said_by(row) for row in evidence.rows]
    others = list(_beside_digests(evidence)) or list(_beyond(evidence, events))
    yield from others
    if not others:
        yield from _history(evidence.flow_id, events)
        yield from _beside_flow(evidence, events)


def _beside_digests(evidence: Evidence) -> Iterator[Finding]:
    """Say whether a chain that is whole is another than digests have seen."""
    hashes = {row[SEQ]: row[HASH] for row in evidence.rows}
    for head in evidence.heads:
        if hashes.get(head.seq) != head.hash:
            said = f"event {head.seq} is not the one that digest {head.digest} has seen"
            yield Finding("replaced_chain", evidence.flow_id, head.seq, said)
            return


def _beyond(evidence: Evidence, events: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Say which events only the flow's record speaks against, where there is no key to tell."""
    stored = evidence.stored
    if evidence.key is not None or stored is None or type(stored.seq) is not int:
        return
    known = max((stored.seq, *(head.seq for head in evidence.heads)))
    before = [event for event in events if event["seq"] <= known]
    if before and is_where_it_was_led(stored, before[-1]):
        for event in events[len(before) :]:
            said = "the flow knows nothing of this event"
            yield Finding("inserted", evidence.flow_id, event["seq"], said)


def _history(flow_id: str, events: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Say whether what happened can have happened so."""
    first = events[0]
    if first["seq"] != 1 and first["action"] != IMPORT:
        said = f"{first['action']} is not where a flow begins"
        yield Finding("illegal_transition", flow_id, first["seq"], said)
    standing = before(first)
    reason, time = None, ""
    for event in events:
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
            said = _illegal(action, standing, dest)
            yield Finding("illegal_transition", flow_id, event["seq"], said)
        if event["time"] < time and _seconds(event["time"], time) > CLOCK_TOLERANCE:
            said = f"its time is before that of the event before: {event['time']}"
            yield Finding("clock_backwards", flow_id, event["seq"], said)
        standing, reason, time = led, event["reason"], event["time"]


def _illegal(action: str, standing: Standing, dest: str | None) -> str:
    state, handover = standing
    if dest in {LEGAL[step][0] for of in Handover if (step := (action, state, of)) in LEGAL}:
        return f"{action} cannot happen to a token that is {handover}"
    return f"{action} does not lead from {state} to {dest}"


def _seconds(earlier: str, later: str) -> float:
    try:
        parted = datetime.fromisoformat(later) - datetime.fromisoformat(earlier)
    except (TypeError, ValueError):
        return inf  # whoever wrote that is no clock of ours
    return parted.total_seconds()


def _beside_flow(evidence: Evidence, events: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Say whether the flow stands where its events lead to."""
    flow_id, stored, last = evidence.flow_id, evidence.stored, events[-1]
    if evidence.alone or flow_id == STORE:
        return
    if stored is None:
        if not may_be_gone(events):
            said = (
                f"the flow is gone, and was {last['to']}: only ended ones without a token are"
                " dropped"
            )
            yield Finding("wrong_state", flow_id, last["seq"], said)
        return
    if not is_where_it_was_led(stored, last):
        said = (
            f"the flow is {stored.state} at event {stored.seq}, or is not what its last event says"
        )
        yield Finding("wrong_state", flow_id, last["seq"], said)
    elif not is_as_its_event_says(stored, last):
        yield Finding("edited_row", flow_id, last["seq"], EDITED_ROW)
