"""A view of a login, computed from its events: who asked for what, when, and how it ended.

The events may be from a manipulated trail, and are not verified here: see
`deviceflow.trail.verify`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from deviceflow.core.actions import (
    COLLECT,
    FAIL,
    ISSUE_CODE,
    LOSE,
    PENDING,
    POLL,
    RECOVER,
    REFRESH,
    RENEW,
    REQUEST_CODE,
    SLOW_DOWN,
    action_of,
)
from deviceflow.core.need import why_lost
from deviceflow.core.omitted import Omitted
from deviceflow.core.states import AWAITING_USER, ENDS, POLLING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

UNFINISHED: Final = "unfinished"
"""The outcome of a login that has not ended."""

_ROUTINE: Final = ((POLL, PENDING), (REFRESH, RENEW))

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


class Cause(NamedTuple):
    """What caused an event.

    Attributes:
        time: The time, in seconds since 1970.
        actor: The person or account: the user of the operating system, or a name.
        host: The host name.
        engine: The system that ran the task, if the program named it.
        task: The task's name.
        task_id: The engine's id of the run.
        address: From where a person used the need's page, if it was used.
    """

    time: float
    actor: str | None
    host: str | None
    engine: str | None
    task: str | None
    task_id: str | None
    address: str | None = None

    @classmethod
    def of(cls, event: Mapping[str, Any], time: float) -> Self:
        """Return the cause of an event of that time."""
        return cls(time, *(event[name] for name in cls._fields[1:]))

    def words(self) -> str:
        """Return it in words."""
        who = " on ".join(filter(None, (self.actor or "?", self.host)))
        if self.engine or self.task or self.task_id:
            run = f", run {self.task_id}" if self.task_id else ""
            names = " ".join(filter(None, (self.engine, self.task)))
            who = f"{names or 'a task'}{run}, as {who}"
        return f"{who}, by the need's page from {self.address}" if self.address else who


NO_ID_TOKEN: Final = "not known: no id token"  # noqa: S105  # no password


class Approval(NamedTuple):
    """That a person approved.

    Attributes:
        time: When the token came, in seconds since 1970.
        subject: Who approved, as the id token says (`sub`), or a fingerprint of that; None if there
            was no id token.
    """

    time: float
    subject: str | None

    def words(self) -> str:
        """Return who approved, in words."""
        return NO_ID_TOKEN if self.subject is None else self.subject


class Period(NamedTuple):
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
        name: The name that the program gives it, if it has one.
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
        open_run: The events after the last one, if the trail left them out.
    """

    id: str
    name: str | None
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
    open_run: Omitted | None = None

    @classmethod
    def of(
        cls, flow_id: str, events: Sequence[dict[str, Any]], open_run: Omitted | None = None
    ) -> Self:
        """Create a login from its events.

        Args:
            flow_id: The flow's id.
            events: The events as from `readable`; at least one.
            open_run: The events that were left out after the last one, as the flow's row has them.
        """
        times: list[float] = []
        for event in events:
            at = seconds_of(event["time"])
            times.append(at if at is not None else times[-1] if times else 0.0)
        last = events[-1]
        state = last["to"] or "unknown"
        led = None if open_run is None else open_run.leads_from(state)
        if led is None:
            open_run = None
        else:
            state = led.value
        return cls(
            id=flow_id,
            name=_first(events, "name"),
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
            open_run=open_run,
        )

    @property
    def outcome(self) -> str:
        """The reason if the login failed, else the state in which it ended, or `unfinished`."""
        if self.state == "failed":
            return self.reason or "failed"
        return self.state if self.state in ENDS else UNFINISHED

    @property
    def requested(self) -> Cause:
        """What requested the code, or else caused the first event."""
        return self._cause(ISSUE_CODE) or Cause.of(self.events[0], self.started)

    @property
    def approved(self) -> Approval | None:
        """Who approved; None if nobody did."""
        for event, at in zip(self.events, self.times, strict=True):
            if action_of(event["action"]).issues_token:
                return Approval(at, event["subject"])
        return None

    @property
    def collected(self) -> Cause | None:
        """What collected the token last, if anything did."""
        return self._cause(COLLECT)

    def _cause(self, action: str) -> Cause | None:
        """Return the cause of the last event of an action."""
        last = self._last(action)
        return None if last is None else Cause.of(self.events[last], self.times[last])

    def _last(self, *actions: str) -> int | None:
        """Return the index of the last event of some actions."""
        found = (index for index, event in enumerate(self.events) if event["action"] in actions)
        return max(found, default=None)

    @property
    def granted_scopes(self) -> list[str] | None:
        """The scopes that the server granted, if it named them."""
        return next(
            (event["granted_scopes"] for event in self.events if event["granted_scopes"]), None
        )

    @property
    def seconds(self) -> float:
        """The duration until the end, or until the last event."""
        return max(0.0, (self._until if self.ended is None else self.ended) - self.started)

    @property
    def in_doubt(self) -> bool:
        """Whether the server may have issued a token that did not arrive."""
        answered = self.open_run is not None and self.open_run.answers > 0
        return bool(self.events[-1]["in_doubt"]) and not answered

    @property
    def _until(self) -> float:
        """The time of the last event, also if the trail left it out."""
        last = self.times[-1]
        return last if self.open_run is None else max(last, seconds_of(self.open_run.until) or last)

    def count(self, action: str) -> int:
        """Return the number of events with an action, also of those that the trail left out."""
        number: int = sum(event["action"] == action for event in self.events)
        for _, run in self._runs():
            if run.counted:
                number += run.polls * (action == POLL) + run.answers * (action == PENDING)
        return number

    def _runs(self) -> Iterator[tuple[int, Omitted]]:
        """Yield what the trail left out, each with the index of the event that it came before."""
        for index, event in enumerate(self.events):
            run = Omitted.of(event["omitted"])
            here = index and self.events[index - 1]["seq"] == (event["seq"] or 0) - 1
            if run is not None and not here:
                yield index, run
        if self.open_run is not None:
            yield len(self.events), self.open_run

    def spells(self) -> Iterator[Period]:
        """Yield the periods in each state, in order, until the end."""
        since, state = self.started, self.events[0]["to"] or "unknown"
        for at, dest in self.moves():
            if dest != state:
                yield Period(state, since, max(since, at))
                since, state = max(since, at), dest
        if state not in ENDS:
            yield Period(state, since, max(since, self._until))

    def moves(self) -> Iterator[tuple[float, str]]:
        """Yield the state after each event, with its time. What was left out counts as waiting."""
        runs = dict(self._runs())
        for index, event in enumerate([*self.events, {"from": self.state}]):
            if (run := runs.get(index)) is not None:
                before = self.times[index - 1] if index else self.started
                yield seconds_of(run.since) or before, AWAITING_USER
                yield seconds_of(run.until) or before, event["from"] or "unknown"
            if index < len(self.events):
                yield self.times[index], event["to"] or "unknown"

    def story(self, *, whole: bool = False) -> list[Line]:
        """Return the history, line by line.

        Args:
            whole: Whether each event has a line. Otherwise pending polls in a row share one,
                and so do refreshes.
        """
        lines, begin = list[Line](), 0
        for end, run in [*self._runs(), (len(self.events), None)]:
            lines += self._told(begin, end, whole=whole)
            if run is not None:
                before = self.times[end - 1] if end else self.started
                dest = self.events[end]["from"] if end < len(self.events) else self.state
                lines += _left_out(run, before, dest, self._attempt_at(end))
            begin = end
        return [
            line if after is None else line._replace(lasted=max(0.0, after.time - line.time))
            for line, after in zip(lines, [*lines[1:], None], strict=True)
        ]

    def _told(self, begin: int, end: int, *, whole: bool) -> Iterator[Line]:
        events = self.events[begin:end]
        groups = [[index] for index in range(len(events))]
        if not whole:
            groups = list(_grouped([event["action"] for event in events]))
        for group in groups:
            last = events[group[-1]]
            message = _together([events[index] for index in group])
            time = self.times[begin + group[0]]
            yield Line(time, last["to"] or "-", None, message, str(last["action"]))

    def _attempt_at(self, index: int) -> int | None:
        """Return the number of the last poll of the run before an event."""
        if index < len(self.events):
            attempt: int | None = self.events[index]["attempt"]
            return attempt
        last = self.events[-1]["attempt"]
        return None if last is None or self.open_run is None else last + self.open_run.polls


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
    """Yield groups of indexes of events. Pending polls in a row are one group; so are refreshes."""
    index = 0
    while index < len(actions):
        end = index
        if (pair := tuple(actions[index : index + 2])) in _ROUTINE:
            while tuple(actions[end : end + 2]) == pair:
                end += 2
        end = max(end, index + 1)
        yield list(range(index, end))
        index = end


def _left_out(run: Omitted, before: float, dest: str | None, attempt: int | None) -> Iterator[Line]:
    """Yield the lines for a run of events that were left out, as they are for the events."""
    since, until = seconds_of(run.since) or before, seconds_of(run.until) or before
    if not run.counted:
        yield Line(since, POLLING, None, "held: how many polls were sent is unknown", POLL)
        return
    begun_in_polling = (dest == POLLING) != bool(run.events % 2)
    if begun_in_polling:
        yield Line(since, AWAITING_USER, None, PENDING.words, PENDING)
    pairs, odd = divmod(run.events - begun_in_polling, 2)
    if pairs:
        yield Line(since, AWAITING_USER, None, _not_yet("", pairs), PENDING)
    if odd:
        message = POLL.words if attempt is None else f"poll {attempt} is sent"
        yield Line(until, POLLING, None, message, POLL)


def _together(events: Sequence[Mapping[str, Any]]) -> str:
    """Return in words what a group of events says."""
    first, last = events[0], events[-1]
    if len(events) == 1:
        return _in_words(last)
    if first["action"] == POLL:
        return _not_yet(_facts(last), len(events) // 2)
    many = len(events) // 2
    if many == 1:
        return f"refreshed: generation {last['generation']} of the tokens{_facts(last)}"
    return f"{many:,} refreshes: generations {events[1]['generation']} to {last['generation']}"


def _not_yet(facts: str, polls: int) -> str:
    return f"{counted(polls, 'poll')}: not approved yet{facts}"


def _in_words(event: Mapping[str, Any]) -> str:
    action = event["action"]
    message = action_of(action).words
    if action == POLL and event["attempt"] is not None:
        message = f"poll {event['attempt']} is sent"
    elif action == SLOW_DOWN and event["interval"] is not None:
        message = f"the server asked for slower polling: every {event['interval']:g} s from now on"
    elif action == FAIL and event["reason"]:
        message = f"{message}: {event['reason']}"
    elif action == LOSE and event["reason"]:
        why = why_lost(event["reason"], event["detail"]).removesuffix(".")
        return f"{message}{_facts(event)}: {why}"
    elif action == REQUEST_CODE and event["address"]:
        message = f"{message}, from {event['address']}"
    said = (None, "", message, f"HTTP {event['http_status']}")
    detail = "" if event["detail"] in said else f": {event['detail']}"
    return f"{message}{_facts(event)}{detail}"


def _facts(event: Mapping[str, Any]) -> str:
    facts = []
    if event["http_status"] is not None:
        facts.append(f"HTTP {event['http_status']}")
    if event["in_doubt"] and event["action"] != RECOVER:
        facts.append("in doubt")
    return f" ({', '.join(facts)})" if facts else ""
