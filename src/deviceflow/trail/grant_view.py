"""A view of a grant, computed from its events: what its token descends from, and its needs.

As in `deviceflow.trail.login_view`, the events are not verified here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from deviceflow.core.actions import (
    ADOPT_GRANT,
    END_NEED,
    LOG_IN,
    LOG_OUT,
    NEED,
    NOTIFY,
    RENEW,
    REQUEST_CODE,
    USE_LATE_ANSWER,
    action_of,
)
from deviceflow.core.states import GrantState
from deviceflow.trail.login_view import Approval, Cause, Login, seconds_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from deviceflow.core.actions import Action
    from deviceflow.core.uses import Use

BRINGS_TOKENS: Final = (LOG_IN, ADOPT_GRANT, RENEW, USE_LATE_ANSWER)
"""The actions that bring the next generation of tokens."""

_ENDS_NEED: Final = (LOG_IN, ADOPT_GRANT, USE_LATE_ANSWER, LOG_OUT, END_NEED)
_GIVING: Final = frozenset(state.value for state in GrantState if state.gives_tokens)
_LOGIN: Final = "login "
_NEED: Final = "need "


class Generation(NamedTuple):
    """One generation of a grant's tokens.

    Attributes:
        number: Its number; None if a damaged event has none.
        since: When it came, in seconds since 1970. If the events before were pruned, the time of
            the first one that is left.
        until: When it was replaced or wiped; None if it is in use.
        action: The action that brought it; None if the events before were pruned.
        login_id: The login that it came from, if it came from one.
        fingerprint: The access token's fingerprint, if there is an audit key.
        key_id: The key of the fingerprint.
        expires_at: When the access token expires; None if the server did not say.
    """

    number: int | None
    since: float
    until: float | None
    action: Action | None
    login_id: str | None
    fingerprint: str | None
    key_id: str | None
    expires_at: float | None


class NeedSpell(NamedTuple):
    """A period in which a person had to log in.

    Attributes:
        id: The need's id, if its event is left.
        since: When the need arose, in seconds since 1970.
        until: When it ended; None if it lasts.
        notified: How many times the program was notified of it.
    """

    id: str | None
    since: float
    until: float | None
    notified: int


@dataclass(frozen=True, slots=True)
class Grant(Login):
    """One grant, computed from its events. `approved_after` and `open_run` are those of logins.

    Attributes:
        uses: What used it lately, the latest first, as the store has it beside the trail.
    """

    uses: tuple[Use, ...] = ()

    @property
    def needed(self) -> Cause | None:
        """What needed a token last that only a person's login could give."""
        return self._cause(NEED)

    @property
    def login_id(self) -> str | None:
        """The login that its last tokens descend from."""
        found = (one.login_id for one in reversed(self.generations()) if one.login_id is not None)
        return next(found, None)

    def requested_by(self, login: Login | None) -> Cause | None:
        """Return what requested the code of its last login.

        Args:
            login: That login, if the trail still has it.
        """
        return self._cause(REQUEST_CODE) if login is None else login.requested

    @property
    def approved(self) -> Approval | None:
        """Who approved the last login; None if nobody has logged in."""
        login = self._last(LOG_IN, ADOPT_GRANT)
        if login is None or self.events[login]["action"] == ADOPT_GRANT:
            return None
        return Approval(self.times[login], self.events[login]["subject"])

    @property
    def outcome(self) -> str:
        """The reason if the grant was lost, else its state."""
        return self.reason or self.state

    @property
    def generation(self) -> int:
        """How many times it has got tokens."""
        return int(self.events[-1]["generation"] or 0)

    @property
    def refreshes(self) -> int:
        """How many refreshes brought tokens."""
        return sum(event["action"] == RENEW for event in self.events)

    @property
    def losses(self) -> Counter[str]:
        """How many times the grant was lost, by the reasons."""
        return Counter(
            event["reason"] or "unknown"
            for event in self.events
            if event["to"] == GrantState.LOST != event["from"]
        )

    def generations(self) -> list[Generation]:
        """Return the generations of its tokens, in order: the token's descent."""
        found = list[Generation]()
        for event, at in zip(self.events, self.times, strict=True):
            action = action_of(event["action"])
            gives = event["to"] in _GIVING
            if found and found[-1].until is None and (action in BRINGS_TOKENS or not gives):
                found[-1] = found[-1]._replace(until=at)
            if gives and (action in BRINGS_TOKENS or not found):
                found.append(_generation(event, at, action if action in BRINGS_TOKENS else None))
        return found

    def needs(self) -> list[NeedSpell]:
        """Return the periods in which a person had to log in, in order."""
        found = list[NeedSpell]()
        for event, at in zip(self.events, self.times, strict=True):
            lasts = bool(found) and found[-1].until is None
            need_id = _named(event, _NEED)
            if lasts and event["action"] in _ENDS_NEED:
                found[-1] = found[-1]._replace(until=at)
            elif event["action"] == NEED and not (lasts and found[-1].id == need_id):
                found.append(NeedSpell(need_id, at, None, 0))
            elif event["action"] == NOTIFY and lasts:
                found[-1] = found[-1]._replace(notified=found[-1].notified + 1)
        return found


def parties(chain: Login, login: Login | None = None) -> Iterator[tuple[str, str, float | None]]:
    """Yield who had which part in a login or a grant: the part, who in words, and when.

    Args:
        chain: The login or the grant.
        login: The login that the grant's tokens descend from, if the trail still has it.
    """
    grant = chain if isinstance(chain, Grant) else None
    if grant is not None and grant.needed is not None:
        yield "needed by", grant.needed.words(), grant.needed.time
    requested = chain.requested if grant is None else grant.requested_by(login)
    if requested is not None:
        yield "requested by", requested.words(), requested.time
    if chain.approved is not None:
        yield "approved by", chain.approved.words(), chain.approved.time
    elif grant is not None and grant.generations():
        adopted = any(one.action == ADOPT_GRANT for one in grant.generations())
        why = "a program brought the refresh token" if adopted else "earlier events were pruned"
        yield "approved by", f"not known: {why}", None
    used = [Cause(*use) for use in grant.uses] if grant is not None else [chain.collected]
    for one in filter(None, used):
        yield "used by", one.words(), one.time


def _generation(event: Mapping[str, Any], at: float, action: Action | None) -> Generation:
    return Generation(
        event["generation"],
        at,
        None,
        action,
        _named(event, _LOGIN) if action is LOG_IN else None,
        event["token_fingerprint"],
        event["key_id"],
        seconds_of(event["expires_at"]),
    )


def _named(event: Mapping[str, Any], what: str) -> str | None:
    """Return the id of a login or a need, which an event's detail names first."""
    detail = event["detail"] or ""
    words = detail.removeprefix(what).split(maxsplit=1) if detail.startswith(what) else []
    return words[0].rstrip(",;:.") if words else None


class Standing(NamedTuple):
    """How a login or a grant stood at some time.

    Attributes:
        at: The time, in seconds since 1970.
        state: The state.
        reason: Why the login failed or the grant was lost.
        since: Since when it was in that state.
        seq: The number of the last event until then.
        in_doubt: Whether the server may have issued tokens that did not arrive.
        generation: How many times the grant had got tokens; None for a login.
        token_fingerprint: The access token's fingerprint, if there was one, and an audit key.
        code_fingerprint: The user code's, likewise.
        expires_at: When the access token, or else the code, was to expire.
        need: The need of the grant, if a person had to log in.
    """

    at: float
    state: str
    reason: str | None
    since: float
    seq: int | None
    in_doubt: bool
    generation: int | None
    token_fingerprint: str | None
    code_fingerprint: str | None
    expires_at: float | None
    need: NeedSpell | None


def standing(login: Login, at: float) -> Standing | None:
    """Return how a login or a grant stood at a time; None if the trail begins after that."""
    last = max((index for index, time in enumerate(login.times) if time <= at), default=None)
    if last is None:
        return None
    state, since = _state_at(login, at)
    event = login.events[last]
    need = None
    if isinstance(login, Grant):
        # A need that ended later was open then.
        until = [need for need in login.needs() if need.since <= at]
        if until and (until[-1].until is None or until[-1].until > at):
            told = sum(
                one["action"] == NOTIFY and until[-1].since <= time <= at
                for one, time in zip(login.events, login.times, strict=True)
            )
            need = until[-1]._replace(until=None, notified=told)
    return Standing(
        at=at,
        state=state,
        reason=event["reason"] if state == event["to"] else None,
        since=since,
        seq=event["seq"],
        in_doubt=bool(event["in_doubt"]),
        generation=event["generation"],
        token_fingerprint=event["token_fingerprint"],
        code_fingerprint=event["code_fingerprint"],
        expires_at=seconds_of(event["expires_at"]),
        need=need,
    )


def _state_at(login: Login, at: float) -> tuple[str, float]:
    """Return the state at a time, also between events that the trail left out, and since when."""
    state, since = "unknown", login.started
    for time, dest in _moves_until(login, at):
        if dest != state:
            state, since = dest, time
    return state, since


def _moves_until(login: Login, at: float) -> Iterator[tuple[float, str]]:
    for time, dest in login.moves():
        if time > at:
            return
        yield time, dest
