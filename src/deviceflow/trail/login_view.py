"""A view of a login, computed from its events: who asked for what, when, and how it ended.

The events may be from a manipulated trail, and are not verified here: see
`deviceflow.trail.verify`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deviceflow.core.actions import (
    FAIL,
    ISSUE_CODE,
    PENDING,
    POLL,
    RECOVER,
    SLOW_DOWN,
    action_of,
)
from deviceflow.core.states import ENDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

UNFINISHED: Final = "unfinished"
"""The outcome of a login that has not ended."""

END_OF_TIME: Final = 253_370_764_800.0
"""The year 9999, the last one that `datetime` supports."""


def seconds_of(time: str | None) -> float | None:
    """Return an event's time in seconds since 1970; None if the time is invalid."""
    try:
        at = datetime.fromisoformat(time or "")
        seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return seconds if 0 <= seconds < END_OF_TIME else None


def span(seconds: float) -> str:
    """Return how long something took, in words."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    for size, unit, part, name in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if seconds >= size - part / 2:
            whole, rest = divmod(round(seconds / part), size // part)
            return f"{whole} {unit} {rest} {name}" if rest else f"{whole} {unit}"
    return ""  # not reached: a minute is the last size


def counted(number: int, what: str) -> str:
    """Return how many there are of something, in words."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


class Spell(NamedTuple):
    """A period in which a login was in one state.

    Attributes:
        state: The state.
        since: When it began, in seconds since 1970.
        until: When it ended; for the last one, the time of the last event.
    """

    state: str
    since: float
    until: float


class Line(NamedTuple):
    """One line of a login's history.

    Attributes:
        time: The time, in seconds since 1970.
        state: The state after it.
        lasted: Seconds until the next line; None for the last one.
        message: What happened, in words.
        action: The action of the event; `pending` for a group of polls.
    """

    time: float
    state: str
    lasted: float | None
    message: str
    action: str


@dataclass(frozen=True, slots=True)
class Login:
    """One login, computed from its events.

    Attributes:
        id: The flow's id.
        events: The events, in order.
        times: The time of each event, in seconds since 1970. An invalid time counts as the
            previous one.
        started: The time of the first event.
        ended: When the login ended; None if it has not.
        state: The state.
        reason: Why the login failed.
        client: The client's name as shown to the person, else its id.
        issuer: The server's URL.
        actor: Who started the login.
        purpose: Why the login was needed, as stated by the program.
        approved_after: Seconds from the device code to the token, if a token arrived.
    """

    id: str
    events: Sequence[dict[str, Any]]
    times: Sequence[float]
    started: float
    ended: float | None
    state: str
    reason: str | None
    client: str | None
    issuer: str | None
    actor: str | None
    purpose: str | None
    approved_after: float | None

    @classmethod
    def of(cls, flow_id: str, events: Sequence[dict[str, Any]]) -> Login:
        """Create a login from its events.

        Args:
            flow_id: The flow's id.
            events: The events as from `readable`; at least one.
        """
        times: list[float] = []
        for event in events:
            at = seconds_of(event["time"])
            times.append(at if at is not None else times[-1] if times else 0.0)
        last = events[-1]
        state = last["to"] or "unknown"
        return cls(
            id=flow_id,
            events=events,
            times=times,
            started=times[0],
            ended=_ended(events, times, state),
            state=state,
            reason=last["reason"],
            client=_first(events, "client_name") or _first(events, "client_id"),
            issuer=_first(events, "issuer"),
            actor=_first(events, "actor"),
            purpose=_first(events, "purpose"),
            approved_after=_approved_after(events, times),
        )

    @property
    def outcome(self) -> str:
        """The reason if the login failed, else the state in which it ended, or `unfinished`."""
        if self.state == "failed":
            return self.reason or "failed"
        return self.state if self.state in ENDS else UNFINISHED

    @property
    def granted_scopes(self) -> list[str] | None:
        """The scopes that the server granted, if it named them."""
        return next(
            (event["granted_scopes"] for event in self.events if event["granted_scopes"]), None
        )

    @property
    def seconds(self) -> float:
        """The duration until the end, or until the last event."""
        return max(0.0, (self.times[-1] if self.ended is None else self.ended) - self.started)

    def count(self, action: str) -> int:
        """Return the number of events with an action."""
        return sum(event["action"] == action for event in self.events)

    def spells(self) -> Iterator[Spell]:
        """Yield the periods in each state, in order, until the end."""
        since, state = self.started, self.events[0]["to"] or "unknown"
        for event, at in zip(self.events, self.times, strict=True):
            dest = event["to"] or "unknown"
            if dest != state:
                yield Spell(state, since, max(since, at))
                since, state = max(since, at), dest
        if state not in ENDS:
            yield Spell(state, since, max(since, self.times[-1]))

    def story(self, *, whole: bool = False) -> list[Line]:
        """Return the history, line by line.

        Args:
            whole: Whether each event has a line. Otherwise pending polls in a row share one.
        """
        groups = [[index] for index in range(len(self.events))]
        if not whole:
            groups = list(_grouped([event["action"] for event in self.events]))
        lines = []
        for group, after in zip(groups, [*groups[1:], None], strict=True):
            begun = self.times[group[0]]
            lasted = None if after is None else max(0.0, self.times[after[0]] - begun)
            last = self.events[group[-1]]
            polls = sum(self.events[index]["action"] == POLL for index in group)
            message = _not_yet(last, polls) if len(group) > 1 else _in_words(last)
            lines.append(Line(begun, last["to"] or "-", lasted, message, str(last["action"])))
        return lines


def _first(events: Iterable[Mapping[str, Any]], name: str) -> Any:
    return next((event[name] for event in events if event[name] is not None), None)


def _ended(events: Sequence[Mapping[str, Any]], times: Sequence[float], state: str) -> float | None:
    if state not in ENDS:
        return None
    first = len(events) - 1
    while first and events[first - 1]["to"] == state:
        first -= 1
    return times[first]


def _approved_after(events: Sequence[Mapping[str, Any]], times: Sequence[float]) -> float | None:
    issued = None
    for event, at in zip(events, times, strict=True):
        if event["action"] == ISSUE_CODE and issued is None:
            issued = at
        elif action_of(event["action"]).issues_token:
            # For an imported login, the time of the code is unknown.
            return None if issued is None else max(0.0, at - issued)
    return None


def _grouped(actions: Sequence[str]) -> Iterator[list[int]]:
    """Yield groups of indexes of events. Pending polls in a row are one group."""
    index = 0
    while index < len(actions):
        end = index
        while tuple(actions[end : end + 2]) == (POLL, PENDING):
            end += 2
        end = max(end, index + 1)
        yield list(range(index, end))
        index = end


def _not_yet(last: Mapping[str, Any], polls: int) -> str:
    return f"{counted(polls, 'poll')}: not approved yet{_facts(last)}"


def _in_words(event: Mapping[str, Any]) -> str:
    action = event["action"]
    message = action_of(action).words
    if action == POLL and event["attempt"] is not None:
        message = f"poll {event['attempt']} is sent"
    elif action == SLOW_DOWN and event["interval"] is not None:
        message = f"the server asked for slower polling: every {event['interval']:g} s from now on"
    elif action == FAIL and event["reason"]:
        message = f"{message}: {event['reason']}"
    detail = "" if event["detail"] in (None, "", message) else f": {event['detail']}"
    return f"{message}{_facts(event)}{detail}"


def _facts(event: Mapping[str, Any]) -> str:
    facts = []
    if event["http_status"] is not None:
        facts.append(f"HTTP {event['http_status']}")
    if event["in_doubt"] and event["action"] != RECOVER:
        facts.append("in doubt")
    return f" ({', '.join(facts)})" if facts else ""
