"""Reconstruct a broken chain: identify the flow's events, and find out what was changed.

The hash of an event covers its flow and its number. So an event that was moved elsewhere still
tells where it comes from: its hash is correct for its original place. Most hashes are known from
several sources: from the event itself, from the next event, from the flow's row, from digests, and
through their `mac`. The algorithm:

1. A row is *recognised* if for some flow and number it has a hash that is known. Then the row is a
   genuine event. If anything else of it differs (its place, its `hash`, its `mac`), that was
   changed afterwards.
2. For each number of the flow, one row is *chosen*. The other rows with this number are copies
   (`duplicated`) or were never written by deviceflow (`inserted`). A row of another flow was
   `moved` here.
3. Chosen rows that are not in the order of their numbers are `reordered`. Rows that are only
   shifted, because of insertions or removals before them, are not findings.
4. A row that is not recognised was `edited` if an event is missing at its place, else `inserted`.
5. Numbers without a row are `removed` events, or a `cut_tail` if no event follows them, or a
   `removed_flow` if the flow has no events left.
6. Rows at the end that link to each other, but have no valid `mac`, are a `replaced_chain`. So are
   rows that are consistent with each other but not with a digest.

Some manipulations cannot be distinguished, and get one name. If the last event was rewritten with a
correct hash, that is a chain replaced from there on, unless the original hash is known. An event
of which only the number was changed is `reordered`, or `edited` if the order stays the same.
Without the audit key, only the flow's row shows that an event was appended.
"""

from __future__ import annotations

import re
from contextlib import suppress
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, Final

from deviceflow.audit.chain import DAMAGED, START, decode, hash_of, read
from deviceflow.core.omitted import Omitted
from deviceflow.trail.evidence import HASH, MAC, SEQ, TEXT, TIME, told_by_record
from deviceflow.trail.ledger import ALL, Finding, Hole, Misplaced

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.audit.chain import AuditKey
    from deviceflow.trail.evidence import Evidence
    from deviceflow.trail.ledger import Kind, Ledger

_PASSES: Final = 9
_EVENT_NUMBER: Final = re.compile(r"(.+)\.(\d{1,18})", re.DOTALL)


class _Row:
    """A stored event, and what was found out about it.

    Attributes:
        stored: The stored values.
        claimed: The fields in its text, as far as they can be parsed.
        previous: The hash of the previous event, according to the text.
        omitted: The events that were left out before this one, according to the text.
        event_id: The id, according to the text.
        key_id: The name of the key, according to the text.
        seq: The number that the event is stored under.
        home: The flow that the event belongs to; None while it is not recognised.
        number: Its number in that flow.
        hash: Its hash in that flow.
        known: Whether the MAC, or a genuine event that follows, confirms the hash.
        begins: Whether the event claims to be the first one of its flow.
        edited: Whether the content is not the original one.
    """

    def __init__(self, stored: tuple[Any, ...]) -> None:
        self.stored = stored
        self.seq = stored[SEQ] if isinstance(stored[SEQ], int) else -1
        self.home: str | None = None
        self.number = -1
        self.hash = ""
        self.known = False
        self.edited = False
        self._event: dict[str, Any] | None = None
        try:
            self._event, _ = read(stored[TEXT])
        except DAMAGED:
            self.claimed = _claimed_by(stored[TEXT])
        else:
            self.claimed = self._event
        self.previous = _text(self.claimed.get("prev_hash"))
        self.event_id = _text(self.claimed.get("event_id"))
        key_id = self.claimed.get("key_id")
        self.key_id = key_id if isinstance(key_id, str) else None
        self.begins = self.previous == START
        self.omitted: Omitted | None = None
        with suppress(TypeError, ValueError):
            self.omitted = Omitted.of(self.claimed.get("omitted"))

    def first(self) -> int:
        """Return the number of the first event that it stands for: itself, or one left out."""
        return self.number - self.left_out

    @property
    def left_out(self) -> int:
        """How many events were left out before it, according to the text."""
        return 0 if self.omitted is None else self.omitted.events

    def behind(self) -> Iterator[tuple[str, int]]:
        """Yield the events that it says it follows, each with its hash and its number."""
        if self.omitted is None or self.omitted.counted:
            yield self.previous, self.number - 1
        if self.omitted is not None:
            yield self.omitted.after, self.first() - 1

    def confirms(self) -> set[str]:
        """Return the hashes of the events that it says it follows."""
        return {digest for digest, _ in self.behind()}

    def hash_as(self, flow_id: str, number: int, event_id: str) -> str | None:
        """Return the hash of the event at another place; None if it is not a valid event."""
        if self._event is None:
            return None
        name = {"flow_id": flow_id, "seq": number, "event_id": event_id}
        try:
            return hash_of(self._event | name)
        except DAMAGED:
            return None


def _claimed_by(text: object) -> dict[str, Any]:
    """Return the fields in a text that is not a valid event, as far as it can be parsed."""
    try:
        fields = decode(text) if isinstance(text, str) else None
    except DAMAGED:
        fields = None
    return fields if isinstance(fields, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


class ChainRebuild:
    """The reconstruction of one flow's chain."""

    def __init__(self, evidence: Evidence, ledger: Ledger) -> None:
        self._evidence = evidence
        self._id = evidence.flow_id
        self._key = evidence.key
        self._ledger = ledger
        self._rows = [_Row(stored) for stored in evidence.rows]
        self._signed = {head.seq: head.hash for head in evidence.heads}
        self._told = self._believed(told_by_record(evidence))
        self._last_known = max([*self._signed, 0 if self._told is None else self._told[0]])
        self._unattested = evidence.stored is None and not evidence.heads
        self._pruned = [(head.seq, head.hash) for head in evidence.heads if head.pruned]
        self._own: dict[int, _Row] = {}
        self._numbers = {START: 0} | {digest: seq for seq, digest in self._signed.items()}
        if self._told is not None:
            self._numbers[self._told[1]] = self._told[0]
        self.is_sound: bool = True

    def findings(self) -> Iterator[Finding]:
        """Yield what was changed, and put into the ledger what may have moved between flows."""
        for finding in self._look():
            self.is_sound = False
            yield finding

    def _look(self) -> Iterator[Finding]:
        self._recognise()
        self._vouch()
        if not self._evidence.alone and all(row.home != self._id for row in self._rows):
            self._unattested = False  # nothing shows that the flow ever had events
        yield from self._choose()
        yield from self._unvouched()
        yield from self._unrecognised()
        yield from self._marks()
        yield from self._order()
        yield from self._holes()
        if self.is_sound:
            yield from self._links()

    def _find(self, kind: Kind, message: str, seq: int) -> Finding:
        return Finding(kind, self._id, seq, message)

    def _believed(self, told: tuple[int, str] | None) -> tuple[int, str] | None:
        """Return the last event as the flow's row names it, unless the row's number is wrong."""
        if told is None:
            return None
        seq, head = told
        for row in self._rows:
            if row.stored[HASH] == head and row.hash_as(self._id, seq, f"{self._id}.{seq}") != head:
                named = _EVENT_NUMBER.fullmatch(row.event_id)
                if named and row.hash_as(named[1], int(named[2]), named[0]) == head:
                    return None
        return told

    def _followed(self) -> set[str]:
        """Return the hashes of all events that a row says it follows."""
        return set[str]().union(*(row.confirms() for row in self._rows))

    # 1. Recognising.

    def _recognise(self) -> None:
        """Find out which event each row was originally."""
        expected = self._followed() | {*self._signed.values()}
        if self._told is not None:
            expected.add(self._told[1])
        left, passes = list(self._rows), 0
        while left and passes < _PASSES:
            # Each event gives the numbers of its neighbours, so go up and down alternately.
            left = [row for row in left if not self._is_recognised(row, expected)][::-1]
            passes += 1

    def _is_recognised(self, row: _Row, expected: set[str]) -> bool:
        for home, number, event_id in self._names(row):
            found = row.hash_as(home, number, event_id)
            if found is None:
                return False
            vouched = self._key is not None and self._key.mac(found, row.key_id) == row.stored[MAC]
            if found == row.stored[HASH] or vouched or found in expected:
                row.home, row.number, row.hash, row.known = home, number, found, vouched
                if home == self._id:
                    self._numbers.setdefault(found, number)
                    for digest, behind in row.behind():
                        self._numbers.setdefault(digest, behind)
                return True
        return False

    def _names(self, row: _Row) -> Iterator[tuple[str, int, str]]:
        """Yield the places that the row may have had: flow, number, and event id."""
        event_id = row.event_id
        flow_id, number = row.claimed.get("flow_id"), row.claimed.get("seq")
        if isinstance(flow_id, str) and isinstance(number, int):
            yield flow_id, number, f"{flow_id}.{number}"
        yield self._id, row.seq, f"{self._id}.{row.seq}"
        if named := _EVENT_NUMBER.fullmatch(event_id):
            yield named[1], int(named[2]), event_id
        number = self._numbers.get(row.stored[HASH])
        for digest, back in row.behind():
            # `back` counts from the row's number, which is not known yet.
            if (before := self._numbers.get(digest)) is not None:
                place = before + row.number - back
                yield self._id, place, f"{self._id}.{place}"
        if number is not None:
            yield self._id, number, f"{self._id}.{number}"

    def _vouch(self) -> None:
        """Find genuine rows whose `mac` was changed, by the genuine events that follow them."""
        if self._key is None:
            return
        own = [row for row in self._rows if row.home == self._id]
        sure = {*self._signed.values()}.union(*(row.confirms() for row in own if row.known))
        for row in sorted(own, key=lambda row: row.number, reverse=True):
            row.known = row.known or row.hash in sure
            if row.known:
                sure |= row.confirms()
        if self._told is None or self._told[0] in self._signed:
            return
        # The flow's row is not signed, so it confirms one event only.
        genuine = {row.hash for row in own if row.known} | {START}
        for row in own:
            if row.hash == self._told[1] and row.confirms() & genuine:
                row.known = True

    # 2. Choosing.

    def _choose(self) -> Iterator[Finding]:
        """Choose a row for each number, and report the others."""
        claims: dict[int, list[tuple[tuple[bool, ...], int, _Row]]] = {}
        followed = self._followed()
        for index, row in enumerate(self._rows):
            if row.home == self._id and (row.known or self._key is None):
                claim = (self._doubts(index, followed), index, row)
                claims.setdefault(row.number, []).append(claim)
            elif row.home not in (self._id, None):
                self._found_elsewhere(row)
        for number, rows in claims.items():
            (_, _, best), *others = sorted(rows)
            self._own[number] = best
            for _, _, row in others:
                if row.hash == best.hash:
                    message = f"event {number} occurs more than once"
                    yield self._find("duplicated", message, row.seq)
                else:
                    yield self._never_written(row)

    def _doubts(self, index: int, followed: set[str]) -> tuple[bool, ...]:
        """Return the doubts about a row that claims a number, the strongest first."""
        row = self._rows[index]
        before, after = self._row_at(index - 1), self._row_at(index + 1)
        apart = (
            before is None or before.number not in {behind for _, behind in row.behind()},
            after is None or row.number not in {behind for _, behind in after.behind()},
        )
        return (
            self._signed.get(row.number) != row.hash,
            row.hash not in followed,
            self._told is None or self._told[1] != row.hash,
            any(apart),
            all(apart),
        )

    def _row_at(self, index: int) -> _Row | None:
        at_hand = 0 <= index < len(self._rows) and self._rows[index].home == self._id
        return self._rows[index] if at_hand else None

    def _found_elsewhere(self, row: _Row) -> None:
        self._stray(_stray_of(self._id, row, row.home, row.number, row.hash))

    def _stray(self, stray: Misplaced) -> None:
        self.is_sound = False
        self._ledger.stray(stray)

    def _never_written(self, row: _Row) -> Finding:
        return self._find("inserted", "deviceflow never wrote this event to this flow", row.seq)

    # 6. Consistent rows that nobody with the key wrote.

    def _unvouched(self) -> Iterator[Finding]:
        if self._key is None:
            return
        own = [row for row in self._rows if row.home == self._id and not row.known]
        last, highest = self._last(), max(self._own, default=0)
        tail = []
        for row in own:
            if row.number in self._own:
                yield self._never_written(row)
            elif row.number < highest:
                yield self._edited(row)
            else:
                tail.append(row)
        tail.sort(key=lambda row: row.number)
        if not tail:
            return
        if self._unattested or tail[0].number <= last:
            for row in tail:
                self._edited(row)
            yield self._find("replaced_chain", self._message_of(tail[0], self._key), tail[0].seq)
        else:
            for row in tail:
                yield self._never_written(row)

    def _edited(self, row: _Row) -> Finding:
        row.edited = True
        self._own[row.number] = row
        return self._find("edited", "the content of this event was changed", row.seq)

    def _message_of(self, row: _Row, key: AuditKey) -> str:
        message = "all events from here on were replaced by somebody without the audit key"
        named = row.key_id
        return (
            message if named == key.name else f"{message} (their key_id is {named}, not {key.name})"
        )

    def _last(self) -> int:
        """Return the number of the last event that should exist."""
        return max(self._last_known, max(self._own, default=0))

    # 4. Rows that are not recognised.

    def _unrecognised(self) -> Iterator[Finding]:
        """Report rows with a wrong hash as edited, or as never written by deviceflow."""
        copies = {row.hash for row in self._own.values()}
        wanted = {digest: number for row in self._own.values() for digest, number in row.behind()}
        wanted |= {digest: number for number, digest in self._signed.items()}
        if self._told is not None:
            wanted[self._told[1]] = self._told[0]
        before = self._first() - 1
        for row, behind in zip(self._rows, self._behind(), strict=True):
            if self._own.get(row.number) is row:
                before = row.number
            if row.home is not None:
                continue
            number = wanted.get(row.stored[HASH]) or self._gap(row, before, behind)
            if number is None or number in self._own or row.stored[HASH] in copies:
                self._stray(_stray_of(self._id, row, None, None, row.stored[HASH]))
            else:
                row.home, row.number, row.hash = self._id, number, row.stored[HASH]
                yield self._edited(row)

    def _behind(self) -> list[int | None]:
        """Return for each row the first number of the next recognised row, or None."""
        behind: list[int | None] = []
        number = None
        for row in reversed(self._rows):
            behind.append(number)
            if self._own.get(row.number) is row:
                number = row.first()
        return behind[::-1]

    def _gap(self, row: _Row, before: int, behind: int | None) -> int | None:
        """Return the number that is missing at the row's place, or None."""
        # If nothing tells how many events there were, a row behind the others may be one of them.
        last = max(self._last_known, before) + self._unattested if behind is None else behind - 1
        if before < row.seq <= last and row.seq not in self._own:
            return row.seq
        number = before + 1 + row.left_out
        number = number if number <= last else before + 1
        return number if before < last and number not in self._own else None

    # 3. Hashes, ids, MACs, and the order.

    def _marks(self) -> Iterator[Finding]:
        """Report a wrong hash, event id or MAC of events whose content and place are right."""
        for number, row in self._own.items():
            if row.edited:
                continue
            wrong = [
                row.stored[HASH] != row.hash and "hash",
                row.claimed.get("flow_id") != self._id and "flow_id",
                row.claimed.get("seq") not in (number, row.seq) and "seq",
                row.event_id not in (f"{self._id}.{number}", f"{self._id}.{row.seq}")
                and "event_id",
                row.stored[TIME] != row.claimed.get("time") and "column time",
                row.known
                and self._key is not None
                and row.stored[MAC] != self._key.mac(row.hash, row.key_id)
                and "mac",
            ]
            for name in filter(None, wrong):
                yield self._find("edited", f"the event's {name} was changed", row.seq)

    def _order(self) -> Iterator[Finding]:
        """Report events that are not at their place."""
        standing = [row for row in self._rows if self._own.get(row.number) is row]
        out = _displaced([row.number for row in standing])
        for row in standing:
            if row.number in out:
                yield self._find("reordered", f"event {row.number} is not at its place", row.seq)
        if not out:
            yield from self._shifts()

    def _shifts(self) -> Iterator[Finding]:
        """Report events whose number changed without an insertion or removal before them."""
        seq = number = self._first() - 1
        put_in = 0
        if len(self._own) < len(self._rows) and any(row.left_out for row in self._rows):
            return  # an inserted row may have any number of an event that was left out
        for row in self._rows:
            if self._own.get(row.number) is not row:
                put_in += 1
                continue
            taken_out = _first_due(row, number) - number - 1
            shifted = not -taken_out <= (row.seq - seq) - (row.number - number) <= put_in
            if shifted and not row.edited:
                yield self._find("edited", f"the event's number was {row.number}", row.seq)
            seq, number, put_in = row.seq, row.number, 0

    def _first(self) -> int:
        """Return the number of the first event that should exist."""
        if not self._own:
            return max(self._pruned, default=(0, START))[0] + 1
        row = self._own[min(self._own)]
        # An edited event may have been the first, whatever it claims now.
        if row.begins or row.edited:
            return row.number
        return max((seq for seq, _ in self._pruned if seq < row.first()), default=0) + 1

    # 5. Missing events.

    def _holes(self) -> Iterator[Finding]:
        before = self._first() - 1
        disowned = self._disowned()
        for number in sorted(self._own):
            row = self._own[number]
            first = _first_due(row, before)
            # What an edited event said of events that were left out is not known.
            if before + 1 < first and number in disowned:
                yield self._edited(row)
            elif before + 1 < first and not row.edited:
                digest = row.previous if first == number else row.omitted and row.omitted.after
                self._miss(before + 1, first - 1, digest, "removed", "missing")
            before = number
        last = self._last()
        if before < last:
            kind: Kind = "cut_tail" if self._own else "removed_flow"
            told = {} if self._told is None else dict([self._told])
            self._miss(before + 1, last, (told | self._signed).get(last), kind, "cut off")

    def _disowned(self) -> set[int]:
        """Return the numbers of events whose hash is not the one that the next event follows."""
        disowned = set[int]()
        for row in self._own.values():
            for digest, number in row.behind():
                one = self._own.get(number)
                if one is not None and digest != one.hash != self._signed.get(number):
                    disowned.add(number)
        return disowned

    def _miss(self, first: int, last: int, digest: str | None, kind: Kind, how: str) -> None:
        self.is_sound = False
        message = (
            f"event {first} is {how}" if first == last else f"events {first} to {last} are {how}"
        )
        self._ledger.hole(Hole(self._id, first, last, digest, kind, message))

    def _links(self) -> Iterator[Finding]:
        """Report events that are intact by themselves, but do not link to the previous event."""
        before: _Row | None = None
        disowned = self._disowned()
        for _, row in sorted(self._own.items()):
            behind = {number: digest for digest, number in row.behind()}
            if before is None:
                if not row.begins and not {*self._pruned} & {*behind.items()}:
                    yield self._find("replaced_chain", "it follows on another event", row.seq)
            elif behind.get(before.number) != before.hash and row.number not in disowned:
                if self._signed.get(before.number) == before.hash:
                    yield self._find("replaced_chain", "its prev_hash is of another event", row.seq)
                else:
                    yield self._edited(before)
            before = row


def _first_due(row: _Row, before: int) -> int:
    """Return the number of the first event that a row stands for, after the one before it.

    Where one of the events is here that it says were left out, all of them must be.
    """
    return row.first() if before < row.first() else row.number


def _stray_of(
    flow_id: str, row: _Row, home: str | None, number: int | None, digest: str
) -> Misplaced:
    return Misplaced(flow_id, row.seq, home, number, digest, ALL if row.begins else row.left_out)


def _displaced(numbers: list[int]) -> set[int]:
    """Return a small set of numbers without which the rest is in order."""
    belong = sorted(numbers)
    exchanged = {number for number, other in zip(numbers, belong, strict=True) if number != other}
    taken_out = set(numbers)
    for block in SequenceMatcher(None, numbers, belong, autojunk=False).get_matching_blocks():
        taken_out.difference_update(numbers[block.a : block.a + block.size])
    return min(exchanged, taken_out, key=len)
