"""The events that a summarized trail leaves out, and what the next stored event says of them.

While nobody approves, a login sends a poll and is told that the login is pending, over and over. A
trail in the mode `summary` stores neither event. Both are still links of the chain: each hash
covers the hash before it. So the next event that is stored has, as its `prev_hash`, a hash over all
events that were left out. Its field `omitted` says what they were.

If the process that held the login died, or if another process moved the login, the store does not
know how many polls there were. Then the run is not counted: it has as many events as are possible,
and the next event's `prev_hash` is the hash of the stored event before the run, a poll that says
how many may follow.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from deviceflow.core.actions import OMISSIBLE, POLL, RECOVER
from deviceflow.core.states import AWAITING_USER, POLLING, State

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_RESERVED = 10**6
"""How many polls a hold can reserve at most."""

_MOST = 2**53  # larger integers are not exact in every JSON parser


class Omitted(NamedTuple):
    """A run of events that a trail leaves out: polls, and answers that say `pending`.

    Attributes:
        after: The hash of the stored event before the run.
        events: How many events the run has.
        polls: How many of them are polls. The others are answers.
        since: The time of the first one, as in events; of the stored poll, if they are not counted.
        until: The time of the last one.
        counted: Whether these are the true numbers. Else they are the greatest that are possible.
    """

    after: str
    events: int
    polls: int
    since: str
    until: str
    counted: bool = True

    @classmethod
    def of(cls, fields: object) -> Self | None:
        """Return the run of a JSON object, or None if there is none.

        Raises:
            TypeError: A field has the wrong type.
            ValueError: It has other fields, or they are in another order, or a number is too large.
        """
        if fields is None:
            return None
        if type(fields) is not dict or (*fields,) not in (_COUNTED, _UNCOUNTED):
            raise ValueError("omitted")
        omitted = cls(**fields)
        if tuple(map(type, omitted)) != _TYPES:
            raise TypeError("omitted")
        if omitted.counted is ("counted" in fields):
            raise ValueError("omitted")
        if not (0 < omitted.events < _MOST and 0 <= omitted.polls <= omitted.events):
            raise ValueError("omitted")
        return omitted

    def as_fields(self) -> dict[str, Any]:
        """Return it as a JSON object, which says so only if the run is not counted."""
        fields = self._asdict()
        counted = fields.pop("counted")
        return fields if counted else dict(sorted({**fields, "counted": False}.items()))

    def leads_from(self, state: str | None) -> State | None:
        """Return the state after the run, if it began in `state`; None if it could not have."""
        # In a run, polls and answers take turns.
        odd = self.events % 2
        if state == AWAITING_USER:
            dest, polls = (POLLING if odd else AWAITING_USER), self.events - self.events // 2
        elif state == POLLING:
            dest, polls = (AWAITING_USER if odd else POLLING), self.events // 2
        else:
            return None
        return dest if polls == self.polls else None

    @property
    def answers(self) -> int:
        """How many answers the run has."""
        return self.events - self.polls


_TYPES = (str, int, int, str, str, bool)
_COUNTED = ("after", "events", "polls", "since", "until")
_UNCOUNTED = ("after", "counted", "events", "polls", "since", "until")


class Reservation(NamedTuple):
    """What a stored poll says of those that may follow without being stored.

    Attributes:
        driver: Who holds the login.
        polls: How many may follow.
    """

    driver: str
    polls: int

    def __str__(self) -> str:
        return f"{self.driver} holds the login: up to {self.polls} polls more are not stored"

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Self | None:
        """Return what an event says of it, if it is such a poll."""
        said = _RESERVATION.fullmatch(event["detail"] or "") if event["action"] == POLL else None
        return None if said is None else cls(said[1], int(said[2]))


_RESERVATION: Final = re.compile(
    r"(\S+) holds the login: up to (\d{1,7}) polls more are not stored"
)
_DEAD: Final = " held the login and died: its last polls are unknown"


def words_of_heir(driver: str | None) -> str:
    """Return what a recovery says of who held the login until they died."""
    return f"{driver}{_DEAD}"


def dead_driver(event: Mapping[str, Any]) -> str | None:
    """Return who held the login until they died, if the event is a recovery that says so."""
    detail: str = event["detail"] or ""
    says_so = event["action"] == RECOVER and detail.endswith(_DEAD)
    return detail.removesuffix(_DEAD) if says_so else None


def with_event(run: Omitted | None, event: Mapping[str, Any], head: str) -> Omitted:
    """Return a run with one more event.

    Args:
        run: The run so far; None before its first event.
        event: The event, one of `OMISSIBLE`.
        head: The hash of the event before it.
    """
    time, polls = event["time"], int(event["action"] == POLL)
    if run is None:
        return Omitted(head, 1, polls, time, time)
    return Omitted(run.after, run.events + 1, run.polls + polls, run.since, time)


def is_omissible(event: Mapping[str, Any]) -> bool:
    """Tell whether a trail may leave the event out."""
    return event["action"] in OMISSIBLE and event["clock_ahead"] is None
