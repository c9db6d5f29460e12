"""One login: its record, and the rules by which it goes on.

Nothing here does I/O, reads a clock, or sleeps. The time and the server's answers come in;
requests, transitions and times to wake up go out. The same few methods serve every driver::

    flow = Flow("f1", provider, now)
    send(flow.request())                  # the device authorization request
    flow.receive(response, now)           # -> issue_code
    flow.wait_seconds(now)                # when to come back
    request = flow.request()              # the token request
    flow.poll(now, timeout)               # -> poll; store it before sending
    send(request)
    flow.receive(response, now)           # -> pending, issue_token, ...

Each method that changes the flow fires one action of `deviceflow.core.actions`, and returns it as a
`Transition`. An action that the flow's states do not allow changes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from sys import intern
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deviceflow.core import actions, pacing
from deviceflow.core.actions import Kind
from deviceflow.core.machine import fire, refusal
from deviceflow.core.provider import DEFAULT_INTERVAL, Answer
from deviceflow.core.sanitize import printable
from deviceflow.core.states import Handover, Reason, State
from deviceflow.core.text import CleanText, Known, ours
from deviceflow.core.wire import Failure, Response
from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from deviceflow.core.actions import Action
    from deviceflow.core.provider import Approver, DeviceCode, Provider, Token
    from deviceflow.core.secret import Secret
    from deviceflow.core.text import PersonText
    from deviceflow.core.wire import Request

UNREADABLE_LIMIT: Final = 3
"""How many unreadable answers in a row end a flow."""

LONGEST_PURPOSE: Final = 200
"""Characters that a login's purpose may have."""


def checked_purpose(purpose: object) -> str | None:
    """Return the purpose, if it is one line of printable text or None.

    Raises:
        UsageError: It is not.
    """
    if purpose is None:
        return None
    if not isinstance(purpose, str) or not purpose.strip():
        raise UsageError(
            "The purpose of a login is a text, and not empty.",
            hint="Say in a few words why the login is needed, or leave the purpose out.",
        )
    if len(purpose) > LONGEST_PURPOSE or printable(purpose, LONGEST_PURPOSE) != purpose:
        raise UsageError(
            f"The purpose of a login is one line of at most {LONGEST_PURPOSE} printable"
            f" characters. This one has {len(purpose)} characters, or some that do not print.",
            hint="It is shown to the person who approves, and kept in the record.",
        )
    return str.__str__(purpose)


def _judged(answer: Answer, approver: Approver | None) -> Answer:
    """Return the answer, with its token unfit if the program's own policy says so."""
    if answer.token is None or answer.unfit or approver is None:
        return answer
    if answer.claims is None:
        problem = "the server sent no id token that says who approved"
    elif approver(answer.claims.as_dict()):
        return answer
    else:
        problem = "the program does not take a login from whoever approved"
    return replace(answer, unfit=(Reason.WRONG_APPROVER, ours(problem)))


class Transition(NamedTuple):
    """One thing that happened to a flow.

    Attributes:
        seq: Its number in the flow, from 1.
        at: When, in seconds since 1970.
        action: What happened.
        source: The state before.
        dest: The state after.
        status: The HTTP status that led to it.
        duration: How many seconds the exchange took.
        wait: Seconds until something is to be done: the next request, or giving the code up.
        detail: The server's own words, cleaned, or what the program gave as a reason.
    """

    seq: int
    at: float
    action: Action
    source: State
    dest: State
    status: int | None = None
    duration: float | None = None
    wait: float | None = None
    detail: CleanText | None = None


class Flow:
    """One login.

    Attributes:
        id: The flow's name; no secret.
        name: The caller's own name for the login, where one was given: one open login per name.
        purpose: Why the login is needed, as the program states it. Shown and recorded.
        provider: The server, and what is asked of it.
        state: Where it stands.
        reason: Why it failed.
        detail: The server's own words on it, cleaned.
        device_code: What is polled with; a secret, and gone once the flow has ended.
        user_code: What the person compares or types. To be shown, not logged.
        verification_uri: The page to open; None where the server sent none that can be opened.
        verification_uri_complete: The same with the code in it, where the dialect has it.
        token_endpoint: Where it polls.
        extra: What else the server sent, as pairs.
        created_at: When it began, in seconds since 1970, as all times here.
        ended_at: When it came to an end, if it has.
        expires_at: When the code's life is over; None leaves it to the server.
        due_at: Before this no request is sent.
        interval: Seconds between polls, as the server wants it by now.
        attempt: How many token requests were made ready to send.
        seq: How many transitions it has gone through.
        failures: How many times in a row no usable answer came.
        unreadable: How many answers in a row were not of the protocol.
        slow_downs: How often the server found it too fast.
        in_doubt: Whether the server may have issued a token that did not arrive.
        last_poll_owed: Whether one more poll is made even if the code's life is over by then.
        token: The token, once there is one, and until it is acknowledged or purged.
        handover: How far the token is handed over.
        head: The hash of its last transition, where a trail of them is kept.
        moved_at: When its last transition was. No wait of it began later.
        as_stored: A store's own, about what it has written of the flow.
        verifier: The PKCE verifier (RFC 7636), a secret, where the server takes one.
        orphaned_tokens: How many tokens came that could not be taken, and must be revoked.
        to_revoke: Those of them that the server can be asked to revoke, each with its kind.
        revocations: How many revocation requests are left to send: known without the secrets, too.
    """

    __slots__ = (
        "as_stored",
        "attempt",
        "created_at",
        "detail",
        "device_code",
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
        "orphaned_tokens",
        "provider",
        "purpose",
        "reason",
        "revocations",
        "seq",
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
    ) -> None:
        self.id = flow_id
        self.name = name and str.__str__(
            name
        )  # an enum's member is a text as well; this is the text
        self.purpose = checked_purpose(purpose)
        self.provider = provider
        self.state = State.INIT
        self.reason: Reason | None = None
        self.detail: CleanText | None = None
        self.device_code: Secret | None = None
        self.user_code: PersonText | None = None
        self.verification_uri: PersonText | None = None
        self.verification_uri_complete: PersonText | None = None
        self.token_endpoint: str | None = None
        self.extra: tuple[tuple[str, CleanText | None], ...] = ()
        self.created_at = now
        self.ended_at: float | None = None
        self.expires_at: float | None = None
        self.due_at = now
        self.moved_at = now
        self.interval = DEFAULT_INTERVAL
        self.attempt = 0
        self.seq = 0
        self.failures = 0
        self.unreadable = 0
        self.slow_downs = 0
        self.in_doubt = False
        self.last_poll_owed = False
        self.token: Token | None = None
        self.handover = Handover.NONE
        self.head: str | None = None
        self.verifier = verifier
        self.orphaned_tokens = 0
        self.to_revoke: tuple[tuple[str, Secret], ...] = ()
        self.revocations = 0
        self.as_stored: Any = None

    def __repr__(self) -> str:
        return f"<Flow {self.id} {self.state}>"

    @property
    def live(self) -> bool:
        """Whether it has not ended, or its token is still kept: its name is taken."""
        return not self.state.ended or self.token is not None

    # What is to be done, and when.

    @property
    def wake_at(self) -> float | None:
        """When something is to be done that nobody needs to be there for; None for never.

        In `init` somebody should be: the code that comes of it does not live long.
        """
        if self.state is State.INIT or (self.state.ended and not self.revocations):
            return None
        return self._deadline_if_last() or self.due_at

    def wait_seconds(self, now: float) -> float:
        """Return the seconds until something is to be done; 0 if it is now, or never again.

        After the end that is a token to revoke, where one is left.
        """
        if self.state.ended and not self.revocations:
            return 0.0
        if self._clock_was_set_back(now):
            return 0.0  # or whoever comes next would wait for as long as the clock lost
        return pacing.seconds_left(self._deadline_if_last() or self.due_at, now)

    def overdue(self, now: float) -> bool:
        """Tell whether the code's life is over, and no poll is left to make before saying so."""
        deadline = self._deadline_if_last()
        return deadline is not None and pacing.seconds_left(deadline, now) == 0

    def _clock_was_set_back(self, now: float) -> bool:
        """Tell so, if the clock was looked at after the flow was read."""
        return self.moved_at - now > pacing.CLOCK_TOLERANCE

    def follow_clock(self, now: float) -> bool:
        """Move the flow's times to a clock that was set back since its last transition.

        How long ago that was is not known, so what was to be waited for counts as over; only after
        a poll whose answer never came, all of it is waited for again.

        Args:
            now: What the clock says, looked at after the flow was read.

        Returns:
            Whether the clock was set back.
        """
        if not self._clock_was_set_back(now):
            return False
        back = self.moved_at - now
        self.due_at = self.due_at - back if self.state is State.POLLING else now
        if self.expires_at is not None:
            self.expires_at -= back
        self.moved_at = now
        return True

    def _deadline_if_last(self) -> float | None:
        """Return the deadline if it comes before the next poll, which then is never made.

        A poll that was due before the deadline and was missed, since nobody was awake, is still
        made: the approval may have come in time.
        """
        if self.expires_at is None or self.due_at < self.expires_at or self.last_poll_owed:
            return None
        return None if self.state.ended else self.expires_at

    def request(self) -> Request:
        """Return the request that is due next: for a code in `init`, else for the token.

        After the end there may be tokens to revoke, and then it is the request for that.

        Raises:
            UsageError: The flow came here without its secrets.
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

    # What happens to it.

    def adopt(self, code: DeviceCode, now: float) -> Transition:
        """Take over a device code that was issued elsewhere.

        Raises:
            IllegalTransitionError: The flow has one already.
        """
        self._expect(actions.ISSUE_CODE)
        self.verifier = None  # the code was asked for without it
        return self._take_code(code, now, now)

    def poll(self, now: float, timeout: float) -> Transition:
        """Announce a token request, to be stored before it is sent.

        Args:
            now: The time.
            timeout: The longest that the request can take, in seconds. Whoever finds the flow
                in `polling` after a crash waits for that and an interval more.
        """
        transition = self._fire(actions.POLL, now)
        self.attempt += 1
        self.due_at = now + timeout + self._pace()
        return transition

    def receive(
        self,
        result: Response | Failure,
        now: float,
        *,
        duration: float | None = None,
        approver: Approver | None = None,
    ) -> Transition:
        """Take in what came of the request.

        Args:
            result: The answer, or why there is none.
            now: When it had come, which is what the interval is counted from: servers that count
                arrivals would find a poll too early that was counted from the sending.
            duration: How many seconds the exchange took.
            approver: Decides on the claims of whoever approved, besides what the provider
                requires.

        Raises:
            IllegalTransitionError: No request of this flow is on its way.
        """
        if self.state.ended and self.to_revoke:
            return self._receive_revocation(result, now, duration)
        if self.state not in (State.INIT, State.POLLING):
            raise refusal(self, "receive an answer")
        in_init = self.state is State.INIT
        status, retry_after = None, 0.0
        if isinstance(result, Failure):
            answer = Answer(
                "retry",
                error=result.kind,
                in_doubt=result.sent,
                unreadable=result.kind == "too_large",
            )
        else:
            status, retry_after = result.status, result.retry_after(now)
            if in_init:
                answer = self.provider.read_code(result)
            else:
                answer = _judged(self.provider.read_token(result, now), approver)
                if answer.token is not None:
                    answer.token.hide(self._known())
        detail = self._clean(answer.error)
        if in_init:
            transition = self._receive_code(answer, now, duration or 0.0, retry_after, detail)
        else:
            transition = self._receive_token(answer, now, retry_after, detail)
        return transition._replace(status=status, duration=duration)

    def recover(self, now: float, owner: str | None = None) -> Transition:
        """Go on after whoever polled died, not knowing what the server answered.

        Args:
            now: The time.
            owner: Who died, for the record.
        """
        detail = ours(f"left behind by {owner}") if owner else None
        transition = self._fire(actions.RECOVER, now, detail=detail)
        self.in_doubt = self.last_poll_owed = True
        return transition

    def expire(self, now: float) -> Transition:
        """Declare the code's life over."""
        return self._end(actions.EXPIRE, now, detail=ours("the code's lifetime is over"))

    def cancel(self, now: float, detail: str | None = None) -> Transition:
        """Give the login up."""
        return self._end(actions.CANCEL, now, Reason.CANCELLED, detail=self._clean(detail))

    def late_token(self, token: Token, attempt: int, now: float) -> Transition:
        """Take a token that comes after others went on without it.

        It is never dropped: where it cannot be taken, since the flow has a token or somebody said
        no, the record says that one was issued which must be revoked.

        Args:
            token: The token.
            attempt: The poll that brought it.
            now: The time.

        Raises:
            IllegalTransitionError: The flow was never given a code.
        """
        if not actions.LATE_TOKEN.allowed(self):
            return self.orphan_token(self._revocable(token), now)
        token.possibly_revoked = self.attempt > attempt
        return self._issue(actions.LATE_TOKEN, token, now)

    def orphan_token(self, revocable: tuple[tuple[str, Secret], ...], now: float) -> Transition:
        """Put on record that a token came which is not taken.

        Args:
            revocable: What is to be revoked of it, each with its kind.
            now: The time.

        Raises:
            IllegalTransitionError: The flow was never given a code.
        """
        transition = self._fire(actions.ORPHAN_TOKEN, now)
        return transition._replace(detail=self._set_aside(revocable, now))

    # The hand-over of the token.

    def collect(self, now: float) -> Transition:
        """Put on record that the token was handed over. It is kept until it is acknowledged.

        Raises:
            IllegalTransitionError: There is no token.
        """
        self._expect(actions.COLLECT, having=self.token is not None)
        return self._fire(actions.COLLECT, now)

    def acknowledge(self, now: float) -> Transition:
        """Wipe the token: whoever collected it has it safe.

        Raises:
            IllegalTransitionError: There is no token.
        """
        self._expect(actions.ACKNOWLEDGE, having=self.token is not None)
        self.token = None
        return self._fire(actions.ACKNOWLEDGE, now)

    def purge(self, now: float) -> Transition:
        """Wipe the token that nobody acknowledged.

        It may be in nobody's hands: whoever collected it may have died with it. So it is set aside
        to be revoked.

        Raises:
            IllegalTransitionError: There is no token.
        """
        self._expect(actions.PURGE, having=self.token is not None)
        assert self.token is not None  # noqa: S101  # as was expected
        what = "nobody collected the token"
        if self.handover is Handover.COLLECTED:
            what = "the token was collected and never acknowledged"
        detail = self._set_aside(self._revocable(self.token), now, what)
        self.token = None
        return self._fire(actions.PURGE, now, detail=detail)

    def abandon_revocation(self, now: float) -> Transition:
        """Wipe the tokens that are left to revoke, and revoke none of them.

        Raises:
            IllegalTransitionError: The flow has not ended, or nothing is left to revoke.
        """
        self._expect(actions.ABANDON_REVOCATION, having=bool(self.to_revoke))
        self.to_revoke, self.revocations = (), 0
        detail = ours("what was to be revoked is not kept any longer: revoke it at the server")
        return self._fire(actions.ABANDON_REVOCATION, now, detail=detail)

    # What happens to it beside that.

    def record_import(self, now: float) -> Transition:
        """Put on record that the flow came from elsewhere, where its transitions so far are."""
        return self._fire(actions.IMPORT, now)

    def reseal(self, now: float) -> Transition:
        """Put on record that the flow is sealed with another key."""
        return self._fire(actions.RESEAL, now)

    def take_over(self, now: float, owner: str) -> Transition:
        """Put on record that the lease ran out of somebody who never gave it back.

        Args:
            now: The time.
            owner: Who had it.

        Raises:
            IllegalTransitionError: The flow is in `polling`, and so is to be recovered.
        """
        return self._fire(actions.TAKE_OVER, now, detail=ours(f"left behind by {owner}"))

    # The rules.

    def _set_aside(
        self,
        revocable: tuple[tuple[str, Secret], ...],
        now: float,
        what: str = "a token was issued that is not kept",
    ) -> CleanText:
        """Remember to revoke a token, and return what to say of that."""
        self.orphaned_tokens += 1
        if not revocable:
            return ours(f"{what}: revoke it at the server")
        self.to_revoke += revocable
        self.revocations = len(self.to_revoke)
        if self.state.ended:
            self.due_at, self.failures = now, 0
        return ours(f"{what}: it will be revoked")

    def _revocable(self, token: Token) -> tuple[tuple[str, Secret], ...]:
        """Return what the server can be asked to revoke of a token, each with its kind."""
        # The refresh token first: what it has brought ends with it (RFC 7009 section 2.1).
        kinds = (("refresh_token", token.refresh_token), ("access_token", token.access_token))
        return tuple(
            (kind, secret)
            for kind, secret in kinds
            if secret is not None and self.provider.revocation_request(secret, kind) is not None
        )

    def _receive_revocation(
        self, result: Response | Failure, now: float, duration: float | None
    ) -> Transition:
        """Take in what came of a revocation (RFC 7009 section 2.2)."""
        kind, _ = self.to_revoke[0]
        status = result.status if isinstance(result, Response) else None
        wait, action = None, actions.REVOKE
        if status is not None and status < 300:
            detail = f"the {kind} is revoked"
        elif status is not None and status < 500 and status not in (408, 425, 429):
            action = actions.REVOKE_FAILED
            detail = f"the server refuses to revoke the {kind}: do it there"
        else:
            self.failures += 1
            backoff = pacing.revocation_backoff(self.failures) * self._jitter()
            asked = result.retry_after(now) if isinstance(result, Response) else 0.0
            wait = max(backoff, asked)
            self.due_at = now + wait
            action = actions.REVOKE_FAILED
            detail = f"the {kind} is not revoked yet: trying again"
        if wait is None:
            self.failures = 0
            self.to_revoke = self.to_revoke[1:]
            self.revocations = len(self.to_revoke)
        transition = self._fire(action, now, wait=wait, detail=ours(detail))
        return transition._replace(status=status, duration=duration)

    def _receive_code(
        self,
        answer: Answer,
        now: float,
        duration: float,
        retry_after: float,
        detail: CleanText | None,
    ) -> Transition:
        if answer.code:
            # The lifetime began when the server answered, at the earliest when it was asked.
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
        # The same for every flow of a server: kept once.
        self.token_endpoint = intern(code.token_endpoint)
        self.verification_uri = code.verification_uri
        self.verification_uri_complete = code.verification_uri_complete
        self.extra = code.extra
        self.interval = code.interval
        self.failures = 0
        self.expires_at = None if code.expires_in is None else issued_at + code.expires_in
        wait = self.provider.first_wait
        return self._again(actions.ISSUE_CODE, now, self._pace() if wait is None else wait)

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
        return self._again(action, now, retry_after, detail)

    def _receive_issued(self, answer: Answer, token: Token, now: float) -> Transition:
        if answer.unfit is None:
            return self._issue(actions.ISSUE_TOKEN, token, now)
        reason, problem = answer.unfit
        self.in_doubt = False
        transition = self._end(actions.FAIL, now, reason, detail=problem)
        self._set_aside(self._revocable(token), now)
        return transition

    def _again(
        self, action: Action, now: float, floor: float, detail: CleanText | None = None
    ) -> Transition:
        """Go back to waiting, for no less than the interval and `floor` seconds."""
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
        self._let_go(now)
        return transition

    def _end(
        self,
        action: Action,
        now: float,
        reason: Reason | None = None,
        detail: CleanText | None = None,
    ) -> Transition:
        # An end that the server gives, or that its silence gives, may be about a code that was
        # used up by a token that never arrived. Whoever reads 'denied' would not look for it.
        if self.in_doubt and reason not in (Reason.CANCELLED, Reason.PROTOCOL):
            action, reason = actions.FAIL, Reason.OUTCOME_UNKNOWN
        transition = self._fire(action, now, detail=detail, reason=reason)
        self._let_go(now)
        return transition

    def _let_go(self, now: float) -> None:
        """Forget what only polling needs; what is left to do is to revoke, if anything."""
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
        """Let an action happen: each that is recorded comes through here."""
        source = self.state
        fire(self, action)
        self.seq += 1
        self.moved_at = now
        if action.kind is Kind.LOGIN:
            self.detail = detail
            self.reason = reason
        return Transition(self.seq, now, action, source, self.state, wait=wait, detail=detail)

    def _expect(self, action: Action, *, having: bool = True) -> None:
        """Refuse an action before anything is changed for it, unless it is allowed."""
        if not (having and action.allowed(self)):
            raise refusal(self, action)

    def _clean(self, text: str | None) -> CleanText | None:
        """Return the server's words as what may be kept and logged."""
        return None if text is None else CleanText(text, self._known(), looks=True)

    def _known(self) -> Known:
        """Return the secrets that the server knows, and may echo."""
        return Known(self.device_code, self.verifier, user_code=self.user_code)
