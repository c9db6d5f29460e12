"""The evidence on one flow: its events, its row in the store, and its entries in digests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deviceflow.audit.chain import DAMAGED, STORED, decode, read
from deviceflow.core.actions import ACTIONS, ENDS_HANDOVER, IMPORT, Kind, action_of
from deviceflow.core.states import AUTHORIZED, ENDS, INIT, NONE, WANTED, Handover

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from deviceflow.audit.chain import AuditKey
    from deviceflow.core.ports import StoredFlow
    from deviceflow.trail.ledger import Head

    Step = tuple[str, str | None, Handover | None]
    Standing = tuple[str | None, Handover | None]

FLOW, SEQ, TIME, HASH, MAC, TEXT = (
    STORED.index(name) for name in ("flow_id", "seq", "time", "hash", "mac", "text")
)


def _legal() -> Iterator[tuple[Step, Standing]]:
    for action in ACTIONS.values():
        for before_it, after_it in action.grant.items():
            yield (action, before_it, NONE), (after_it, NONE)
        if action is IMPORT:
            continue
        known = [(source, action.handover.get(source)) for source in Handover]
        dests = {dest for _, dest in known if dest is not None}
        # If the hand-over is unknown, an action that is declared for one of its states is legal.
        unknown = (None, dests.pop() if len(dests) == 1 else None)
        for source, dest in action.login.items():
            for handover, after in (*known, unknown):
                if after is not None or handover is None:
                    yield (action, source, handover), (dest, after)


LEGAL: Final[Mapping[Step, Standing]] = dict(_legal())
"""The legal steps of a login or a grant: an action with the states before and after it.

No state of a grant has the name of a login's. A grant has no hand-over: it counts as none. The
hand-over of a login that was imported in `authorized` is unknown at first: None.
"""


def at(state: str | None) -> Standing:
    """Return the states of a login if only the login's state is known."""
    return state, None if state == AUTHORIZED else NONE


def is_of_grant(first: Mapping[str, Any]) -> bool:
    """Tell by the first event of a chain whether the chain is a grant's."""
    return action_of(first["action"]).kind is Kind.GRANT


def before(first: Mapping[str, Any]) -> Standing:
    """Return the states of a login or a grant before its first event."""
    if is_of_grant(first):
        return at(WANTED.value)
    return at(first["from"] if first["action"] == IMPORT else INIT.value)


def claimed_by(row: Sequence[Any]) -> dict[str, Any]:
    """Parse a row's text, and return its event and hash. Raises one of `DAMAGED`."""
    event, _ = read(row[TEXT])
    event["hash"] = row[HASH]
    return event


class Evidence(NamedTuple):
    """The evidence on one flow.

    Attributes:
        flow_id: The flow.
        rows: Its events, as tuples in the order of `STORED`.
        stored: The flow's row in the store; None if the store has none any more.
        heads: The flow's entries in digests.
        key: The audit key, if available.
        alone: Whether there are only events and no store, as in a JSON Lines file.
    """

    flow_id: str
    rows: Sequence[tuple[Any, ...]]
    stored: StoredFlow | None
    heads: Sequence[Head]
    key: AuditKey | None
    alone: bool


def told_by_record(evidence: Evidence) -> tuple[int, str] | None:
    """Return the number and the hash of the last event, as the flow's row names them."""
    stored = evidence.stored
    if stored is None:
        return None
    try:
        record = decode(stored.record)
        seq, head, flow_id = record["seq"], stored.head, record["id"]
    except DAMAGED:
        return None
    fits = (seq, flow_id) == (stored.seq, stored.flow_id) and isinstance(seq, int)
    return (seq, head) if fits and isinstance(head, str) and head.isascii() else None


def is_where_it_was_led(stored: StoredFlow, last: Mapping[str, Any]) -> bool:
    """Tell whether the flow's row has the state, number and hash of its last event."""
    try:
        record = decode(stored.record)
        named = (
            record["id"],
            record["seq"],
            record["state"],
            stored.head,
            record["reason"],
            record["attempt"],
            record["in_doubt"],
        )
    except DAMAGED:
        return False
    led_to: tuple[Any, ...] = (
        last["flow_id"],
        last["seq"],
        last["to"],
        last["hash"],
        last["reason"],
        last["attempt"],
        last["in_doubt"],
    )
    return named == led_to and (stored.seq, stored.state) == (last["seq"], last["to"])


def is_as_its_event_says(stored: StoredFlow, last: Mapping[str, Any]) -> bool:
    """Tell whether the whole row is the one that was committed with the flow's last event."""
    return stored.authentic and stored.digest == last["row_digest"]


def is_new(stored: StoredFlow, key: AuditKey | None) -> bool:
    """Tell whether a flow without events is a new one that the store itself added."""
    marked = stored.digest is not None and isinstance(stored.head, str)
    if not (stored.seq == 0 and stored.authentic and marked):
        return False
    return key is None or key.has_marked(str(stored.digest), str(stored.head))


def may_be_gone(events: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a store may have deleted a flow with these events: ended, without a token."""
    if events[-1]["to"] != AUTHORIZED:
        return events[-1]["to"] in ENDS
    # The end of an imported flow's hand-over may be recorded in the store that it came from.
    return events[0]["action"] == IMPORT or any(
        event["action"] in ENDS_HANDOVER for event in events
    )
