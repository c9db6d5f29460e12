"""A flow: the record of one login, and the rules that change it.

Nothing here does I/O, reads a clock, or sleeps. The caller passes the time and the server's
responses, and gets requests, transitions and waiting times. Every driver uses the same methods::

    flow = Flow("f1", provider, now)
    send(flow.request())                  # the device authorization request
    flow.receive(response, now)           # -> issue_code
    flow.wait_seconds(now)                # when to come back
    request = flow.request()              # the token request
    flow.poll(now, timeout)               # -> poll; store it before sending
    send(request)
    flow.receive(response, now)           # -> pending, issue_token, ...

Each method that changes the flow fires one action of `deviceflow.core.actions`, and returns a
`Transition`. An action that is not allowed in the flow's states raises an error and changes
nothing.
"""

from __future__ import annotations

from sys import intern
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deviceflow.core import actions, pacing
from deviceflow.core.actions import Kind
from deviceflow.core.machine import fire, refusal
from deviceflow.core.omitted import Reservation, words_of_heir
from deviceflow.core.policy import judged, settings_of
from deviceflow.core.provider import DEFAULT_INTERVAL, Answer
from deviceflow.core.sanitize import printable
from deviceflow.core.states import Handover, Reason, State
from deviceflow.core.text import CleanText, SecretMatcher, trusted
from deviceflow.core.wire import Failure, Response
from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from deviceflow.core.actions import Action
    from deviceflow.core.omitted import Omitted
    from deviceflow.core.provider import Approver, DeviceCode, Provider, Token
    from deviceflow.core.secret import Secret
    from deviceflow.core.states import GrantState
    from deviceflow.core.text import PersonText
    from deviceflow.core.wire import Request

UNREADABLE_LIMIT: Final = 3
"""How many unreadable responses in a row end a flow."""

LONGEST_PURPOSE: Final = 200
"""The longest purpose of a login, in characters."""


def checked_purpose(purpose: object) -> str | None:
    """Return the purpose if it is valid: one line of printable text, or None.

    Raises:
        UsageError: The purpose is empty, too long, or not printable.
    """
    if purpose is None:
        return None
    if not isinstance(purpose, str) or not purpose.strip():
        raise UsageError(
            "The purpose of a login must be a string that is not empty.",
            hint="Say in a few words why the login is needed, or omit the purpose.",
        )
    if len(purpose) > LONGEST_PURPOSE or printable(purpose, LONGEST_PURPOSE) != purpose:
        raise UsageError(
            f"The purpose of a login must be one line of at most {LONGEST_PURPOSE} printable"
            f" characters. This one has {len(purpose)} characters, or contains characters that are"
            " not printable.",
            hint="The purpose is shown to the person who approves, and recorded in the trail.",
        )
    return str.__str__(purpose)


class Transition(NamedTuple):
    """One action on a flow or on a grant, as it happened.

    Attributes:
        seq: The number of the transition in its flow or grant, from 1.
        at: The time, in seconds since 1970.
        action: The action.
        source: The state before.
        dest: The state after.
        status: The HTTP status of the response, if there was one.
        duration: How many seconds the exchange took.
        wait: Seconds until the next request is due, or until the code expires.
        detail: The server's message or the program's, sanitized.
        ahead: By how many seconds the time of the action before is later than this one's.
    """

    seq: int
    at: float
    action: Action
    source: State | GrantState
    dest: State | GrantState
    status: int | None = None
    duration: float | None = None
    wait: float | None = None
    detail: CleanText | None = None
    ahead: float | None = None

    def answered(self, status: int | None, duration: float | None) -> Transition:
        """Return the transition with what came of the exchange that led to it."""
        seq, at, action, source, dest, _, _, wait, detail, ahead = self
        return Transition(seq, at, action, source, dest, status, duration, wait, detail, ahead)


class Flow:
    """The record of one login. All times are in seconds since 1970.

    Attributes:
        id: The flow's random id. It is not secret.
        name: The caller's own name for the login, where one was given: one open login per name.
        purpose: Why the login is needed, as the program states it. Shown and recorded.
        provider: The server, and the settings to log in to it.
        settings: The digest of these settings as they were before their endpoints were discovered
            (`policy.settings_of`): what a grant compares.
        needs_approver: Whether the login was begun by a program with a policy of its own on who may
            approve (`Client(approver=…)`). Then only a process with such a policy may poll.
        state: The state of the login.
        reason: Why the login failed.
        detail: The server's message about it, sanitized.
        device_code: The secret to poll with. It is wiped when the flow ends.
        user_code: The code that the person types or compares. It is shown, but not logged.
        verification_uri: The page to open; None if the server sent no usable URL.
        verification_uri_complete: The same page with the code in the URL, if the server sent it.
        token_endpoint: The URL to poll.
        extra: Other fields that the server sent, as pairs.
        created_at: When the login began.
        ended_at: When the login ended, if it has ended.
        expires_at: The deadline of the code; None if only the server knows.
        due_at: No request is sent before this time.
        interval: Seconds between polls, as the server last asked for.
        attempt: How many token requests were announced.
        reserved: How many more of them whoever holds the login may announce without storing that.
            The numbers of these events are used by nobody else. 0 if nobody holds it.
        seq: The number of the last transition.
        failures: How many times in a row no usable response came.
        unreadable: How many responses in a row did not conform to the protocol.
        slow_downs: How often the server answered `slow_down`.
        in_doubt: Whether the server may have issued a token that did not arrive.
        last_poll_owed: Whether one more poll is made even after the deadline.
        token: The token, until it is acknowledged or purged.
        handover: The state of the hand-over.
        head: The hash of the last event, if the store keeps a trail.
        omitted: The last events, if the trail leaves them out.
        driver: Who holds the login, where this process does. It is not read from a store.
        skipped: When the hold began whose events nobody knows, and how many polls that may be,
            until an event has said so.
        moved_at: When the last transition happened. No wait began later.
        clock_ahead: By how many seconds the clock of the last transition was ahead, where the
            flow's times were adjusted since; see `follow_clock`. It is not stored.
        as_stored: For the store: what it wrote of the flow.
        verifier: The PKCE verifier (RFC 7636), a secret, if PKCE is used.
        orphaned_tokens: How many tokens arrived that were not taken, and must be revoked.
        to_revoke: The orphaned tokens that the server can revoke, each with its kind.
        revocations: How many revocation requests are left to send: known without the secrets, too.
    """

    __slots__ = (
        "as_stored",
        "attempt",
        "clock_ahead",
        "created_at",
        "detail",
        "device_code",
        "driver",
        "due_at",
        "ended_at",
        "expires_at",
        "extra",
        "failures",
        "handover",
        "head",
        "id",
        "in_doubt",
        "interval",
        "last_poll_owed",
        "moved_at",
        "name",
        "needs_approver",
        "omitted",
        "orphaned_tokens",
        "provider",
        "purpose",
        "reason",
        "reserved",
        "revocations",
        "seq",
        "settings",
        "skipped",
        "slow_downs",
        "state",
        "to_revoke",
        "token",
        "token_endpoint",
        "unreadable",
        "user_code",
        "verification_uri",
        "verification_uri_complete",
        "verifier",
    )

    def __init__(
        self,
        flow_id: str,
        provider: Provider,
        now: float,
        *,
        name: str | None = None,
        verifier: Secret | None = None,
        purpose: str | None = None,
        settings: str | None = None,
        needs_approver: bool = False,
    ) -> None:
        self.id: str = flow_id
        # An enum's member is a text as well; this is the text.
        self.name: str | None = name and str.__str__(name)
        self.purpose: str | None = checked_purpose(purpose)
        self.provider: Provider = provider
        self.settings: str | None = settings
        self.needs_approver: bool = needs_approver
        self.state: State = State.INIT
        self.reason: Reason | None = None
        self.detail: CleanText | None = None
        self.device_code: Secret | None = None
        self.user_code: PersonText | None = None
        self.verification_uri: PersonText | None = None
        self.verification_uri_complete: PersonText | None = None
        self.token_endpoint: str | None = None
        self.extra: tuple[tuple[str, CleanText | None], ...] = ()
        self.created_at: float = now
        self.ended_at: float | None = None
        self.expires_at: float | None = None
        self.due_at: float = now
        self.moved_at: float = now
        self.interval: float = DEFAULT_INTERVAL
        self.attempt: int = 0
        self.reserved: int = 0
        self.seq: int = 0
        self.failures: int = 0
        self.unreadable: int = 0
        self.slow_downs: int = 0
        self.in_doubt: bool = False
        self.last_poll_owed: bool = False
        self.token: Token | None = None
        self.handover: Handover = Handover.NONE
        self.head: str | None = None
        self.omitted: Omitted | None = None
        self.driver: str | None = None
        self.skipped: tuple[float, int] | None = None
        self.verifier: Secret | None = verifier
        self.orphaned_tokens: int = 0
        self.to_revoke: tuple[tuple[str, Secret], ...] = ()
        self.revocations: int = 0
        self.clock_ahead: float | None = None
        self.as_stored: Any = None

    def __repr__(self) -> str:
        return f"<Flow {self.id} {self.state}>"

    @property
    def open(self) -> bool:
        """Whether it has not ended, or its token is still kept: its name is taken."""
        return not self.state.ended or self.token is not None

    # What is due, and when.

    @property
    def wake_at(self) -> float | None:
        """When a sweep should step the flow; None for never.

        A sweep does not step a flow in `init`: the code would expire before anybody sees it. It
        steps a flow that is held once whoever holds it has died.
        """
        if self.state is State.INIT or (self.state.ended and not self.revocations):
            return None
        if self.reserved:
            return None
        return self._deadline_if_last() or self.due_at

    def wait_seconds(self, now: float) -> float:
        """Return the seconds until the next step is due; 0 if it is due now, or if nothing is.

        After the end, a step is due only if a token must be revoked.
        """
        if self.state.ended and not self.revocations:
            return 0.0
        if self._clock_was_set_back(now):
            return 0.0  # else the wait would be longer by the time that the clock lost
        return pacing.seconds_left(self._deadline_if_last() or self.due_at, now)

    def overdue(self, now: float) -> bool:
        """Tell whether the code has expired, and no last poll remains to be made."""
        deadline = self._deadline_if_last()
        return deadline is not None and pacing.seconds_left(deadline, now) == 0

    def _clock_was_set_back(self, now: float) -> bool:
        """Tell whether the clock was set back. The flow must have been read before the clock."""
        return self.moved_at - now > pacing.CLOCK_TOLERANCE

    def follow_clock(self, now: float) -> bool:
        """Adjust the flow's times to a clock that was set back since the last transition.

        It is unknown how much time has passed since then, so the wait counts as over. Only after a
        poll whose response never came, the whole wait begins again.

        Args:
            now: The clock's time, read after the flow.

        Returns:
            Whether the clock was set back.
        """
        if not self._clock_was_set_back(now):
            return False
        back = self.clock_ahead = self.moved_at - now
        self.due_at = self.due_at - back if self.state is State.POLLING else now
        if self.expires_at is not None:
            self.expires_at -= back
        if self.reserved and self.driver is None:
            self.skipped = (self.moved_at, self.reserved)  # as the stored poll has it
        self.moved_at = now
        return True

    def _deadline_if_last(self) -> float | None:
        """Return the deadline if it is before the next poll, which is then never made.

        A poll that was due before the deadline, and was missed because no worker ran, is still
        made: the person may have approved in time.
        """
        if self.expires_at is None or self.due_at < self.expires_at or self.last_poll_owed:
            return None
        return None if self.state.ended else self.expires_at

    def request(self) -> Request:
        """Return the next request: for a device code in `init`, else for the token.

        After the end, it is the revocation request for the first token to revoke.

        Raises:
            UsageError: The flow was imported without its secrets.
        """
        if self.state is State.INIT:
            return self.provider.code_request(self.verifier, self.purpose)
        if self.state.ended and self.to_revoke:
            kind, token = self.to_revoke[0]
            revocation = self.provider.revocation_request(token, kind)
            assert revocation is not None  # noqa: S101  # what `to_revoke` was filled for
            return revocation
        if self.device_code is None or self.token_endpoint is None:
            raise UsageError(
                "This flow was exported without its device code, so it cannot be polled.",
                flow_id=self.id,
                state=self.state,
                hint="Export it with to_dict(secrets=True), and keep that text as a secret.",
            )
        return self.provider.token_request(self.token_endpoint, self.device_code, self.verifier)

    # The actions of the login.

    def adopt(self, code: DeviceCode, now: float) -> Transition:
        """Use a device code that was requested elsewhere.

        Raises:
            IllegalTransitionError: The flow has a device code already.
        """
        self._expect(actions.ISSUE_CODE)
        self.verifier = None  # the code was requested without this verifier
        return self._take_code(code, now, now)

    def poll(self, now: float, timeout: float, reserve: int | None = 0) -> Transition:
        """Record a token request. The transition must be stored before the request is sent.

        But not if it is one of those that a stored one has reserved.

        Args:
            now: The time.
            timeout: The longest time that the request can take, in seconds. A worker that finds
                the flow in `polling` after a crash waits for this time and one interval more.
            reserve: How many more requests whoever holds the flow may send without storing that;
                None if this is one of them.
        """
        transition = self._fire(actions.POLL, now)
        self.attempt += 1
        if reserve is None:
            self.reserved -= 1
        elif reserve:
            self.reserved = reserve
            said = str(Reservation(str(self.driver), reserve))
            transition = transition._replace(detail=trusted(said))
        self.due_at = now + timeout + self._pace()
        return transition

    def receive(
        self,
        result: Response | Failure,
        now: float,
        *,
        duration: float | None = None,
        approver: Approver | None = None,
        uncertainty: float = 0.0,
    ) -> Transition:
        """Process the result of the request.

        Args:
            result: The response, or the failure.
            now: When the response had arrived. The interval starts here: a server that measures
                arrivals could find a poll too early if the interval started at the sending.
            duration: How many seconds the exchange took.
            approver: Decides by the id token's claims whether the approver is accepted, in
                addition to the provider's requirements.
            uncertainty: By how many seconds `now` may be behind the clock that says when the next
                request is due. The interval starts so much later.

        Raises:
            IllegalTransitionError: The flow is not waiting for a response.
        """
        if self.state.ended and self.to_revoke:
            return self._receive_revocation(result, now, duration)
        if self.state not in (State.INIT, State.POLLING):
            raise refusal(self, "receive an answer")
        in_init = self.state is State.INIT
        status, retry_after, credential = None, 0.0, None
        if isinstance(result, Failure):
            answer = Answer(
                "retry",
                error=result.code,
                in_doubt=result.sent,
                unreadable=result.kind == "too_large",
            )
        else:
            status, retry_after = result.status, result.retry_after(now)
            if in_init:
                answer = self.provider.read_code(result)
            else:
                said = self.provider.read_token(result, now)
                answer = judged(self.provider, said, approver)
                answer.hide(*self._secrets(result.credential), user_code=self.user_code)
            credential = result.credential
        detail = self._clean(answer.message, credential)
        if in_init:
            if detail is None and (answer.outcome == "retry" or answer.unreadable):
                detail = trusted(f"HTTP {status}")
            transition = self._receive_code(answer, now, duration or 0.0, retry_after, detail)
        else:
            transition = self._receive_token(answer, now, retry_after, detail)
        self.due_at += uncertainty
        return transition.answered(status, duration)

    def recover(self, now: float, owner: str | None = None) -> Transition:
        """Continue a flow whose worker died during a poll. The server's response is unknown.

        If the worker held the flow, its last request may have been sent at any time until its lease
        ended. So the whole wait begins again, and is up to a quarter longer: the logins of one
        worker must not all be polled at once.

        Args:
            now: The time.
            owner: The worker that died, for the trail.
        """
        detail = trusted(f"the lease of {owner} ran out during a poll") if owner else None
        if self.reserved:
            self.due_at = now + self._pace() * self._jitter()
            detail = trusted(words_of_heir(owner))
        transition = self._fire(actions.RECOVER, now, detail=detail)
        self.in_doubt = self.last_poll_owed = True
        return transition

    def is_routine(self, transition: Transition) -> bool:
        """Tell whether an answer says only that nobody has approved, and to wait as before."""
        wait = transition.wait
        return (
            transition.action is actions.PENDING
            and wait is not None
            and wait < self._pace() + 0.001
        )

    def let_go(self, now: float) -> Transition:
        """Give a held flow back, between two polls."""
        return self._fire(actions.LET_GO, now)

    def end_hold(self) -> None:
        """Hold the flow no more. The next transition is stored, and says what was not."""
        self.driver, self.reserved = None, 0

    def expire(self, now: float) -> Transition:
        """Record that the code has expired."""
        return self._end(actions.EXPIRE, now, detail=trusted("the device code has expired"))

    def cancel(self, now: float, detail: str | None = None) -> Transition:
        """Cancel the login."""
        return self._end(actions.CANCEL, now, Reason.CANCELLED, detail=self._clean(detail))

    def late_token(self, token: Token, attempt: int, now: float) -> Transition:
        """Take a token that arrived after another worker moved the login on.

        The token is never lost silently. If it cannot be taken, because the flow has a token
        already or the login was denied or cancelled, it is recorded as an orphaned token.

        Args:
            token: The token.
            attempt: The number of the poll that the token answers.
            now: The time.

        Raises:
            IllegalTransitionError: The flow never had a device code.
        """
        if not actions.LATE_TOKEN.allowed(self):
            return self.orphan_token(self._revocable(token), now)
        token.possibly_revoked = self.attempt > attempt
        return self._issue(actions.LATE_TOKEN, token, now)

    def orphan_token(self, revocable: tuple[tuple[str, Secret], ...], now: float) -> Transition:
        """Record a token that arrived and is not taken.

        Args:
            revocable: Its tokens that the server can revoke, each with its kind.
            now: The time.

        Raises:
            IllegalTransitionError: The flow never had a device code.
        """
        transition = self._fire(actions.ORPHAN_TOKEN, now)
        return transition._replace(detail=self._set_aside(revocable, now))

    # The hand-over of the token.

    def collect(self, now: float) -> Transition:
        """Record that the token was handed over. It is kept until it is acknowledged.

        Raises:
            IllegalTransitionError: There is no token.
        """
        self._expect(actions.COLLECT, having=self.token is not None)
        return self._fire(actions.COLLECT, now)

    def acknowledge(self, now: float, detail: CleanText | None = None) -> Transition:
        """Wipe the token: the program that collected it has saved it.

        Args:
            now: The time.
            detail: Where the token is by now, for the trail.

        Raises:
            IllegalTransitionError: There is no token.
        """
        self._expect(actions.ACKNOWLEDGE, having=self.token is not None)
        self.token = None
        return self._fire(actions.ACKNOWLEDGE, now, detail=detail)

    def is_of(self, provider: Provider) -> bool:
        """Tell whether the login has just these settings, with its endpoints or without."""
        return settings_of(provider) in (self.settings, settings_of(self.provider))

    def refuse_token(self, why: CleanText, now: float) -> Transition:
        """Wipe a token that does not fit the policy of who would take it, and schedule revocation.

        Args:
            why: Why it does not fit.
            now: The time.

        Raises:
            IllegalTransitionError: There is no token.
        """
        self._expect(actions.REFUSE_TOKEN, having=self.token is not None)
        assert self.token is not None  # noqa: S101  # `_expect` checked it
        detail = self._set_aside(
            self._revocable(self.token), now, f"{why}: the token was not taken"
        )
        self.token, self.detail = None, why
        return self._fire(actions.REFUSE_TOKEN, now, detail=detail)

    def purge(self, now: float) -> Transition:
        """Wipe a token that nobody acknowledged, and schedule its revocation.

        The program that collected the token may have crashed before it saved the token.

        Raises:
            IllegalTransitionError: There is no token.
        """
        self._expect(actions.PURGE, having=self.token is not None)
        assert self.token is not None  # noqa: S101  # `_expect` checked it
        what = "the token was never collected"
        if self.handover is Handover.COLLECTED:
            what = "the token was collected but never acknowledged"
        detail = self._set_aside(self._revocable(self.token), now, what)
        self.token = None
        return self._fire(actions.PURGE, now, detail=detail)

    def abandon_revocation(self, now: float) -> Transition:
        """Give up revoking: wipe the tokens that could not be revoked.

        Raises:
            IllegalTransitionError: The flow has not ended, or has no token to revoke.
        """
        self._expect(actions.ABANDON_REVOCATION, having=bool(self.to_revoke))
        self.to_revoke, self.revocations = (), 0
        detail = trusted("the token could not be revoked and was wiped: revoke it at the server")
        return self._fire(actions.ABANDON_REVOCATION, now, detail=detail)

    # Actions that leave the states as they are.

    def record_import(self, now: float) -> Transition:
        """Record that the flow was imported. Its earlier events are in the store it came from."""
        return self._fire(actions.IMPORT, now)

    def reseal(self, now: float) -> Transition:
        """Record that the flow's secrets are sealed with another key."""
        return self._fire(actions.RESEAL, now)

    def take_over(self, now: float, owner: str) -> Transition:
        """Record that a lease ran out and another worker took it.

        Args:
            now: The time.
            owner: The worker whose lease ran out.

        Raises:
            IllegalTransitionError: The flow is in `polling`, so it must be recovered instead.
        """
        detail = trusted(f"the lease of {owner} ran out between polls")
        return self._fire(actions.TAKE_OVER, now, detail=detail)

    # The rules.

    def _set_aside(
        self,
        revocable: tuple[tuple[str, Secret], ...],
        now: float,
        what: str = "a token was issued and not taken",
    ) -> CleanText:
        """Schedule the revocation of a token, and return the event's detail."""
        self.orphaned_tokens += 1
        if not revocable:
            return trusted(f"{what}: revoke it at the server")
        self.to_revoke += revocable
        self.revocations = len(self.to_revoke)
        if self.state.ended:
            self.due_at, self.failures = now, 0
        return trusted(f"{what}: deviceflow will revoke it")

    def _revocable(self, token: Token) -> tuple[tuple[str, Secret], ...]:
        """Return the parts of a token that the server can revoke, each with its kind."""
        # The refresh token first: its access tokens end with it (RFC 7009 section 2.1).
        kinds = (("refresh_token", token.refresh_token), ("access_token", token.access_token))
        return tuple(
            (kind, secret)
            for kind, secret in kinds
            if secret is not None and self.provider.revocation_request(secret, kind) is not None
        )

    def _receive_revocation(
        self, result: Response | Failure, now: float, duration: float | None
    ) -> Transition:
        """Process the result of a revocation request (RFC 7009 section 2.2)."""
        kind, _ = self.to_revoke[0]
        status = result.status if isinstance(result, Response) else None
        wait, action = None, actions.REVOKE
        if status is not None and status < 300:
            detail = f"the {kind} was revoked"
        elif status is not None and status < 500 and status not in (408, 425, 429):
            action = actions.REVOKE_FAILED
            detail = f"the server refused to revoke the {kind}: revoke it at the server"
        else:
            self.failures += 1
            backoff = pacing.revocation_backoff(self.failures) * self._jitter()
            asked = result.retry_after(now) if isinstance(result, Response) else 0.0
            wait = max(backoff, asked)
            self.due_at = now + wait
            action = actions.REVOKE_FAILED
            detail = f"the {kind} could not be revoked: deviceflow will try again"
        if wait is None:
            self.failures = 0
            self.to_revoke = self.to_revoke[1:]
            self.revocations = len(self.to_revoke)
        transition = self._fire(action, now, wait=wait, detail=trusted(detail))
        return transition.answered(status, duration)

    def _receive_code(
        self,
        answer: Answer,
        now: float,
        duration: float,
        retry_after: float,
        detail: CleanText | None,
    ) -> Transition:
        if answer.code:
            # The lifetime may have begun as early as when the request was sent.
            return self._take_code(answer.code, now, now - duration)
        if answer.outcome == "retry" and not answer.unreadable:
            self.failures += 1
            wait = max(pacing.code_backoff(self.failures) * self._jitter(), retry_after)
            if self.failures < pacing.CODE_ATTEMPTS and wait <= pacing.LONGEST_CODE_WAIT:
                self.due_at = now + wait
                return self._fire(actions.RETRY, now, wait=wait, detail=detail)
            return self._end(actions.FAIL, now, Reason.UNREACHABLE, detail=detail)
        reason = Reason.PROTOCOL if answer.unreadable else answer.reason
        return self._end(actions.FAIL, now, reason, detail=detail)

    def _take_code(self, code: DeviceCode, now: float, issued_at: float) -> Transition:
        self.device_code = code.device_code
        self.user_code = code.user_code
        # Interned: all flows of a server share one string.
        self.token_endpoint = intern(code.token_endpoint)
        self.verification_uri = code.verification_uri
        self.verification_uri_complete = code.verification_uri_complete
        self.extra = code.extra
        self.interval = code.interval
        self.failures = 0
        self.expires_at = None if code.expires_in is None else issued_at + code.expires_in
        wait = self.provider.first_wait
        return self._schedule_retry(actions.ISSUE_CODE, now, self._pace() if wait is None else wait)

    def _receive_token(
        self, answer: Answer, now: float, retry_after: float, detail: CleanText | None
    ) -> Transition:
        if answer.outcome == "refused" and answer.once and not self.failures:
            answer = Answer("retry")
        self.last_poll_owed = False
        self.in_doubt = self.in_doubt or answer.in_doubt
        self.unreadable = self.unreadable + 1 if answer.unreadable else 0
        self.failures = self.failures + 1 if answer.outcome == "retry" else 0
        if answer.token:
            return self._receive_issued(answer, answer.token, now)
        match answer.outcome:
            case "denied":
                return self._end(actions.DENY, now, Reason.DENIED, detail=detail)
            case "expired":
                return self._end(actions.EXPIRE, now, detail=detail)
            case "refused":
                return self._end(actions.FAIL, now, answer.reason, detail=detail)
            case "pending":
                self.in_doubt = False
                action = actions.PENDING
            case "slow_down":
                self.slow_downs += 1
                self.interval = max(self.interval + pacing.SLOW_DOWN, answer.interval)
                action = actions.SLOW_DOWN
            case _:
                if self.unreadable >= UNREADABLE_LIMIT:
                    return self._end(actions.FAIL, now, Reason.PROTOCOL, detail=detail)
                action = actions.RETRY
        if self.expires_at is not None and now >= self.expires_at:
            return self._end(actions.EXPIRE, now, detail=detail)
        return self._schedule_retry(action, now, retry_after, detail)

    def _receive_issued(self, answer: Answer, token: Token, now: float) -> Transition:
        if answer.rejection is None:
            return self._issue(actions.ISSUE_TOKEN, token, now)
        reason, problem = answer.rejection
        self.in_doubt = False
        transition = self._end(actions.FAIL, now, reason, detail=problem)
        self._set_aside(self._revocable(token), now)
        return transition

    def _schedule_retry(
        self, action: Action, now: float, floor: float, detail: CleanText | None = None
    ) -> Transition:
        """Go back to `awaiting-user`, and wait for at least the interval and `floor` seconds."""
        pace = self._pace()
        if action is not actions.ISSUE_CODE:
            floor = max(floor, pace)
        wait = floor
        if self.failures:
            backoff = pacing.poll_backoff(self.interval, self.failures) * self._jitter()
            wait = max(wait, backoff)
        wait = pacing.next_poll(wait, floor, pace, now, self.expires_at)
        self.due_at = now + wait
        if self.expires_at is not None:
            wait = min(wait, max(0.0, self.expires_at - now))
        wait = round(wait, 6)
        return self._fire(action, now, wait=wait, detail=detail)

    def _pace(self) -> float:
        return pacing.between_polls(self.interval, self.provider.margin, self.slow_downs)

    def _jitter(self) -> float:
        return pacing.jitter(self.id, self.seq)

    def _issue(self, action: Action, token: Token, now: float) -> Transition:
        transition = self._fire(action, now)
        self.token = token
        self.in_doubt = False
        self._wipe_poll_secrets(now)
        return transition

    def _end(
        self,
        action: Action,
        now: float,
        reason: Reason | None = None,
        detail: CleanText | None = None,
    ) -> Transition:
        # In doubt, the server may have answered about a code that it exchanged already, for a token
        # that never arrived. Nobody would look for that token after 'denied' or 'expired'.
        if self.in_doubt and reason not in (Reason.CANCELLED, Reason.PROTOCOL):
            action, reason = actions.FAIL, Reason.OUTCOME_UNKNOWN
        transition = self._fire(action, now, detail=detail, reason=reason)
        self._wipe_poll_secrets(now)
        return transition

    def _wipe_poll_secrets(self, now: float) -> None:
        """Wipe the secrets that only polling needs."""
        self.ended_at = now
        self.device_code = self.verifier = None
        if self.to_revoke:
            self.due_at, self.failures = now, 0

    def _fire(
        self,
        action: Action,
        now: float,
        *,
        wait: float | None = None,
        detail: CleanText | None = None,
        reason: Reason | None = None,
    ) -> Transition:
        """Fire an action. Every recorded action goes through this method."""
        source = self.state
        fire(self, action)
        if self.reserved and self.driver is None:
            # Others hold it, or did. What they made of it is unknown, but not its numbers.
            self.seq += 2 * self.reserved
            self.attempt += self.reserved
            self.skipped = self.skipped or (self.moved_at, self.reserved)
            self.reserved = 0
        self.seq += 1
        ahead = self.clock_ahead or pacing.clock_ahead(self.moved_at, now)
        self.moved_at, self.clock_ahead = now, None
        if action.kind is Kind.LOGIN:
            self.detail = detail
            self.reason = reason
        return Transition(
            self.seq, now, action, source, self.state, wait=wait, detail=detail, ahead=ahead
        )

    def _expect(self, action: Action, *, having: bool = True) -> None:
        """Raise an error if an action is not allowed, before anything is changed."""
        if not (having and action.allowed(self)):
            raise refusal(self, action)

    def _clean(self, text: str | None, credential: Secret | None = None) -> CleanText | None:
        """Return the server's message, safe to store and to log."""
        if text is None:
            return None
        known = SecretMatcher(*self._secrets(credential), user_code=self.user_code)
        return CleanText(text, known, redact_lookalikes=True)

    def _secrets(self, credential: Secret | None) -> tuple[Secret | None, ...]:
        """Return the secrets that the server may echo, besides the user code."""
        return self.device_code, self.verifier, credential
