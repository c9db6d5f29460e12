"""Which logins are played, and where their processes die: at every named point, or at random."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from random import Random

    from tests.crash.gate import Decision, Spoilt
    from tests.crash.traps import Trap
    from tests.crash.worker import Dialect, Then

Outcome = Literal["token", "outcome_unknown", "denied", "expired", "cancelled"]

INTERVAL_OF_SLOW: Final = 30.0  # seconds

_ACTIONS: Final = ("issue_code", "poll", "pending", "issue_token", "collect", "acknowledge")
_UNSTORED: Final = ("between the rows of claim: poll", "between the rows of commit: pending")
"""What is reached only where the trail stores each event."""

_HELD_AND_SPOILT: Final[dict[str, Spoilt]] = {"retry": "503", "slow_down": "slow_down"}
_BEYOND_HEARTBEAT: Final = 27.0  # seconds
_OTHER_POINTS: Final = 130  # about as many are reached in a long login


@dataclass(frozen=True)
class Kill:
    """One `kill -9`.

    Attributes:
        how: At a named point; while the server keeps an answer of the kind `point` back; at
            whichever point has a number; or after a share of the time that a process lives.
        point: The point, or the kind of answer.
        time: Which time the point is reached; or the number of any point.
        share: The share of the time.
    """

    how: Literal["point", "held", "any", "moment"]
    point: str = ""
    time: int = 1
    share: float = 0.0

    @property
    def name(self) -> str:
        """What to call it."""
        match self.how:
            case "held":
                return f"while the server holds: {self.point}"
            case "moment":
                return "at any moment"
            case _:
                return self.point + (f" ({self.time})" if self.time > 1 else "")

    @property
    def traps(self) -> list[Trap]:
        """What the process does to itself."""
        return [(self.point, self.time, signal.SIGKILL)] if self.how == "point" else []


@dataclass(frozen=True, kw_only=True)
class Case:
    """One login, and how often its process is killed before one is left alone.

    Attributes:
        kills: One for each life but the last.
        decision: What becomes of the code; None where nobody comes, and its short life ends.
        after: How many seconds after the code was issued.
        spoil: By the number of a token request: what it is answered instead of 'pending'.
        then: What the program does with the token; `cancel` comes before there is one.
        waits: Whether by `wait` and `acknowledge`; else by `step` and `collect`.
        dialect: The server's dialect.
        slow: Whether the server wants long intervals, longer than a lease.
        fresh: Whether the store is to be made by it.
        by_key: Whether each life begins with the login's key alone, and knows no flow's id.
        expected: How it has to end; None where that depends on the moment.
    """

    kills: tuple[Kill, ...]
    decision: Decision | None = "approve"
    after: float = 7.0  # between the first poll and the second
    spoil: dict[int, Spoilt] = field(default_factory=dict)
    then: Then = "collect"
    waits: bool = False
    dialect: Dialect = "oauth"
    slow: bool = False
    fresh: bool = False
    by_key: bool = False
    expected: Outcome | None = "token"

    @property
    def name(self) -> str:
        """What to call it."""
        return ", then ".join(kill.name for kill in self.kills) + (" by key" * self.by_key)


def _around(what: str) -> list[Kill]:
    points = (f"before {what}", f"inside {what}", f"after {what}")
    return [Kill("point", point) for point in points]


def _around_commit(action: str, time: int = 1) -> list[Kill]:
    # A poll is kept with the lease, in one transaction.
    what = "claim: poll" if action == "poll" else f"commit: {action}"
    before = () if action == "poll" else (f"before {what}",)
    points = (*before, f"between the rows of {what}", f"inside {what}", f"after {what}")
    return [Kill("point", point, time) for point in points]


def named(*, summarized: bool = False) -> list[Case]:
    """Return one login for every named point.

    Args:
        summarized: Whether the trail is a summary: then some points are not there, and others are.
    """
    cases = _named()
    if not summarized:
        return cases
    return [case for case in cases if not any(k.point in _UNSTORED for k in case.kills)] + held()


def held() -> list[Case]:
    """Return one login for every point of holding it, which `wait` does in a summarized trail."""
    first = [
        *_around("drive"),
        Kill("point", "between the rows of drive"),
        Kill("point", "before claim", 2),
        *_around_commit("poll"),
        Kill("point", "before request: token"),
        Kill("held", "pending"),
        Kill("point", "after answer: token"),
        *(Kill("point", f"{when} leave_out: pending") for when in ("before", "after")),
        *(Kill("point", f"{when} leave_out: poll") for when in ("before", "after")),
        Kill("point", "before request: token", 2),
    ]
    stopped = [*_around("stop_driving"), Kill("point", "between the rows of stop_driving")]
    fatal = [
        Kill("held", "issued"),
        Kill("point", "after answer: token", 2),
        *_around_commit("issue_token")[:-1],
    ]
    *not_given_back, given_back = _around_commit("let_go")
    return [
        *(Case(kills=(kill,), waits=True) for kill in (*first, *stopped)),
        *(Case(kills=(kill,), waits=True, expected="outcome_unknown") for kill in fatal),
        *(
            Case(kills=(kill,), waits=True, after=_BEYOND_HEARTBEAT)
            for kill in (*_around("heartbeat"), Kill("point", "after leave_out: poll", 3))
        ),
        *(
            Case(kills=(kill,), waits=True, after=_BEYOND_HEARTBEAT, spoil={2: spoilt})
            for action, spoilt in _HELD_AND_SPOILT.items()
            for kill in _around_commit(action)
        ),
        *(
            Case(kills=(Kill("point", "before leave_out: poll"), kill), waits=True)
            for kill in _around_commit("recover")
        ),
        *(
            replace(case, waits=True)
            for case in (*_ended_by("deny", "denied"), *_ended_by("expire", "expired"))
        ),
        # Its code runs out while it is held.
        *(
            Case(kills=(kill,), waits=True, decision=None, expected="outcome_unknown")
            for kill in not_given_back
        ),
        *(
            Case(kills=(kill,), waits=True, decision=None, expected="expired")
            for kill in (given_back, *_around_commit("expire"), *stopped)
        ),
    ]


def _named() -> list[Case]:
    kills = [
        *_around("add"),
        *(
            Kill("point", "before claim", time)
            for time in (1, 3)  # the code is due then, and the first poll
        ),
        Kill("point", "after claim"),
        Kill("point", "before release"),
        Kill("point", "after release"),
        *(Kill("point", f"{when}: code") for when in ("before request", "after answer")),
        Kill("held", "code"),
        *(Kill("point", "before request: token", time) for time in (1, 2)),
        Kill("point", "after answer: token"),
        Kill("held", "pending"),
        *(kill for action in _ACTIONS for kill in _around_commit(action)),
        *_around_commit("poll", 2),
        Kill("point", "before the sink"),
        Kill("point", "after the sink"),
    ]
    # The token was on its way, or had come, and was not stored yet.
    fatal = [
        Kill("held", "issued"),
        Kill("point", "after answer: token", 2),
        *_around_commit("issue_token")[:-1],
    ]
    dead_in_poll = Kill("point", "after claim: poll")
    lost = Kill("point", "before commit: issue_token")
    return [
        Case(kills=(Kill("point", "inside migration"),), fresh=True),
        Case(kills=(Kill("point", "inside migration", 5),), fresh=True),
        *(Case(kills=(kill,)) for kill in kills if kill not in fatal),
        *(Case(kills=(kill,), expected="outcome_unknown") for kill in fatal),
        *(
            Case(kills=(kill,), waits=True)
            for action in ("collect", "acknowledge")
            for kill in _around_commit(action)
        ),
        # Behind `acknowledge` the key is free, and a program that forgot its token asks again.
        *(
            Case(kills=(kill,), waits=waits, by_key=True)
            for waits in (False, True)
            for kill in (
                *_around_commit("collect"),
                Kill("point", "before the sink"),
                Kill("point", "after the sink"),
                *_around_commit("acknowledge")[:-1],
            )
        ),
        *(Case(kills=(kill,), spoil={1: "503"}) for kill in _around_commit("retry")),
        *(Case(kills=(kill,), spoil={1: "slow_down"}) for kill in _around_commit("slow_down")),
        *(Case(kills=(dead_in_poll, kill)) for kill in _around_commit("recover")),
        *(
            Case(kills=(kill,), slow=True, after=INTERVAL_OF_SLOW * 1.5)
            for kill in (
                dead_in_poll,
                Kill("held", "pending"),
                Kill("point", "after answer: token"),
            )
        ),
        *(Case(kills=(lost, kill), expected="outcome_unknown") for kill in _around_commit("fail")),
        *_ended_by("deny", "denied"),
        *_ended_by("expire", "expired"),
        *(
            Case(kills=(kill,), decision=None, expected="expired")
            for kill in _around_commit("expire")
        ),
        *(
            Case(kills=(kill,), decision=None, then="cancel", expected="cancelled")
            for kill in _around_commit("cancel")
        ),
        *(Case(kills=(kill,), then="purge") for kill in _around_commit("purge")),
    ]


def _ended_by(decision: Decision, outcome: Outcome) -> list[Case]:
    """Return the cases in which the server ends a login; in doubt if that answer is lost."""
    *before, after = _around_commit("deny" if decision == "deny" else "expire")
    return [
        *(Case(kills=(k,), decision=decision, expected="outcome_unknown") for k in before),
        Case(kills=(after,), decision=decision, expected=outcome),
    ]


def at_random(rng: Random) -> Case:
    """Return a login that goes as chance has it."""
    decision: Decision | None
    decision = rng.choices(("approve", "deny", "expire", None), (85, 6, 4, 5))[0]
    dialect: Dialect = rng.choices(("oauth", "studio"), (75, 25))[0]
    then: Then = rng.choices(("collect", "purge", "cancel"), (92, 4, 4))[0]
    spoilt: Spoilt = "503" if dialect == "studio" else rng.choice(("503", "slow_down"))
    return Case(
        kills=tuple(_any_kill(rng) for _ in range(rng.randint(1, 4))),
        decision=None if then == "cancel" else decision,
        after=rng.uniform(0.0, 40.0),
        spoil={rng.randint(1, 3): spoilt} if rng.random() < 0.2 else {},
        then=then,
        waits=rng.random() < 0.5,
        dialect=dialect,
        slow=dialect == "oauth" and rng.random() < 0.2,  # Studio names no interval
        expected=None,
    )


def _any_kill(rng: Random) -> Kill:
    match rng.choices(("any", "moment", "held"), (45, 45, 10))[0]:
        case "any":
            return Kill("any", time=rng.randint(1, _OTHER_POINTS))
        case "moment":
            return Kill("moment", share=rng.random())
        case _:
            return Kill("held", rng.choice(("code", "pending", "issued")))
