"""Verify that nobody changed a trail.

The events are read once, ordered by flow and number, together with the rows of the flows and the
entries of signed digests. Only one flow's events are in memory at a time. An intact flow is cheap
to verify. A flow with a discrepancy is passed to `deviceflow.trail.diagnosis`, which finds out what
was changed.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from deviceflow.audit.chain import DAMAGED, START, read
from deviceflow.audit.events import STORE
from deviceflow.core.actions import ACTIONS, IMPORT, STORE_EVENTS
from deviceflow.core.omitted import Omitted
from deviceflow.core.states import State
from deviceflow.errors import StoreError
from deviceflow.trail.diagnosis import diagnose
from deviceflow.trail.digest import files_of, read_digest, read_entries
from deviceflow.trail.evidence import (
    CLOCK_TOLERANCE,
    FLOW,
    HASH,
    LEGAL,
    SEQ,
    Drivers,
    Evidence,
    anchor_of,
    at,
    before,
    begun,
    is_as_its_event_says,
    is_new,
    is_possible,
    is_told_by,
    is_where_it_was_led,
    may_be_gone,
    was_reserved,
)
from deviceflow.trail.history import faults_of_holds
from deviceflow.trail.ledger import Finding, Kind, Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from deviceflow.audit.chain import AuditKey
    from deviceflow.core.ports import StoredFlow
    from deviceflow.trail.digest import Digest, DigestId
    from deviceflow.trail.evidence import Standing, Step
    from deviceflow.trail.ledger import Head

    # What the next event must have: its number, the states and the hash before it, and a time that
    # it is not before.
    _Due = tuple[int, Standing, str, str]

__all__ = ["CLOCK_TOLERANCE", "Finding", "Kind", "Verification"]


_flow_of: Final = itemgetter(FLOW)


class Verification:
    """One verification of a trail.

    Args:
        events: All events as tuples in the order of `STORED`, sorted by flow id and number.
        flows: All rows of flows, sorted by id; None if there is no store, as for a file.
        key: The audit key; None to skip the check of MACs.
        store_events: The store's own events, as tuples; None if they are not known.
        digests: The directory of the digests.
        public_key: The public key that must have signed the digests; None for the key that the
            first digest names.
        last: The number and hash of the last digest, kept by somebody outside. If the directory
            does not have this digest, the directory is an old copy, or its last digests were
            removed.
        part: The range of flow ids that the events and flows are from: the first id, and the id
            behind the last one.

    Attributes:
        events: How many events were read.
        flows: How many flows had events.
        digests: How many digests were read.
        covered_until: The time of the last digest. Events that were written after it and removed
            are not noticed.
        signed_by: The public key that must have signed the digests.
        notes: What is not a sign of a manipulation: where a wrong clock was used, and how wrong.
        newest: The last valid digest. Keep its id, and pass it as `last` next time.
    """

    def __init__(
        self,
        events: Iterable[tuple[Any, ...]],
        flows: Iterable[StoredFlow] | None,
        key: AuditKey | None,
        store_events: Iterable[tuple[Any, ...]] | None = None,
        *,
        digests: Path | None = None,
        public_key: str | None = None,
        last: DigestId | None = None,
        part: tuple[str, str | None] = ("", None),
    ) -> None:
        self._events = events
        self._flows = flows
        self._key = key
        self._store_events = store_events
        self._directory = digests
        self._last = last
        self._part = part
        self.signed_by = public_key
        self.events: int = 0
        self.flows: int = 0
        self.digests: int = 0
        self.covered_until: str | None = None
        self.newest: DigestId | None = None
        self.notes: list[Finding] = []
        self._read_until = 1

    def findings(self, progress: Callable[[int], object] = lambda _: None) -> Iterator[Finding]:
        """Yield what is wrong with the trail, and collect `notes`.

        Args:
            progress: Called now and then with the number of events that were read.

        Raises:
            StoreError: The trail or the digests' directory cannot be read.
        """
        with Ledger() as ledger:
            # Digests are read before the events, so that no digest is newer than the events.
            yield from self.read_digests(ledger)
            for finding in self.examine(ledger, progress):
                if finding.kind == "wrong_clock":
                    self.notes.append(finding)
                else:
                    yield finding
            yield from ledger.settle(self._pruned_meanwhile)

    def examine(self, ledger: Ledger, progress: Callable[[int], object]) -> Iterator[Finding]:
        """Yield findings of single flows, and put into the ledger what concerns several."""
        drivers = None if self._store_events is None else Drivers.of(self._store_events)
        stored = ((_name(row.flow_id), row) for row in self._flows or ())
        groups = ((_name(name), rows) for name, rows in groupby(self._events, _flow_of))
        for flow_id, rows, flow, heads in _joined(groups, stored, ledger.heads(*self._part)):
            events = [] if rows is None else list(rows)
            alone = self._flows is None
            evidence = Evidence(flow_id, events, flow, heads or (), self._key, alone, drivers)
            if not _is_as_it_should_be(evidence):
                yield from diagnose(evidence, ledger)
            self.flows += bool(events)
            self.events += len(events)
            progress(self.events)

    def read_digests(self, ledger: Ledger) -> Iterator[Finding]:
        """Put the entries of the digests into the ledger, and yield what is wrong with digests."""
        before: Digest | None = None
        expected = 1
        for number, path in [] if self._directory is None else files_of(self._directory):
            if number > expected:
                yield _about_digest("missing_digest", _not_there(expected, number - 1))
                before = None
            expected = number + 1
            digest: Digest | None = None
            try:
                digest = read_digest(path)
            except StoreError as damaged:
                wrong: str | None = damaged.message
            else:
                if self.signed_by is None and digest.is_signed_by_its_own_key():
                    self.signed_by = digest.public_key
                wrong = self._forged(digest, number, before) or _untaken(ledger, path, digest)
            if digest is None or wrong is not None:
                yield _about_digest("forged_digest", f"{path.name}: {wrong}")
                before = None
                continue
            self.digests += 1
            self.covered_until = digest.time
            self.newest = digest.id
            before = digest
        if self._directory is not None:
            yield from self._missing_at_the_end(expected)
        self._read_until = expected

    def _missing_at_the_end(self, expected: int) -> Iterator[Finding]:
        """Yield a finding for digests that are missing from a number on."""
        if self._last is not None and self._last.number >= expected:
            yield _about_digest("missing_digest", _not_there(expected, self._last.number))
        elif expected == 1:
            yield _about_digest("missing_digest", f"there is no digest in {self._directory}")

    def _forged(self, digest: Digest, number: int, before: Digest | None) -> str | None:
        """Return what is wrong with a digest, or None."""
        if self.signed_by is None or not digest.is_signed_by(self.signed_by):
            return "the signature is missing, invalid, or of another key"
        if digest.number != number:
            return f"the file contains digest {digest.number}"
        if before is not None and digest.previous != before.hash:
            return "it does not name the hash of the previous digest"
        if self._last is not None and number == self._last.number and digest.id != self._last:
            return "its hash is not the one given as the last digest's"
        return None

    def _pruned_meanwhile(self) -> dict[str, int]:
        """Return the flows that were pruned since the digests were read, and up to which event."""
        pruned: dict[str, int] = {}
        for number, path in [] if self._directory is None else files_of(self._directory):
            if number >= self._read_until:
                digest = read_digest(path)
                if self._forged(digest, number, None) is None:
                    entries = read_entries(path, digest)
                    pruned.update((entry.flow_id, entry.seq) for entry in entries if entry.pruned)
        return pruned


def _untaken(ledger: Ledger, path: Path, digest: Digest) -> str | None:
    """Put a digest's entries into the ledger; return an error message if that fails."""
    try:
        ledger.take(digest.number, read_entries(path, digest))
    except StoreError as damaged:
        return damaged.message
    return None


def _about_digest(kind: Kind, message: str) -> Finding:
    return Finding(kind, None, None, message)


def _not_there(first: int, last: int) -> str:
    if first == last:
        return f"digest {first} is missing"
    return f"digests {first} to {last} are missing"


def _name(flow_id: object) -> str:
    """Return the text to sort by. A value that is not text sorts last, as in SQLite."""
    return flow_id if isinstance(flow_id, str) else f"\U0010ffff{flow_id!r}"


def _joined(*streams: Iterator[tuple[str, Any]]) -> Iterator[tuple[Any, ...]]:
    """Merge sorted streams: yield each key with the item that each stream has for the key."""
    waiting = [next(stream, None) for stream in streams]
    while keys := [found[0] for found in waiting if found is not None]:
        key = min(keys)
        here = [found if found is not None and found[0] == key else None for found in waiting]
        yield (key, *(found and found[1] for found in here))
        for number, found in enumerate(here):
            if found is not None:
                waiting[number] = next(streams[number], None)


def _is_as_it_should_be(evidence: Evidence) -> bool:
    """Tell whether a flow is intact. This is the fast path, which most flows take."""
    rows, stored = evidence.rows, evidence.stored
    if not rows:
        return not evidence.heads and (stored is None or is_new(stored, evidence.key))
    whole = _whole(rows, evidence.heads, evidence.key)
    if whole is None:
        return False
    events, anchor = whole
    if evidence.heads:
        hashes = {row[SEQ]: row[HASH] for row in rows}
        if any(hashes.get(head.seq) != head.hash for head in evidence.heads if head.seq > anchor):
            return False
    if any(faults_of_holds(evidence, events)):
        return False
    if evidence.alone or evidence.flow_id == STORE:
        return True
    if stored is None:
        return may_be_gone(events)
    last = events[-1]
    last["hash"] = rows[-1][HASH]
    return is_where_it_was_led(stored, last) and is_as_its_event_says(stored, last, evidence.key)


def _whole(
    rows: Sequence[tuple[Any, ...]], heads: Sequence[Head], key: AuditKey | None
) -> tuple[list[dict[str, Any]], int] | None:
    """Return the events if each is unchanged, links to the previous one, and is a legal step.

    Returns:
        The events, and the number of the event that was pruned before the first one, or 0.
    """
    events = list[dict[str, Any]]()
    due: _Due
    anchor, due, legal = 0, (1, _NOWHERE, START, ""), _PLAIN
    for flow_id, number, at_time, digest, mac, text in rows:
        try:
            event, found = read(text)
        except DAMAGED:
            return None
        if not events:
            anchor, due, legal = _beginning(event, heads)
        if event["omitted"] is not None:
            due = _behind_omitted(event, due, events)
        seq, standing, previous, time = due
        if (
            found != digest
            or (key is not None and key.mac(digest, event["key_id"]) != mac)
            or (event["flow_id"], event["seq"], event["time"]) != (flow_id, number, at_time)
            or event["prev_hash"] != previous
            or number != seq
            or event["from"] != standing[0]
            or (led := legal.get((event["action"], *standing))) is None
            or event["to"] != led[0]
            or at_time < time
            or event["clock_ahead"] is not None
        ):
            return None
        events.append(event)
        due = (seq + 1, led, digest, at_time)
        if legal is _IMPORTED:
            legal = _PLAIN
    return events, anchor


def _beginning(
    first: Mapping[str, Any], heads: Sequence[Head]
) -> tuple[int, _Due, Mapping[Step, Standing]]:
    """Return what a chain that begins with an event must be like, if it is whole.

    Returns:
        The number of the event that was pruned before it, or 0; what is due first, and the steps
        that are legal then.
    """
    if first["action"] == IMPORT:
        return 0, (first["seq"], before(first), START, ""), _IMPORTED
    if first["flow_id"] == STORE:
        return 0, (1, (None, None), START, ""), _STORE_EVENTS
    anchor, head = anchor_of(first, heads)
    return anchor, (anchor + 1, begun(first) if anchor else before(first), head, ""), _PLAIN


def _behind_omitted(
    event: Mapping[str, Any], due: _Due, events: Sequence[Mapping[str, Any]]
) -> _Due:
    """Return what is due behind the events that an event says were left out before it."""
    run = Omitted.of(event["omitted"])
    assert run is not None  # noqa: S101  # the caller has asked
    seq, standing, previous, time = due
    if event["seq"] != seq + run.events:
        return due if is_told_by(run, events) else _NOTHING
    if run.after != previous:
        return _NOTHING
    if not run.counted:
        # Of a chain whose first events were pruned, the digest names the event before the run.
        if events and not was_reserved(run, event, events[-1]):
            return _NOTHING
    elif not time <= run.since <= run.until or (events and not is_possible(run, events[-1])):
        return _NOTHING
    return seq + run.events, at(run.leads_from(standing[0])), event["prev_hash"], run.until


_NOWHERE: Final[Standing] = (None, None)
_NOTHING: Final[tuple[int, Standing, str, str]] = (-1, ("", None), "", "")
"""What no event has: no step begins in such a state."""

# Whether a late token is legal depends on more than the states: diagnosis decides it.
_PLAIN: Final[Mapping[Step, Standing]] = {
    step: led for step, led in LEGAL.items() if ACTIONS[step[0]].condition is None
}
_IMPORTED: Final[Mapping[Step, Standing]] = {(IMPORT, *at(state)): at(state) for state in State}
_STORE_EVENTS: Final[Mapping[Step, Standing]] = {
    (name, None, None): (None, None) for name in STORE_EVENTS
}
