"""A grant: what a person gave a program once, and the tokens that belong to it for as long.

Nothing here does I/O, reads a clock, or sleeps, as in `deviceflow.core.flow`. A caller asks what to
do, and does it::

    grant.next_step(now, min_ttl)         # -> NextStep.REFRESH
    request = grant.request()             # the refresh request (RFC 6749 section 6)
    grant.refresh(now)                    # -> refresh; store it before sending
    send(request)
    grant.receive(response, now)          # -> renew, postpone, lose_answer, lose

`refreshing` means that a refresh may be in flight. Servers that rotate refresh tokens revoke all
tokens of a grant when an old refresh token comes again (RFC 9700 section 4.14.2). So there is never
more than one request with one refresh token in flight, and a refresh whose answer was lost is
*in doubt*: it is sent again only where the server says that it accepts that for a while, or when
there is nothing left to lose, because the access token has ended. From then on it is sent again,
with a back-off, until an answer can be understood.

A grant with a refresh token is lost only when its server has said so. What counts as its word:

* `invalid_grant`, `access_denied` and `expired_token`, with any status; and any other error code
  with 200 (GitHub), 400 or 401, the statuses of RFC 6749 section 5.2, unless it blames the client;
* on the third time, with growing pauses, and only once the access token has ended: an error code
  that blames the client (`invalid_client`); an error code with another 4xx; and a 4xx without an
  error code, whose body is empty or JSON.

Never its word: HTML or any other text, with whatever status, since that is what captive portals,
firewalls and gateways send; 404 and 405 without an error code, which say that the token endpoint
is not there, so that a login would fail there as well; 407, 408, 421, 425 and 429; 5xx; redirects.
They are an outage: the program is told of one that lasts, and nobody is asked to log in.

The answer to a refresh that was sent again may bring tokens that the server issued for the first
one. So their life counts from the first sending, or ends with the `exp` of an access token that is
a JWT, if that is earlier.
"""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Any, Final, Self

from deviceflow.core import actions, pacing
from deviceflow.core.flow import Transition
from deviceflow.core.machine import fire_grant, grant_refusal
from deviceflow.core.need import MOST_UNTOLD, NO_ANSWER, Need
from deviceflow.core.policy import judged, settings_of
from deviceflow.core.provider import Answer, Token
from deviceflow.core.sanitize import storable
from deviceflow.core.secret import Secret
from deviceflow.core.states import GrantState, Loss, NeedEnd
from deviceflow.core.text import CleanText, SecretMatcher, same_identifier, trusted
from deviceflow.core.wire import Failure, Response, read_jwt
from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from deviceflow.core.actions import Action
    from deviceflow.core.provider import Approver, Provider
    from deviceflow.core.wire import Request

SHARE: Final = 0.5
"""The greatest share of a token's lifetime that a caller can ask to be left.

With more, a token that lives shortly would be refreshed at every call.
"""

AHEAD: Final = 0.25
"""The share of a token's lifetime that is left when a sweep refreshes ahead, before jitter."""

REFUSAL_LIMIT: Final = 3
"""How many refusals in a row that do not blame the refresh token lose a grant."""

OUTAGE_REQUESTS: Final = 3
"""How many refreshes in a row must fail before the program is told of an outage."""

QUIET: Final = 60.0
"""Seconds after a refused access token in which its successor is not given up for a refusal.

If a server refuses whatever token it gets, each grant is refreshed once in that time.
"""

MOST_ASIDE: Final = 4
"""How many late answers are kept, the newest ones."""

LONGEST_NAME: Final = 500
"""The longest name of a grant, in characters. An index of PostgreSQL's takes 2,700 bytes."""

_MARGIN: Final = 0.1
_LONGEST_MARGIN: Final = 5.0
_ENDS_OLD: Final = trusted("a refresh ends the former access token at this server")
_CLIENT_ERRORS: Final = frozenset(
    {
        "invalid_client",
        "invalid_request",
        "invalid_scope",
        "unauthorized_client",
        "unsupported_grant_type",
    }
)
"""What a server says where the request is wrong, and not the refresh token."""
_END_OF_TIME: Final = 1e11
_NOT_ABOUT_THE_TOKEN: Final = frozenset({404, 405, 407, 408, 421, 425, 429})
"""Statuses that, without an error code, say nothing about the refresh token."""


class NextStep(Enum):
    """What to do about a grant now."""

    USE = "use the access token"
    REFRESH = "send a refresh, or send it again"
    RECOVER = "record that somebody died while a refresh was in flight"
    ADOPT = "use the tokens of a late answer"
    WAIT = "wait for somebody else's refresh"
    BACK_OFF = "wait: the server gave no usable answer lately"
    LOSE = "give the grant up"
    ASK = "have a person log in"


def check_name(name: object) -> None:
    """Check the name of a grant, before anything is sent or looked for by it.

    Raises:
        UsageError: A store cannot keep it. It would find the grant of another name by it.
    """
    fit = isinstance(name, str) and 0 < len(name) <= LONGEST_NAME and storable(name) == name
    if not fit:
        raise UsageError(
            f"A grant's name is a text of 1 to {LONGEST_NAME} characters, without the character"
            " NUL, in proper Unicode."
        )


def _told(need: Need) -> CleanText:
    what = "outage" if need.is_outage else "need"
    return trusted(f"{what} {need.id}" if need.lasts else f"the end of the {what} {need.id}")


def _refusals_that_count(answer: Answer, response: Response) -> int:
    """Return how often an answer has to come until it is the server's word; 0 if it never is."""
    status, error = response.status, answer.error
    if answer.outcome in ("denied", "expired") or error == "invalid_grant":
        return 1
    if answer.outcome == "refused" and error is not None:
        plain = status < 300 or status in (400, 401)
        return 1 if plain and error not in _CLIENT_ERRORS else REFUSAL_LIMIT
    wordless = answer.outcome in ("refused", "pending") or not response.body.strip()
    if wordless and 400 <= status < 500 and status not in _NOT_ABOUT_THE_TOKEN:
        return REFUSAL_LIMIT
    return 0


def _joined(*details: str | None) -> CleanText | None:
    """Return details that are our own words as one."""
    said = "; ".join(filter(None, details))
    return trusted(said) if said else None


def _set_lifetime(token: Token, received: float, duration: float = 0.0) -> None:
    """Count a token's life from when the request was sent: the server may have begun there."""
    if token.expires_at is None:
        return
    if token.expires_at <= received:
        token.expires_at = None  # no server issues a token that has expired: it means never
    else:
        token.expires_at -= duration


def _end_by_own_claim(token: Token) -> None:
    """Shorten a token's life to what the token says itself, unverified, if it is a JWT."""
    claims = read_jwt(token.access_token.reveal())
    end = None if claims is None else claims.get("exp")
    latest = _END_OF_TIME if token.expires_at is None else token.expires_at
    if isinstance(end, int | float) and 1 < end < latest:  # neither NaN nor true
        token.expires_at = float(end)


class Grant:
    """The record of one grant. All times are in seconds since 1970.

    Attributes:
        id: The grant's random id. It is not secret.
        name: The caller's name for it, which no other grant of the store has.
        asked: The settings to log in, as the caller gave them.
        provider: The same with the endpoints that the server named.
        needs_approver: Whether a program with a policy of its own on who may approve asked for it
            (`Client(approver=…)`). Then it takes no login that no such policy was applied to.
        purpose: Why the grant is needed, as the program states it.
        state: Its state.
        reason: Why it gives no tokens any more, if it does not.
        detail: What the last refresh came to: the server's message, sanitized, the status, or the
            code of a failure.
        created_at: When it was first asked for.
        moved_at: When the last action happened.
        seq: The number of the last action.
        head: The hash of the last event, if the store keeps a trail.
        generation: How many times tokens arrived, the first ones included.
        flow_id: The login that the tokens came from.
        subject: Whose tokens they are, as the id token says (`sub`).
        token: The tokens of this generation; None without any.
        issued_at: When they arrived.
        issued_clock: The clock of `issued_uptime`, as in `deviceflow.core.ports.Moment`.
        issued_uptime: Seconds from the machine's start to `issued_at`; None if that is not known.
        token_ahead: By how many seconds the clock that `issued_at` was noted by is ahead of the
            caller's; see `follow_uptime`. It is not stored.
        sent_at: When the last refresh was sent for the first time.
        sent_clock: The clock of `sent_uptime`, like `issued_clock`.
        sent_uptime: Seconds from the machine's start to `sent_at`; None if that is not known.
        window_at: When the server may have begun to accept that refresh again.
        attempt: How many refreshes were sent.
        replays: How many times the refresh of this generation was sent again.
        failures: How many refreshes in a row got no usable answer.
        refusals: How many of them were refusals that did not count yet.
        due_at: No refresh is sent before this time.
        ended_at: When it was lost or ended; None while it may give tokens.
        invalid: Whether a resource server refused the access token.
        refused_at: When a resource server last refused an access token that was in use.
        ends_old: Whether a refusal showed that a refresh ends the access token that it replaces.
        aside: The tokens of late answers, the newest last.
        to_revoke: The tokens to revoke, each with its kind.
        revocations: How many revocation requests are left to send: known without the secrets, too.
        need: The last need: that a person must log in, or had to.
        outage: The last outage of the server of which the program was or may be told.
        untold: Ended needs and outages before, of whose end the program was not told yet.
        replaced: The access token that the last action replaced or wiped, for the trail.
        as_stored: For the store: what it wrote of the grant.
    """

    def __init__(
        self, grant_id: str, name: str, asked: Provider, now: float, *, purpose: str | None = None
    ) -> None:
        self.id: str = grant_id
        self.name: str = str.__str__(name)  # an enum's member is a text as well; this is the text
        self.asked: Provider = asked
        self.provider: Provider = asked
        self.needs_approver: bool = False
        self.purpose: str | None = purpose
        self.state: GrantState = GrantState.WANTED
        self.reason: Loss | None = None
        self.detail: CleanText | None = None
        self.created_at: float = now
        self.moved_at: float = now
        self.seq: int = 0
        self.head: str | None = None
        self.generation: int = 0
        self.flow_id: str | None = None
        self.subject: CleanText | None = None
        self.token: Token | None = None
        self.issued_at: float = now
        self.issued_clock: str | None = None
        self.issued_uptime: float | None = None
        self.token_ahead: float = 0.0
        self.sent_at: float = 0.0
        self.sent_clock: str | None = None
        self.sent_uptime: float | None = None
        self.window_at: float = 0.0
        self.attempt: int = 0
        self.replays: int = 0
        self.failures: int = 0
        self.refusals: int = 0
        self.due_at: float = now
        self.ended_at: float | None = None
        self.invalid: bool = False
        self.refused_at: float = 0.0
        self.ends_old: bool = False
        self.aside: tuple[Token, ...] = ()
        self.to_revoke: tuple[tuple[str, Secret], ...] = ()
        self.revocations: int = 0
        self.need: Need | None = None
        self.outage: Need | None = None
        self.untold: tuple[Need, ...] = ()
        self.replaced: Secret | None = None
        self.as_stored: Any = None

    def __repr__(self) -> str:
        return f"<Grant {self.name!r} {self.state}>"

    def copy(self) -> Self:
        """Return a copy that can be changed on its own."""
        copy = object.__new__(type(self))
        vars(copy).update(vars(self))
        return copy

    # What to do.

    @property
    def in_doubt(self) -> bool:
        """Whether the server may have issued tokens that did not arrive."""
        return self.state is GrantState.IN_DOUBT or self.replays > 0

    @property
    def unanswered_since(self) -> float | None:
        """Since when no refresh had a usable answer; None if the last one had."""
        if self.outage is not None and self.outage.lasts:
            return self.outage.since
        return self.sent_at if self.in_doubt else None

    @property
    def unanswered(self) -> int:
        """How many refreshes in a row had no usable answer."""
        return 0 if self.unanswered_since is None else max(self.failures, self.replays)

    @property
    def expires_at(self) -> float | None:
        """When the access token expires; None if the server does not say."""
        return None if self.token is None else self.token.expires_at

    @property
    def lifetime(self) -> float:
        """The access token's lifetime in seconds; infinite if the server does not say."""
        return inf if self.expires_at is None else max(0.0, self.expires_at - self.issued_at)

    @property
    def refreshable(self) -> bool:
        """Whether there is a refresh token, and a way to use it."""
        return (
            self.token is not None
            and self.token.refresh_token is not None
            and self.provider.can_refresh
        )

    def follow_uptime(self, now: float, clock: str, uptime: float | None) -> None:
        """Count the access token's life from here on by the time since the machine started.

        The wall clocks of two processes may differ, or the clock was set. If each went by its own,
        it would find the tokens of the other one expired, or issued in the future, at each call.
        The seconds since the machine started are the same for both, and count while it sleeps.

        Args:
            now: The time.
            clock: The caller's clock, as in `deviceflow.core.ports.Moment`.
            uptime: Seconds since the machine started, if they are known.
        """
        self.token_ahead = 0.0
        if uptime is not None and self.issued_uptime is not None and self.issued_clock == clock:
            age = max(0.0, uptime - self.issued_uptime)
            self.token_ahead = self.issued_at + age - now

    def left(self, now: float) -> float:
        """Return the seconds that are left of the access token; infinite if nobody says."""
        if self.expires_at is None:
            return inf
        return min(self.expires_at - now - self.token_ahead, self.lifetime)

    def usable(self, now: float, min_ttl: float = 0.0) -> bool:
        """Tell whether the access token can still be used.

        Args:
            now: The time.
            min_ttl: How many seconds must be left, at most a `SHARE` of the lifetime.
        """
        return not self._may_be_ended and self._lives(now, min_ttl)

    def _lives(self, now: float, min_ttl: float = 0.0) -> bool:
        """Tell whether the access token could still be used if no refresh had ended it."""
        if self.token is None or self.invalid:
            return False
        if self.token.expires_at is None:
            return True
        lifetime = self.lifetime
        least = max(min(min_ttl, SHARE * lifetime), min(_LONGEST_MARGIN, _MARGIN * lifetime))
        return self.left(now) > least

    @property
    def refresh_ends_token(self) -> bool:
        """Whether a refresh ends the access token that it replaces."""
        said = self.provider.ends_old_token
        return self.ends_old if said is None else said

    @property
    def _may_be_ended(self) -> bool:
        """Whether the server may have ended the access token: a refresh was sent since."""
        sent = self.state is GrantState.REFRESHING or (
            self.state is GrantState.IN_DOUBT and self.window_at > 0  # 0 in a restored store
        )
        return sent and self.refresh_ends_token

    def is_fresh(self, now: float, min_ttl: float) -> bool:
        """Tell whether so much is left of the access token, by a clock that was not set back."""
        return self.usable(now, min_ttl) and not self._clock_was_set_back(now)

    def _clock_was_set_back(self, now: float) -> bool:
        return self.issued_at - now - self.token_ahead > pacing.CLOCK_TOLERANCE

    def next_step(self, now: float, min_ttl: float, held: float = 0.0) -> NextStep:
        """Return what to do about the grant now.

        Args:
            now: The time.
            min_ttl: How many seconds must be left of the access token.
            held: For how many seconds somebody else has the grant's lease.
        """
        if not self.state.gives_tokens:
            return NextStep.ASK
        doubtful = self.state is GrantState.IN_DOUBT
        if self.state is GrantState.REFRESHING or (doubtful and held > 0):
            if held > 0:
                return NextStep.USE if self.usable(now) else NextStep.WAIT
            return NextStep.RECOVER
        if doubtful:
            return self._next_step_in_doubt(now)
        if self.is_fresh(now, min_ttl):
            return NextStep.USE
        if not self.refreshable:
            return NextStep.USE if self.usable(now) else NextStep.LOSE
        if held > 0:
            return NextStep.USE if self.usable(now) else NextStep.WAIT
        if self._is_due(now):
            return NextStep.REFRESH
        return NextStep.USE if self.usable(now) else NextStep.BACK_OFF

    def _next_step_in_doubt(self, now: float) -> NextStep:
        if self.aside:
            return NextStep.ADOPT
        serves = self.usable(now)
        if self._is_due(now) and (self._in_window(now) or not serves):
            return NextStep.REFRESH
        return NextStep.USE if serves else NextStep.BACK_OFF

    def _is_due(self, now: float) -> bool:
        return pacing.seconds_left(self.due_at, now) == 0 or self._moved_after(now)

    def _moved_after(self, now: float) -> bool:
        return self.moved_at - now > pacing.CLOCK_TOLERANCE

    def _in_window(self, now: float) -> bool:
        """Tell whether the server still accepts the refresh whose answer was lost."""
        return 0 <= now - self.window_at < self.provider.replay_window

    @property
    def wake_at(self) -> float | None:
        """When a sweep should look after the grant; None for never."""
        if self.revocations:
            return self.due_at
        if self.state is GrantState.REFRESHING:
            return self.sent_at
        if self.state not in (GrantState.ACTIVE, GrantState.IN_DOUBT):
            return None
        if self.invalid or self._may_be_ended:
            return self.due_at
        if not self.refreshable:
            return None
        if self.state is GrantState.IN_DOUBT and (self.aside or self.provider.replay_window):
            return self.due_at
        if self.expires_at is None:
            return None
        early = self.lifetime * AHEAD * self._jitter()
        return max(self.due_at, self.expires_at - early)

    def request(self) -> Request:
        """Return the refresh request (RFC 6749 section 6).

        Raises:
            UsageError: There is nothing to refresh.
        """
        if self.token is None:
            raise UsageError(
                f"{self.name!r} has no tokens to refresh.",
                flow_id=self.id,
                state=self.state,
            )
        return self.provider.refresh_request(self.token)

    def revocation(self) -> Request:
        """Return the request that revokes the first of the tokens to revoke (RFC 7009)."""
        kind, token = self.to_revoke[0]
        revocation = self.provider.revocation_request(token, kind)
        assert revocation is not None  # noqa: S101  # what `to_revoke` was filled for
        return revocation

    # The login.

    @property
    def open_need(self) -> Need | None:
        """The need that lasts, if a person must log in."""
        return self.need if self.need is not None and self.need.lasts else None

    def raise_need(
        self,
        need_id: str,
        link: Secret,
        now: float,
        *,
        notify_at: float | None = None,
        host: str | None = None,
    ) -> Transition:
        """Record that a person must log in. A need that lasts already goes on.

        If nobody was to be notified of it yet, `notify_at` counts.

        Args:
            need_id: The id of a new need.
            link: The unguessable part of the address of its page.
            now: The time.
            notify_at: When to notify the program; by default now.
            host: The machine of the program that asks.
        """
        need = self.open_need
        at = now if notify_at is None else notify_at
        if need is not None and need.is_reserved(now):
            need = need._replace(notify_at=at)
        if need is None:
            need = Need(need_id, self._why_needed, now, link, at, host=host)
        transition = self._fire(actions.NEED, now, detail=trusted(f"need {need.id}"))
        former, self.need = self.need, need
        if former is not None and former.id != need.id:
            self._keep_untold(former)
        return transition

    def _keep_untold(self, former: Need) -> None:
        if former.notify_at is not None:
            # Its link leads nowhere any more.
            self.untold = (*self.untold, former._replace(link=Secret("")))[-MOST_UNTOLD:]

    @property
    def _why_needed(self) -> str:
        if self.reason is not None:
            return self.reason
        return "logged_out" if self.generation else "never_logged_in"

    @property
    def notify_at(self) -> float | None:
        """When to notify the program of a need, an outage or the end of one; None for never."""
        times = [need.notify_at for need in self._needs if need.notify_at is not None]
        return min(times, default=None)

    @property
    def _needs(self) -> tuple[Need, ...]:
        last = (self.outage, self.need)
        return (*self.untold, *(one for one in last if one is not None))

    def need_to_tell(self, now: float) -> Need | None:
        """Return the need or outage that the program is to be notified of now, if there is one."""
        return next((need for need in self._needs if need.is_to_notify(now)), None)

    def knows(self, need: Need) -> bool:
        """Tell whether a need is the last one, or one of whose end the program is to be told."""
        return any(known.id == need.id for known in self._needs)

    def notified(self, need: Need, now: float) -> Transition:
        """Record that the program was notified of a need or outage, or of its end if it had ended.

        Args:
            need: The need as it was told.
            now: The time.
        """
        known = self._known_need(need, actions.NOTIFY)
        transition = self._fire(actions.NOTIFY, now, detail=_told(need))
        self._put_need(known.told(now, of_end=not need.lasts))
        return transition

    def not_notified(self, need: Need, now: float) -> Transition:
        """Record that the program could not be notified; as `notified`."""
        known, wait = self._known_need(need, actions.NOTIFY_FAILED).untold(now, self._jitter())
        transition = self._fire(actions.NOTIFY_FAILED, now, wait=wait, detail=_told(need))
        self._put_need(known)
        return transition

    def _known_need(self, need: Need, action: Action) -> Need:
        known = next((known for known in self._needs if known.id == need.id), None)
        if known is None:
            raise grant_refusal(self, action)
        return known

    def _put_need(self, need: Need) -> None:
        if need.is_outage and self.outage is not None and self.outage.id == need.id:
            self.outage = need
            return
        if self.need is not None and self.need.id == need.id:
            self.need = need
            return
        others = [need if one.id == need.id else one for one in self.untold]
        self.untold = tuple(one for one in others if one.notify_at is not None)

    def request_code(self, now: float) -> Transition:
        """Record that somebody requested a code on the need's page."""
        need = self.open_need
        if need is None:
            raise grant_refusal(self, actions.REQUEST_CODE)
        transition = self._fire(actions.REQUEST_CODE, now, detail=trusted(f"need {need.id}"))
        self.need = need.code_requested(now)
        return transition

    def end_need(self, now: float) -> Transition:
        """End the need without a login, and void its link; what needs a token can ask anew."""
        need = self.open_need
        if need is None:
            raise grant_refusal(self, actions.END_NEED)
        transition = self._fire(actions.END_NEED, now, detail=trusted(f"need {need.id}"))
        self.need = need.ended(now, NeedEnd.LOGGED_OUT)
        return transition

    def _end_need(self, now: float, end: NeedEnd) -> str | None:
        """End the need that lasts, if one does; return that in words."""
        need = self.open_need
        if need is None:
            return None
        self.need = need.ended(now, end)
        return f"the need {need.id} ended"

    def log_in(
        self,
        token: Token,
        provider: Provider,
        now: float,
        *,
        flow_id: str,
        issued_at: float | None = None,
    ) -> Transition:
        """Take the token of a login.

        Args:
            token: The token.
            provider: The login's provider, with its endpoints.
            now: The time.
            flow_id: The login.
            issued_at: When the token arrived; by default now.
        """
        transition = self._fire(actions.LOG_IN, now)
        other = None
        if self._is_of_another(token):
            other = "the subject is another one than before"
        begun = self._begin_anew(provider, now, flow_id, token.subject)
        transition = transition._replace(detail=_joined(f"login {flow_id}", *begun, other))
        issued_at = now if issued_at is None else issued_at
        _set_lifetime(token, issued_at)
        self._take(token, issued_at)
        return transition

    def adopt(self, refresh_token: Secret, provider: Provider, now: float) -> Transition:
        """Continue with a refresh token that another program obtained.

        There is no access token yet: whoever asks for one refreshes.

        Args:
            refresh_token: The refresh token.
            provider: The server that issued it, with its endpoints.
            now: The time.
        """
        transition = self._fire(actions.ADOPT_GRANT, now)
        transition = transition._replace(detail=_joined(*self._begin_anew(provider, now)))
        self._take(Token(Secret(""), expires_at=now, refresh_token=refresh_token), now)
        self.invalid = True
        return transition

    def _begin_anew(
        self,
        provider: Provider,
        now: float,
        flow_id: str | None = None,
        subject: CleanText | None = None,
    ) -> tuple[str | None, str | None]:
        """Forget what belonged to former tokens; return in words what came of it."""
        ended = self._end_need(now, NeedEnd.LOGGED_IN)
        # They are of the former permission, and nobody will use them.
        former = [token for token in (self.token, *self.aside) if token is not None]
        self._wipe(now, NeedEnd.LOGGED_IN)
        self.aside = ()
        revocable = [self._set_to_revoke(token, now) for token in former]
        left = self._leave_unrevoked(provider)
        if not (all(revocable) or left):
            left = f"revoke the former tokens at {self.provider.server}"
        self.provider = provider
        self.ends_old = False
        self.refused_at = 0.0
        self.flow_id = flow_id
        self.subject = subject
        return ended, left

    # The refresh.

    def refresh(
        self, now: float, clock: str | None = None, uptime: float | None = None
    ) -> Transition:
        """Record a refresh, or that it is sent again. Store the transition before sending it.

        Args:
            now: The time.
            clock: The caller's clock, as in `deviceflow.core.ports.Moment`.
            uptime: Seconds since the machine started, if they are known.
        """
        again = self.state is GrantState.IN_DOUBT
        in_window = self._in_window(now)
        transition = self._fire(actions.REPLAY if again else actions.REFRESH, now)
        self.attempt += 1
        self.replays += again
        if not again:
            self.sent_at, self.sent_clock, self.sent_uptime = now, clock, uptime
        elif uptime is not None and self.sent_uptime is not None and self.sent_clock == clock:
            self.sent_at = now - max(0.0, uptime - self.sent_uptime)  # by the caller's wall clock
        if not (again and in_window):
            self.window_at = now  # for all that is known, the server sees it for the first time
        return transition

    def recover(self, now: float, owner: str | None = None) -> Transition:
        """Record that a worker died while a refresh was in flight: the answer is unknown.

        Args:
            now: The time.
            owner: The worker, for the trail.
        """
        detail = trusted(f"the lease of {owner} ran out during a refresh") if owner else None
        return self._fire(actions.RECOVER_REFRESH, now, detail=detail)

    def receive(
        self,
        result: Response | Failure,
        now: float,
        *,
        duration: float = 0.0,
        outage_after: float = inf,
        approver: Approver | None = None,
    ) -> Transition:
        """Process the result of a refresh.

        Args:
            result: The response, or the failure.
            now: When it arrived.
            duration: How many seconds the exchange took.
            outage_after: After how many seconds without a usable answer the program is to be told
                of an outage.
            approver: The program's policy on who may approve, for an id token that came along.

        Raises:
            IllegalTransitionError: No refresh is in flight.
        """
        if self.state is not GrantState.REFRESHING:
            raise grant_refusal(self, "receive an answer")
        if isinstance(result, Failure):
            failed, late = trusted(result.code), result.kind == "lease"
            transition = self._schedule_retry(now, 0.0, failed, lost=result.sent, late=late)
            status = None
        else:
            status, said = result.status, self.provider.read_token(result, now)
            answer = judged(self.provider, said, approver, renewed=True)
            secrets = self._secrets(result.credential)
            answer.hide(*secrets)
            if answer.token is not None:
                transition = self._receive_token(answer, answer.token, now, duration)
            else:
                transition = self._receive_no_token(answer, result, now, SecretMatcher(*secrets))
        if transition.action in (actions.POSTPONE, actions.LOSE_ANSWER):
            self._note_outage(now, outage_after)
        return transition._replace(status=status, duration=duration)

    def _receive_token(
        self, answer: Answer, token: Token, now: float, duration: float
    ) -> Transition:
        sent_at = now - duration
        if self.replays:
            sent_at = min(sent_at, self.sent_at)  # the server may have issued it then
        _set_lifetime(token, now, now - sent_at)
        if self.replays:
            _end_by_own_claim(token)
        other = self._is_of_another(token)
        # One that has expired says all the same whose the tokens are: the clock may be ahead.
        rejection = answer.rejection is not None and answer.claims is None
        if other or (rejection and token.id_token is not None):
            why = trusted("the refresh gave a token of another subject")
            if not other and answer.rejection is not None:
                why = answer.rejection[1]
            transition = self.lose(Loss.WRONG_SUBJECT, now, why)
            self._set_to_revoke(token, now)
            return transition
        detail = None
        if token.scopes is not None and self._scopes - {*token.scopes}:
            gone = " ".join(sorted(self._scopes - {*token.scopes}))
            detail = trusted(f"no longer granted: {gone}")
        transition = self._fire(actions.RENEW, now, detail=detail)
        self.subject = self.subject or token.subject
        self._take(token, sent_at)
        self.issued_clock, self.issued_uptime = self.sent_clock, self.sent_uptime
        self._end_outage(now, NeedEnd.ANSWERED)
        return transition

    @property
    def _scopes(self) -> set[str]:
        return {*(self.token.scopes or ())} if self.token else set()

    def _receive_no_token(
        self, answer: Answer, response: Response, now: float, known: SecretMatcher
    ) -> Transition:
        status, retry_after = response.status, response.retry_after(now)
        count = _refusals_that_count(answer, response)
        if answer.error is None:
            detail = trusted(f"HTTP {status} without a reason" if count else f"HTTP {status}")
        else:
            detail = CleanText(answer.error, known, redact_lookalikes=True)
        if not count:
            return self._schedule_retry(now, retry_after, detail, lost=answer.in_doubt)
        self.refusals += 1
        # A refresh that was refused ended nothing; one before it, whose answer was lost, may have.
        ended = self.replays > 0 and self.refresh_ends_token
        if self.refusals < count or (count > 1 and not ended and self._lives(now)):
            return self._schedule_retry(now, retry_after, detail, lost=False, refused=True)
        if self.aside:
            return self.use_late_answer(now)
        return self.lose(Loss.UNKNOWN if self.replays else Loss.REFUSED, now, detail)

    def _schedule_retry(
        self,
        now: float,
        retry_after: float,
        detail: CleanText,
        *,
        lost: bool,
        refused: bool = False,
        late: bool = False,
    ) -> Transition:
        """Try again later. In doubt, the doubt stays whatever else happened.

        Args:
            now: The time.
            retry_after: How many seconds the server asks to wait.
            detail: What went wrong.
            lost: Whether the server may have issued tokens.
            refused: Whether this was a refusal that does not count yet.
            late: Whether this machine was too slow to send anything: the server is not to blame.
        """
        self.failures += not late
        backoff = pacing.refresh_backoff(self.failures, refused=refused) * self._jitter()
        if late or (lost and not self.replays and self._in_window(now)):
            backoff = 0.0  # a server that answers the same refresh again does so for a short time
        wait = max(backoff, retry_after)
        action = actions.LOSE_ANSWER if lost or self.replays else actions.POSTPONE
        transition = self._fire(action, now, wait=round(wait, 6), detail=detail)
        self.due_at = now + wait
        return transition

    def _note_outage(self, now: float, after: float) -> None:
        """Note that the server gave no usable answer, and whether the program is to be told."""
        outage, failed = self.outage, self.failures
        if not failed:
            return
        if outage is None or not outage.lasts:
            if outage is not None:
                self._keep_untold(outage)
            outage = Need(f"{self.id}.{self.seq}", NO_ANSWER, now, Secret(""), None)
        lasting = failed >= OUTAGE_REQUESTS and now - outage.since >= after
        if lasting and not outage.notified and outage.notify_at is None:
            outage = outage._replace(notify_at=now)
        self.outage = outage

    def _end_outage(self, now: float, end: NeedEnd) -> None:
        if self.outage is not None and self.outage.lasts:
            self.outage = self.outage.ended(now, end)

    def late_answer(self, token: Token, attempt: int, now: float) -> Transition:
        """Take tokens that arrived after others had moved the grant.

        Nothing is revoked, as that could take all tokens of the grant along. The tokens are set
        aside, and used if the stored ones are refused.

        Args:
            token: The tokens.
            attempt: The number of the refresh that they answer.
            now: The time.
        """
        if self.state is GrantState.REVOKED:
            return self.orphan_token(token, self.provider, now)
        unanswered = self.state is GrantState.IN_DOUBT and self.attempt == attempt
        aside = (*self.aside, token)[-MOST_ASIDE:]
        if unanswered or self.state is GrantState.LOST:
            self.aside = aside
            return self.use_late_answer(now)
        transition = self._fire(actions.LATE_ANSWER, now)
        self.aside = aside
        return transition

    def orphan_token(self, token: Token, provider: Provider, now: float) -> Transition:
        """Record tokens that arrived after the grant ended or began anew, and schedule revocation.

        Args:
            token: The tokens.
            provider: The server that issued them. They are not sent to another one.
            now: The time.
        """
        transition = self._fire(actions.ORPHAN_TOKEN, now)
        if self.provider == provider and self._set_to_revoke(token, now):
            return transition
        return transition._replace(detail=trusted(f"revoke them at {provider.server}"))

    def is_as_before(self, before: Grant) -> bool:
        """Tell whether a grant is of the same login and policy as a copy of it was before."""
        return (
            self.flow_id == before.flow_id
            and settings_of(self.asked) == settings_of(before.asked)
            and self.needs_approver <= before.needs_approver
        )

    def use_late_answer(self, now: float) -> Transition:
        """Use the newest tokens that were set aside: the stored ones are refused, or in doubt."""
        if not self.aside:
            raise grant_refusal(self, actions.USE_LATE_ANSWER)
        transition = self._fire(actions.USE_LATE_ANSWER, now)
        ended = self._end_need(now, NeedEnd.LATE_ANSWER)
        transition = transition._replace(detail=_joined(ended))
        *rest, token = self.aside
        self._take(token, self.sent_at)
        self._end_outage(now, NeedEnd.LATE_ANSWER)
        self.aside = tuple(rest)
        return transition

    def is_quiet(self, now: float) -> bool:
        """Tell whether a token was refused just now, so that a refusal of its successor waits."""
        return 0 <= now - self.refused_at < QUIET

    def invalidate(self, now: float) -> Transition:
        """Record that a resource server refused the access token: it is not used any more."""
        # In doubt, the refresh that was sent may have ended it.
        ended = self.state is GrantState.IN_DOUBT and self._was_ended(self.expires_at, now)
        transition = self._fire(actions.INVALIDATE, now, detail=_ENDS_OLD if ended else None)
        self.ends_old = self.ends_old or ended
        self.invalid = True
        self.refused_at = now
        return transition

    def learn_end(self, generation: int, expires_at: float | None, now: float) -> Transition | None:
        """Record that the refresh ended the former access token, if a refusal of it shows that.

        Args:
            generation: The generation of the token that a resource server refused.
            expires_at: When that token would have expired.
            now: The time.
        """
        if self.state is not GrantState.ACTIVE or generation != self.generation - 1:
            return None
        if not self._was_ended(expires_at, now) or not 0 <= now - self.issued_at < QUIET:
            return None
        transition = self._fire(actions.INVALIDATE, now, detail=_ENDS_OLD)
        self.ends_old = True
        return transition

    def _was_ended(self, expires_at: float | None, now: float) -> bool:
        """Tell whether a refresh ended a token that is refused, and nothing else did, as it seems.

        A token that was refused before the refresh says nothing of the refresh.
        """
        unknown = self.provider.ends_old_token is None and not self.ends_old and self.window_at > 0
        alive = expires_at is not None and now + _LONGEST_MARGIN < expires_at
        return unknown and alive and self.sent_at - self.refused_at > QUIET

    def doubt(self, now: float) -> Transition:
        """Record that the store was restored: the refresh token may have been used since."""
        known_at = self.moved_at
        transition = self._fire(actions.DOUBT, now)
        self.sent_at, self.sent_clock, self.sent_uptime = min(known_at, now), None, None
        self.window_at = 0.0
        return transition

    # The end.

    def lapse(self, now: float) -> Transition:
        """Give the grant up, since there is nothing left to use and nothing to refresh."""
        return self.lose(Loss.INVALIDATED if self.invalid else Loss.LAPSED, now)

    def lose(self, loss: Loss, now: float, detail: CleanText | None = None) -> Transition:
        """Record that the grant gives no tokens any more."""
        transition = self._fire(actions.LOSE, now, detail=detail)
        self.reason = loss
        self.ended_at = now
        self._wipe(now, NeedEnd.ANSWERED)
        return transition

    def log_out(self, now: float) -> Transition:
        """End the grant: its tokens are wiped, and revoked where the server can do that."""
        tokens = [token for token in (self.token, *self.aside) if token is not None]
        transition = self._fire(actions.LOG_OUT, now)
        self.ended_at = now
        self._wipe(now, NeedEnd.LOGGED_OUT)
        self.aside, self.needs_approver = (), False
        ended = self._end_need(now, NeedEnd.LOGGED_OUT)
        revocable = False
        for token in tokens:
            revocable = self._set_to_revoke(token, now) or revocable
        left = None
        if tokens and not revocable:
            left = "the tokens were wiped: revoke them at the server"
        return transition._replace(detail=_joined(left, ended))

    def is_over(self, before: float) -> bool:
        """Tell whether it ended before a time, and nobody needs a token of it.

        A stale need is ended first, on record: see `has_stale_need`.
        """
        return self.open_need is None and self.ended_at is not None and self.ended_at <= before

    @property
    def purge_from(self) -> float | None:
        """From what time on a purge counts: the end, or the beginning if nobody ever logged in."""
        return self.created_at if self.state is GrantState.WANTED else self.ended_at

    def has_stale_need(self, before: float) -> bool:
        """Tell whether a need arose before a time, and nobody has requested a code since."""
        need = self.open_need
        return need is not None and max(need.since, need.codes_at) <= before

    def give_up_need(self, now: float) -> Transition:
        """End a need that nobody has fulfilled, and the grant if it never had tokens.

        What needs a token can ask anew.
        """
        return self.log_out(now) if self.state is GrantState.WANTED else self.end_need(now)

    def abandon_revocation(self, now: float) -> Transition:
        """Wipe the tokens that could not be revoked: somebody must revoke them at the server."""
        detail = trusted("revoke the grant's tokens at the server")
        transition = self._fire(actions.ABANDON_REVOCATION, now, detail=detail)
        self.to_revoke, self.revocations = (), 0
        return transition

    def receive_revocation(
        self, result: Response | Failure, now: float, *, duration: float | None = None
    ) -> Transition:
        """Process the result of a revocation request (RFC 7009 section 2.2)."""
        kind, _ = self.to_revoke[0]
        status = result.status if isinstance(result, Response) else None
        wait, action = None, actions.REVOKE
        if status is not None and status < 300:
            detail = f"the {kind} was revoked"
        else:
            action = actions.REVOKE_FAILED
            detail = f"the server refused to revoke the {kind}: revoke it at the server"
            if status is None or status >= 500 or status in (408, 425, 429):
                self.failures += 1
                asked = result.retry_after(now) if isinstance(result, Response) else 0.0
                wait = max(pacing.revocation_backoff(self.failures) * self._jitter(), asked)
                detail = f"the {kind} could not be revoked: deviceflow will try again"
        if wait is None:
            self.failures = 0
            self.to_revoke = self.to_revoke[1:]
            self.revocations = len(self.to_revoke)
        self.due_at = now + (wait or 0.0)
        transition = self._fire(action, now, wait=wait, detail=trusted(detail))
        return transition._replace(status=status, duration=duration)

    def reseal(self, now: float) -> Transition:
        """Record that the grant's secrets are sealed with another key."""
        return self._fire(actions.RESEAL, now)

    # Shared.

    def _take(self, token: Token, issued_at: float) -> None:
        """Take the next generation of tokens. What it lacks stays (RFC 6749 section 6)."""
        if self.token is not None:
            self.replaced = self.token.access_token
            token.refresh_token = token.refresh_token or self.token.refresh_token
            token.scopes = self.token.scopes if token.scopes is None else token.scopes
            token.id_token = token.id_token or self.token.id_token
        if not self.asked.keep_id_token:
            token.id_token = None  # the subject is known by now
        self.token = token
        self.issued_at = self.due_at = issued_at
        self.issued_clock = self.issued_uptime = None
        self.token_ahead = 0.0
        self.generation += 1
        self.replays = self.failures = self.refusals = 0
        self.invalid = False
        self.reason = self.detail = self.ended_at = None

    def _wipe(self, now: float, end: NeedEnd) -> None:
        self.replaced = None if self.token is None else self.token.access_token
        self.token = None
        self.replays = self.failures = self.refusals = 0
        self.invalid = False
        self._end_outage(now, end)

    def _set_to_revoke(self, token: Token, now: float) -> bool:
        """Schedule the revocation of tokens; return whether the server can revoke any."""
        # The refresh token first: its access tokens end with it (RFC 7009 section 2.1).
        kinds = (("refresh_token", token.refresh_token), ("access_token", token.access_token))
        revocable = tuple(
            (kind, secret)
            for kind, secret in kinds
            if secret is not None
            and secret.reveal()  # an adopted grant has no access token at first
            and self.provider.revocation_request(secret, kind) is not None
        )
        self.to_revoke += revocable
        self.revocations = len(self.to_revoke)
        self.due_at, self.failures = now, 0
        return bool(revocable)

    def _leave_unrevoked(self, provider: Provider) -> str | None:
        """Wipe what is left to revoke, unless the next provider is the one that issued it.

        The tokens of one server must not be sent to another one. Return that in words.
        """
        former = self.provider
        if not self.to_revoke:
            return None
        kind, secret = self.to_revoke[0]
        asked = [one.revocation_request(secret, kind) for one in (former, provider)]
        before, after = (request and request.url for request in asked)
        if (before, former.client_id) == (after, provider.client_id):
            return None
        self.to_revoke, self.revocations = (), 0
        return f"revoke the former tokens at {former.server}"

    def _fire(
        self,
        action: Action,
        now: float,
        *,
        wait: float | None = None,
        detail: CleanText | None = None,
    ) -> Transition:
        """Fire an action. Every recorded action goes through this method."""
        source = self.state
        fire_grant(self, action)
        self.seq += 1
        ahead = pacing.clock_ahead(self.moved_at, now) if self.seq > 1 else None
        if self._moved_after(now):
            self.due_at = min(self.due_at, now)  # of a clock that was set back since
        self.moved_at = now
        self.replaced = None
        if source is not self.state:
            self.reason, self.detail = None, detail
        return Transition(
            self.seq, now, action, source, self.state, wait=wait, detail=detail, ahead=ahead
        )

    def _is_of_another(self, token: Token) -> bool:
        """Tell whether the token is of another subject than the last one, if both say whose."""
        if self.subject is None or token.subject is None:
            return False
        return not same_identifier(self.subject, token.subject)

    def _secrets(self, credential: Secret | None) -> tuple[Secret | None, ...]:
        """Return the secrets that the server may echo in an answer to a refresh."""
        tokens = [token for token in (self.token, *self.aside) if token is not None]
        return credential, *(secret for token in tokens for secret in token.secrets)

    def _jitter(self) -> float:
        return pacing.jitter(self.id, self.seq)
