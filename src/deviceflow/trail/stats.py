"""Statistics of the logins in a trail, and of its grants."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from deviceflow.audit.events import text_of
from deviceflow.core.actions import COUNTED, POLL
from deviceflow.core.sanitize import crosses_in_clear, web_url
from deviceflow.core.states import AUTHORIZED
from deviceflow.trail.grant_stats import GrantStats
from deviceflow.trail.grant_view import Grant
from deviceflow.trail.percentiles import percentiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from deviceflow.trail.login_view import Login

LONG_LIFE: Final = 900.0
"""The lifetime of a code in seconds that is usual; longer ones are reported.

RFC 10027 section 6.1.2 recommends short-lived codes, without a number. The codes of GitHub and
Microsoft Entra are valid for 15 minutes.
"""
TOP: Final = 10
"""The number of clients, issuers and actors in the statistics, those with the most logins."""


class Stats:
    """Counters of logins, with a few bytes of memory for each login.

    Attributes:
        logins: The number of logins.
        first: When the first login started, in seconds since 1970; None if there is none.
        last: When the last login started.
        outcomes: The number of logins for each `Login.outcome`.
        starts: When the logins of each outcome started, in seconds since 1970.
        in_doubt: How many logins are in doubt: a token may exist that nobody has.
        totals: The totals of events: `slow_downs`, `recoveries` and others.
        practice: How many logins depart from RFC 10027, for each kind of departure.
        clients: The number of logins of each client.
        issuers: The number of logins at each server.
        actors: The number of logins that each actor requested.
        subjects: The number of logins that each person approved.
        grants: The statistics of grants.
    """

    def __init__(self, logins: Iterable[Login] = ()) -> None:
        self.logins: int = 0
        self.in_doubt: int = 0
        self.first: float | None = None
        self.last: float | None = None
        self.outcomes: Counter[str] = Counter()
        self.starts: dict[str, array[float]] = {}
        self.totals: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
        self.practice: Counter[str] = Counter(dict.fromkeys(_DEPARTURES, 0))
        self.clients: Counter[str] = Counter()
        self.issuers: Counter[str] = Counter()
        self.actors: Counter[str] = Counter()
        self.subjects: Counter[str] = Counter()
        self.grants: GrantStats = GrantStats()
        self._approved: Counter[tuple[str, str]] = Counter()
        self._waits = array("d")
        self._polls = array("Q")
        for login in logins:
            self.take(login)

    def take(self, login: Login) -> None:
        """Count a login, or a grant."""
        if isinstance(login, Grant):
            self.grants.take(login)
            return
        outcome = login.outcome
        self.logins += 1
        self.first = login.started if self.first is None else min(self.first, login.started)
        self.last = login.started if self.last is None else max(self.last, login.started)
        self.outcomes[outcome] += 1
        self.starts.setdefault(outcome, array("d")).append(login.started)
        self.in_doubt += login.in_doubt
        actions = Counter(event["action"] for event in login.events)
        for name, action in COUNTED.items():
            self.totals[name] += actions[action]
        for name, departs in _DEPARTURES.items():
            self.practice[name] += departs(login)
        self._polls.append(login.count(POLL))
        if login.approved_after is not None:
            self._waits.append(login.approved_after)
        for kind, counted, name in (
            ("client", self.clients, login.client or "?"),
            ("issuer", self.issuers, login.issuer or "?"),
            ("actor", self.actors, login.actor or "?"),
        ):
            counted[name] += 1
            self._approved[kind, name] += outcome == AUTHORIZED
        if login.approved is not None:
            self.subjects[login.approved.words()] += 1
            self._approved["subject", login.approved.words()] += outcome == AUTHORIZED

    def waits(self) -> list[float]:
        """Return the seconds from the device code to the token, of each approved login, sorted."""
        return sorted(self._waits)

    def facts(self) -> dict[str, Any]:
        """Return the statistics as JSON types."""
        waits, polls = self.waits(), sorted(self._polls)
        return {
            "logins": self.logins,
            "first": None if self.first is None else text_of(self.first),
            "last": None if self.last is None else text_of(self.last),
            "outcomes": dict(self.outcomes.most_common()),
            "time_to_approval": {"approvals": len(waits), **dict(percentiles(waits))},
            "polls_per_login": {"total": sum(polls), **dict(percentiles(polls))},
            **self.totals,
            "in_doubt": self.in_doubt,
            "practice": dict(self.practice),
            "clients": list(self._top("client", self.clients)),
            "issuers": list(self._top("issuer", self.issuers)),
            "actors": list(self._top("actor", self.actors)),
            "subjects": list(self._top("subject", self.subjects)),
            "grants": self.grants.facts(),
        }

    def _top(self, kind: str, counted: Counter[str]) -> Iterator[dict[str, Any]]:
        for name, logins in counted.most_common(TOP):
            yield {kind: name, "logins": logins, "approved": self._approved[kind, name]}


def _granted_more(login: Login) -> bool:
    asked = login.events[0]["scopes"]
    return bool(asked and {*(login.granted_scopes or ())} - {*asked})


def _plain_http(login: Login) -> bool:
    issuer = web_url(login.issuer)
    return issuer is not None and crosses_in_clear(issuer)


# Departures from RFC 10027 that the events of a login show.
_DEPARTURES: Final[dict[str, Callable[[Login], bool]]] = {
    "without_purpose": lambda login: login.purpose is None,
    "without_scope": lambda login: not login.events[0]["scopes"],
    "granted_more": _granted_more,
    "approved_late": lambda login: (login.approved_after or 0.0) > LONG_LIFE,
    "plain_http": _plain_http,
}
