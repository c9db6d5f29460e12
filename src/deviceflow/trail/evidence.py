"""The evidence on one flow: its events, its row in the store, and its entries in digests."""

from __future__ import annotations

from datetime import datetime
from math import inf
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from deviceflow.audit.chain import DAMAGED, START, STORED, decode, read
from deviceflow.core.actions import (
    ACTIONS,
    DRIVE,
    END_NEED,
    ENDS_HANDOVER,
    IMPORT,
    LAPSE,
    NEED,
    POLL,
    STOP_DRIVING,
)
from deviceflow.core.omitted import Omitted, Reservation, is_omissible
from deviceflow.core.states import (
    AUTHORIZED,
    AWAITING_USER,
    ENDS,
    INIT,
    LOST,
    NONE,
    POLLING,
    REVOKED,
    WANTED,
    GrantState,
    Handover,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

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


GRANT_STATES: Final = frozenset(map(str, GrantState))
"""The names of the states of a grant."""

LEGAL: Final[Mapping[Step, Standing]] = dict(_legal())
"""The legal steps of a login or a grant: an action with the states before and after it.

No state of a grant has the name of a login's. A grant has no hand-over: it counts as none. The
hand-over of a login that was imported in `authorized` is unknown at first: None.
"""


CLOCK_TOLERANCE: Final = 1.0
"""Seconds by which an event's time may be before the time of the previous event."""


def seconds_between(earlier: str, later: str) -> float:
    """Return the seconds between two times as in events; infinite if either is not a time."""
    try:
        parted = datetime.fromisoformat(later) - datetime.fromisoformat(earlier)
    except (TypeError, ValueError):
        return inf
    return parted.total_seconds()


def at(state: str | None) -> Standing:
    """Return the states of a login if only the login's state is known."""
    return state, None if state == AUTHORIZED else NONE


def is_of_grant(first: Mapping[str, Any]) -> bool:
    """Tell by the first event of a chain whether the chain is a grant's.

    No state of a grant has the name of a login's. An action may be of both.
    """
    return first["to"] in GRANT_STATES


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


class Drivers(NamedTuple):
    """Who drives logins, and since when, by the store's own events.

    Attributes:
        begun: When each driver has begun.
        gone: When those have stopped, or counted as dead, that did.
        ahead: The seconds by which these events say that clocks were ahead, altogether.
    """

    begun: dict[str, str]
    gone: dict[str, str]
    ahead: float

    @classmethod
    def of(cls, rows: Iterable[Sequence[Any]]) -> Self:
        """Return what the rows of the store's own events say, as tuples in the order of `STORED`.

        Whether these were changed is for others to tell.
        """
        begun, gone, ahead = dict[str, str](), dict[str, str](), 0.0
        for row in rows:
            try:
                event, _ = read(row[TEXT])
            except DAMAGED:
                continue
            ahead += event["clock_ahead"] or 0.0
            times = {DRIVE: begun, STOP_DRIVING: gone, LAPSE: gone}.get(event["action"])
            if times is not None and event["detail"] is not None:
                times.setdefault(event["detail"], event["time"])
        return cls(begun, gone, ahead)


class Evidence(NamedTuple):
    """The evidence on one flow.

    Attributes:
        flow_id: The flow.
        rows: Its events, as tuples in the order of `STORED`.
        stored: The flow's row in the store; None if the store has none any more.
        heads: The flow's entries in digests.
        key: The audit key, if available.
        alone: Whether there are only events and no store, as in a JSON Lines file.
        drivers: Who drives logins; None if that is not known.
    """

    flow_id: str
    rows: Sequence[tuple[Any, ...]]
    stored: StoredFlow | None
    heads: Sequence[Head]
    key: AuditKey | None
    alone: bool
    drivers: Drivers | None = None


def told_by_record(evidence: Evidence) -> tuple[int, str] | None:
    """Return the number and the hash of the last stored event, as the flow's row names them.

    A row that was changed is believed only if there is such an event.
    """
    stored = evidence.stored
    if stored is None:
        return None
    try:
        record = decode(stored.record)
        seq, head, flow_id = record["seq"], stored.head, record["id"]
        fits = (seq, flow_id) == (stored.seq, stored.flow_id) and isinstance(seq, int)
        run = Omitted.of(record.get("omitted"))
    except DAMAGED:
        return None
    if run is not None:
        seq, head = seq - run.events, run.after
    if not stored.authentic and all(row[HASH] != head for row in evidence.rows):
        return None
    return (seq, head) if fits and isinstance(head, str) and head.isascii() else None


def is_where_it_was_led(stored: StoredFlow, last: Mapping[str, Any]) -> bool:
    """Tell whether the flow's row has the state, number and hash that its last event led to.

    If the trail left out events after that one, the row says how many.
    """
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
        run = Omitted.of(record.get("omitted"))
        if run is not None:
            return named == _led_by(run, stored, last)
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


def is_held(stored: StoredFlow | None) -> bool:
    """Tell whether somebody holds the flow, as its row says."""
    try:
        return stored is not None and "reserved" in decode(stored.record)
    except DAMAGED:
        return False


def _led_by(run: Omitted, stored: StoredFlow, last: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Return what a row with an open run must name; None if the run cannot follow on `last`."""
    dest, seq = run.leads_from(last["to"]), last["seq"] + run.events
    fits = run.after == last["hash"] and last["time"] <= run.since <= run.until
    if not fits or (stored.seq, stored.state) != (seq, dest) or not isinstance(stored.head, str):
        return None
    in_doubt = last["in_doubt"] and not run.answers
    attempt = last["attempt"] + run.polls
    return last["flow_id"], seq, dest, stored.head, None, attempt, in_doubt


def is_as_its_event_says(stored: StoredFlow, last: Mapping[str, Any], key: AuditKey | None) -> bool:
    """Tell whether the whole row is the one that was committed with the flow's last event.

    If the trail left that event out, the audit key has marked the row.
    """
    if not stored.authentic or stored.digest is None:
        return False
    if stored.digest == last["row_digest"]:
        return True
    head, marked, mark = str(stored.head).partition(" ")
    return bool(marked) and (key is None or key.has_marked(f"{stored.digest} {head}", mark))


def anchor_of(first: Mapping[str, Any], heads: Sequence[Head]) -> tuple[int, str]:
    """Return the number and the hash of the event that the first stored one follows.

    That is an event that was pruned, if a digest says so, else none: 0 and `START`.
    """
    run = Omitted.of(first["omitted"])
    before = (first["seq"] - 1, first["prev_hash"])
    if run is not None:
        before = (before[0] - run.events, run.after)
    return before if any(head.pruned and head[1:3] == before for head in heads) else (0, START)


def begun(first: Mapping[str, Any]) -> Standing:
    """Return the states before the first event of a chain whose beginning was pruned."""
    run = Omitted.of(first["omitted"])
    if run is None:
        return at(first["from"])
    states = (AWAITING_USER, POLLING)
    return at(next((state for state in states if run.leads_from(state) == first["from"]), None))


def was_reserved(run: Omitted, event: Mapping[str, Any], last: Mapping[str, Any]) -> bool:
    """Tell whether a run that nobody counted is one that the stored event before it allows.

    Args:
        run: The run.
        event: The event behind it, which links to the stored event before the run.
        last: That event.
    """
    reservation = Reservation.of(last)
    return (
        reservation is not None
        and (run.events, run.polls) == (2 * run.polls, reservation.polls)
        and (run.since, run.until) == (last["time"], event["time"])
        and event["prev_hash"] == run.after
    )


def is_possible(run: Omitted, last: Mapping[str, Any]) -> bool:
    """Tell whether there was time for the polls of a run that was counted.

    Args:
        run: The run.
        last: The stored event before it.
    """
    needed = (run.polls - 1) * (last["interval"] or 0.0)
    return bool(needed <= seconds_between(run.since, run.until) + CLOCK_TOLERANCE)


def is_told_by(run: Omitted, events: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a run is the last of these events, which were not left out here."""
    told = events[-run.events :]
    polls = sum(event["action"] == POLL for event in told)
    return (
        len(told) == run.events
        and all(map(is_omissible, told))
        and (run.after, run.polls) == (told[0]["prev_hash"], polls)
        and (run.since, run.until) == (told[0]["time"], told[-1]["time"])
    )


def is_new(stored: StoredFlow, key: AuditKey | None) -> bool:
    """Tell whether a flow without events is a new one that the store itself added."""
    marked = stored.digest is not None and isinstance(stored.head, str)
    if not (stored.seq == 0 and stored.authentic and marked):
        return False
    return key is None or key.has_marked(str(stored.digest), str(stored.head))


def has_open_need(events: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a grant with these events waits for a person to log in."""
    for event in reversed(events):
        if event["action"] == NEED:
            return True
        if event["action"] == END_NEED or event["from"] != event["to"]:
            return False
    return False


def may_be_gone(events: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a store may have deleted a flow with these events: ended, without a token.

    A grant must not be needed either: a purge ends the need first, on record.
    """
    if is_of_grant(events[0]):
        return events[-1]["to"] in (LOST, REVOKED) and not has_open_need(events)
    if events[-1]["to"] != AUTHORIZED:
        return events[-1]["to"] in ENDS
    # The end of an imported flow's hand-over may be recorded in the store that it came from.
    return events[0]["action"] == IMPORT or any(
        event["action"] in ENDS_HANDOVER for event in events
    )
