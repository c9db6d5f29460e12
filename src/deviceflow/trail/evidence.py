"""All that there is of one flow: its events, the flow itself, and what digests say of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deviceflow.audit.chain import DAMAGED, STORED, decode
from deviceflow.core.machine import AUTHORIZED, ENDS, INIT, LEADS_TO, POLLING, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deviceflow.audit.chain import AuditKey
    from deviceflow.core.ports import StoredFlow
    from deviceflow.trail.ledger import Head

    Step = tuple[str, str | None, str | None]

_AT: Final = {name: index for index, name in enumerate(STORED)}
FLOW, SEQ, EVENT_ID, TIME, ACTION, FROM, TO, REASON, ATTEMPT, IN_DOUBT = (
    _AT[name]
    for name in (
        "flow_id",
        "seq",
        "event_id",
        "time",
        "action",
        "from",
        "to",
        "reason",
        "attempt",
        "in_doubt",
    )
)
ROW_DIGEST, KEY_ID, PREV, HASH, MAC = (
    _AT[name] for name in ("row_digest", "key_id", "prev_hash", "hash", "mac")
)

_WIPING: Final = ("acknowledge", "purge")
_STAYING: Final = {
    "take_over": frozenset(State) - {POLLING},
    "stray_token": frozenset(State) - {INIT},
    "revoke": ENDS,
    "revoke_failed": ENDS,
    "collect": {AUTHORIZED},
    "acknowledge": {AUTHORIZED},
    "purge": ENDS,
    "reseal": frozenset(State),
}
LEGAL: Final[frozenset[Step]] = frozenset(
    {(action, source, dest) for (action, source), dest in LEADS_TO.items()}
    | {(action, state, state) for action, states in _STAYING.items() for state in states}
)
"""What may happen: an action, and the states before and after it."""


class Evidence(NamedTuple):
    """All that there is of one flow.

    Attributes:
        flow_id: The flow.
        rows: Its events, as tuples in the order of `STORED`.
        stands: The flow as the store has it, where it has it still.
        heads: What digests say of it.
        key: What authenticates events, where it is there.
        alone: Whether the events are all there is, and no store beside them.
    """

    flow_id: str
    rows: Sequence[tuple[Any, ...]]
    stands: StoredFlow | None
    heads: Sequence[Head]
    key: AuditKey | None
    alone: bool


def told_by_record(evidence: Evidence) -> tuple[int, str] | None:
    """Return the number and the hash of the last event by the flow's record, if it says so."""
    stands = evidence.stands
    if stands is None:
        return None
    try:
        record = decode(stands.record)
        seq, head, flow_id = record["seq"], stands.head, record["id"]
    except DAMAGED:
        return None
    fits = (seq, flow_id) == (stands.seq, stands.flow_id) and isinstance(seq, int)
    return (seq, head) if fits and isinstance(head, str) and head.isascii() else None


def stands_where(stands: StoredFlow, last: Sequence[Any]) -> bool:
    """Tell whether a flow stands where its last event has left it."""
    try:
        record = decode(stands.record)
        said = (
            record["id"],
            record["seq"],
            record["state"],
            stands.head,
            record["reason"],
            record["attempt"],
            record["in_doubt"],
        )
    except DAMAGED:
        return False
    led_to: tuple[Any, ...] = (
        last[FLOW],
        last[SEQ],
        last[TO],
        last[HASH],
        last[REASON],
        last[ATTEMPT],
        last[IN_DOUBT],
    )
    return said == led_to and (stands.seq, stands.state) == (last[SEQ], last[TO])


def is_as_its_event_says(stands: StoredFlow, last: Sequence[Any]) -> bool:
    """Tell whether a flow's row is, in all of it, the one that its last event was written with."""
    return stands.authentic and stands.digest == last[ROW_DIGEST]


def is_new(stands: StoredFlow, key: AuditKey | None) -> bool:
    """Tell whether a flow of no event is one that the store has made so."""
    marked = stands.digest is not None and isinstance(stands.head, str)
    if not (stands.seq == 0 and stands.authentic and marked):
        return False
    return key is None or key.has_marked(str(stands.digest), str(stands.head))


def may_be_gone(rows: Sequence[tuple[Any, ...]]) -> bool:
    """Tell whether a store can have dropped a flow of these events: ended, and without a token."""
    if rows[-1][TO] != AUTHORIZED:
        return rows[-1][TO] in ENDS
    # Of a flow that came from elsewhere that may be on record there.
    return rows[0][ACTION] == "bring_in" or any(row[ACTION] in _WIPING for row in rows)
