"""The sync driver: it performs what a step asks for, and loops over steps to wait."""

from __future__ import annotations

import getpass
import itertools
import logging
import os
import platform
import secrets
import sys
import threading
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from deviceflow import _forks as forks
from deviceflow import errors
from deviceflow.audit import log
from deviceflow.audit.events import render
from deviceflow.audit.jsonl import JSONLinesAudit
from deviceflow.client.browser import open_page
from deviceflow.client.clock import SystemClock, Timeline
from deviceflow.client.step import (
    LEASE_MARGIN,
    Commit,
    Exchange,
    Look,
    Reload,
    Send,
    Step,
    TakeLease,
    deliver,
    step,
)
from deviceflow.core.explain import error_of, instructions
from deviceflow.core.flow import CLOCK_TOLERANCE, Flow, checked_purpose
from deviceflow.core.machine import State
from deviceflow.core.ports import Claim, LeaseHeld, Origin, StoreEvent, each
from deviceflow.core.provider import DeviceCode, Provider, Token
from deviceflow.core.sanitize import crosses_in_clear, endpoint, web_url
from deviceflow.core.secret import Secret, without_frames
from deviceflow.core.text import CleanText, Known
from deviceflow.core.wire import Failure, Request
from deviceflow.credentials import secret_refs
from deviceflow.credentials.client_auth import authenticated
from deviceflow.stores.memory import MemoryStore
from deviceflow.transports.requests import RequestsTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from deviceflow.client.step import Effect
    from deviceflow.core.flow import Transition
    from deviceflow.core.ports import Clock, Store, Transport
    from deviceflow.core.provider import Approver
    from deviceflow.core.wire import Fields, Response

DEADLINE: Final = 10.0
"""Seconds that one request may take, all in all, unless the client says otherwise."""

METADATA_LIFETIME: Final = 3600.0
"""Seconds for which a client keeps the metadata of a server."""

DAY: Final = 86400.0

_MOST_PROBLEMS: Final = 1000
"""How many flows one sweep passes over at the most."""

_UNSAID: Final = Origin()

_BRINGING: Final = ("grant", "late_grant")

_JSON: Final = {"Accept": "application/json"}


def _say_unreadable(problem: errors.DeviceFlowError) -> None:
    log.emit(
        log.UNREADABLE, {"flow_id": problem.flow_id, "problem": problem.message}, logging.WARNING
    )


class Swept(NamedTuple):
    """What a sweep did.

    Attributes:
        steps: Where each flow stands that was due.
        problems: What kept others from being stepped. They are left alone for a minute, and for
            twice as long each time that this happens again, up to an hour.
    """

    steps: list[Step]
    problems: list[errors.DeviceFlowError]


class Purged(NamedTuple):
    """What a purge did.

    Attributes:
        tokens: How many flows' secrets were wiped.
        flows: How many flows were dropped.
        problems: What kept others from being wiped.
    """

    tokens: int
    flows: int
    problems: list[errors.DeviceFlowError]


class Client:
    """Drives logins, of any number of providers, one step at a time or to their end.

    Every part that touches the world can be replaced. A client may be used from any thread. As a
    context manager it closes its connections at the end.

    Args:
        store: Where flows live. By default, in this process's memory.
        transport: What sends requests.
        clock: What tells the time and waits.
        browser: What opens a page; it says whether it could.
        output: Where `login` writes what the person must read; a function that takes a line.
        approver: The program's own policy on who may approve: it is given the claims of the id
            token, and says whether to take the token. Where no id token came, it is not taken.
        deadline: How many seconds one request may take, all in all.
        origin: Who it works for, for the record: an actor, an engine and its task. The actor is by
            default what `DEVICEFLOW_ACTOR` says, or the user of the operating system.
        audit: A file for the events, where the store keeps no trail of them; by default the one
            that `DEVICEFLOW_AUDIT` names, if it names one.
    """

    def __init__(
        self,
        store: Store | None = None,
        *,
        transport: Transport | None = None,
        clock: Clock | None = None,
        browser: Callable[[str], bool] = open_page,
        output: Callable[[str], object] | None = None,
        approver: Approver | None = None,
        deadline: float = DEADLINE,
        origin: Origin = _UNSAID,
        audit: JSONLinesAudit | None = None,
    ) -> None:
        self._store: Store = MemoryStore() if store is None else store
        self._transport = transport or RequestsTransport()
        self._clock = clock or SystemClock()
        self._timeline = Timeline(self._clock, _say_jumped)
        self._browser = browser
        self._output = output or (lambda line: print(line, file=sys.stderr))  # noqa: T201
        self._approver = approver
        self._deadline = deadline
        self._metadata: dict[str, tuple[float, Fields]] = {}
        self._origin = origin._replace(host=platform.node(), actor=origin.actor or _actor())
        self._audit = audit or JSONLinesAudit.from_env()
        self._steps = itertools.count(1)
        self._unverified: set[str] = set()
        self._renew()
        forks.in_child(self._renew)

    def _renew(self) -> None:
        """Begin, in a forked child too, with what belongs to one process.

        A token that the parent could not save yet is the parent's to save: saved twice, it would
        be revoked once as a second token.
        """
        self._name = secrets.token_hex(6)
        self._waiting: set[tuple[str, threading.Event]] = set()
        self._stranded: dict[str, tuple[Flow, dict[str, Any]]] = {}

    @property
    def durable(self) -> bool:
        """Whether its flows outlive this process."""
        return self._store.durable

    def start(
        self,
        provider: Provider,
        *,
        key: str | None = None,
        purpose: str | None = None,
        **request: Any,
    ) -> Flow:
        """Ask the server for a device code, and return the flow that holds it.

        A server that does not answer is asked a few times more, within some seconds.

        Args:
            provider: The server.
            key: The caller's own name for this login. While a flow of that key lives it is
                returned, with the code it has, instead of asking for a new one; it must be at the
                same server, and ask for the same. A flow that was approved lives until its token
                is acknowledged, or purged.
            purpose: Why this login is needed: one line of at most 200 printable characters, and
                nothing secret. The person who approves is shown it, and each event records it. A
                server is sent it only where it is known to take it.
            **request: What to ask for; the provider says what there is.

        Raises:
            ServerError: The server refused, or could not be reached or understood.
            UsageError: The request is not one that can be made.
        """
        flow = self.create(provider, key=key, purpose=purpose, **request)
        if flow.expires_at is not None and flow.expires_at <= self._now() and not flow.state.ended:
            # Nobody came back while that key's code lived. It may have been approved in time.
            if self.step(flow.id).state in (State.EXPIRED, State.FAILED):
                flow = self.create(provider, key=key, purpose=purpose, **request)
            else:
                flow = self.get(flow.id)
        with self._waiting_for(flow.id) as wake:
            while flow.state is State.INIT:
                done = self.step(flow.id)
                if done.state is State.INIT:
                    # Another one may be asking already, and have the code in a moment.
                    self._clock.sleep(min(done.wait_seconds, 0.5), wake)
                flow = self.get(flow.id)
        if flow.reason is not None:
            self._metadata.pop(provider.server, None)  # it may be why
            raise error_of(flow)
        return flow

    def create(
        self,
        provider: Provider,
        *,
        key: str | None = None,
        purpose: str | None = None,
        **request: Any,
    ) -> Flow:
        """Return a flow in `init`; nothing is sent yet, its first step asks for the code.

        For logins that are asked for now and looked at later: a code's short life should begin
        when the person is there. The arguments are `start`'s.

        Raises:
            UsageError: The request is not one that can be made.
        """
        purpose = checked_purpose(purpose)  # before anything is sent
        provider = _shared(self._discovered(provider.with_request(**request)))
        secret_refs.allow(provider)
        verifier = Secret(secrets.token_urlsafe(48)) if provider.uses_pkce else None
        now = self._now()
        flow = Flow(_new_id(), provider, now, key=key, verifier=verifier, purpose=purpose)
        address = _clear_address(flow.request().url)
        kept = self._store.add(flow, store_event=self._plain_http(flow, address))
        if kept is flow:
            _warn(flow, address)
        elif kept.purpose != purpose or kept.provider.to_dict() != provider.to_dict():
            raise errors.UsageError(
                f"A login of the key {key!r} is under way at {kept.provider.server}, and asks for"
                " something else, or for another purpose.",
                flow_id=kept.id,
                state=kept.state,
                hint="Use another key, or end that login first: cancel it, or if it was approved,"
                " acknowledge its token.",
            )
        return kept

    def adopt(self, provider: Provider, *, token_endpoint: str, device_code: Secret) -> Flow:
        """Return a flow that goes on with a device code issued elsewhere.

        It has no deadline but the server's.
        """
        allow_http, server = provider.allow_http, provider.server
        code = DeviceCode(
            device_code, endpoint(token_endpoint, allow_http=allow_http, server=server)
        )
        flow = self.create(provider)
        self._commit(flow, flow.adopt(code, flow.created_at), self._worker())
        return flow

    def get(self, flow_id: str, *, secrets: bool = True) -> Flow:
        """Return the flow as it stands.

        Args:
            flow_id: The flow.
            secrets: Whether with its secrets. To hand the token over, `token` or `collect` is the
                way, which puts that on record.

        Raises:
            UnknownFlowError: The store has none of that id.
        """
        return self._store.get(flow_id, secrets=secrets)

    def flows(
        self,
        *,
        live: bool = False,
        on_problem: Callable[[errors.DeviceFlowError], object] = _say_unreadable,
    ) -> Iterator[Flow]:
        """Yield the flows in the store, the newest first, without their secrets.

        Args:
            live: Only those that have not ended.
            on_problem: Told of each flow that cannot be read, which is passed over. By default
                that is logged, as `deviceflow.unreadable`.
        """
        return self._store.flows(live=live, on_problem=on_problem)

    def step(self, flow_id: str) -> Step:
        """Do what is due for the flow: at most one request, and no sleeping.

        Returns:
            Where it stands, and in how many seconds to call again.

        Raises:
            UnknownFlowError: The store has none of that id.
            StoreError: The store failed. A token that had come is kept in this client, and the
                next step brings it to the store.
        """
        self._bring(flow_id)
        return self._drive(step(self._deadline, self._approver), self._worker(), flow_id)

    def sweep(self, limit: int = 100) -> Swept:
        """Step whatever is due, each flow once: what a periodic task calls.

        Flows that nobody drives any more are brought to their end so. A login that was created and
        not yet started is left for whoever will be there to see its code.

        Args:
            limit: How many flows to step at the most.
        """
        swept = Swept([], [])
        for unsaved in list(self._stranded):
            try:
                self._bring(unsaved)
            except errors.DeviceFlowError as problem:
                swept.problems.append(problem)
        now = self._timeline.now()
        self._store.wake_after_clock_change(now)
        for leased, taken_at in self._store.leases_taken_after(now):
            self._void(leased, taken_at, now)
        while len(swept.steps) < limit and len(swept.problems) < _MOST_PROBLEMS:
            worker = self._worker()
            seconds = self._deadline + LEASE_MARGIN
            since, begun = self._look()
            flow_id: str | None = None
            try:
                due = self._store.claim_due(worker, begun, seconds)
                if due is None:
                    break
                flow_id = due.flow.id
                if due.flow.wake_at is None or due.flow.wait_seconds(due.now) > 0:
                    # Whoever woke it did so behind the store's back.
                    self._store.reschedule(due.flow, worker)
                    continue
                steps = step(self._deadline, self._approver)
                swept.steps.append(self._drive(steps, worker, flow_id, (due, since, begun)))
            except errors.DeviceFlowError as problem:
                if problem.flow_id is None:
                    problem.flow_id = flow_id
                if problem.flow_id is None:
                    raise  # it is about the store
                self._store.snooze(problem.flow_id, worker, self._timeline.now())
                swept.problems.append(problem)
        return swept

    def _drive(
        self,
        steps: Generator[Effect, Any, Step],
        worker: str,
        flow_id: str,
        taken: tuple[Claim, float, float] | None = None,
    ) -> Step:
        """Perform what the steps ask for, under the worker's name.

        Args:
            steps: The steps.
            worker: The worker.
            flow_id: The flow.
            taken: The lease, if the worker has it, and what `_look` said before it was taken.
        """
        result: Any = None
        interrupt: BaseException | None = None
        now, since, begun = 0.0, 0.0, 0.0
        while True:
            try:
                effect = steps.send(result)
            except StopIteration as stop:
                report: Step = stop.value
                break
            match effect:
                case TakeLease(seconds):
                    if taken:
                        result, since, begun = taken
                    else:
                        result, since, begun = self._claim(flow_id, worker, seconds)
                    self._check_references(result, worker)
                    now = getattr(result, "now", begun)
                case Commit(flow, transition, release):
                    result = self._commit(flow, transition, worker, worker if release else None)
                case Send(request, timeout):
                    sent = self._clock.monotonic()
                    outcome, interrupt = self._send(request, timeout, now, since, begun)
                    arrived = self._clock.monotonic()
                    result = Exchange(outcome, now + (arrived - since), arrived - sent)
                case Look():
                    result = self._now()
                    now = result - (self._clock.monotonic() - since)
                case Reload():
                    result = self._store.get(flow_id)
                case _:  # a Release
                    self._store.release(flow_id, worker)
        self._brought(flow_id, worker)
        if interrupt is not None:
            raise interrupt
        return report

    def _check_references(self, claim: Claim | LeaseHeld, worker: str) -> None:
        """Give the lease back where the flow's client secret is none of this process's."""
        if isinstance(claim, LeaseHeld) or (claim.flow.state.ended and not claim.flow.to_revoke):
            return
        try:
            secret_refs.check(claim.flow.provider)
        except errors.UsageError as problem:
            problem.flow_id, problem.state = claim.flow.id, claim.flow.state
            self._store.release(claim.flow.id, worker)
            raise

    def _claim(
        self, flow_id: str, worker: str, seconds: float
    ) -> tuple[Claim | LeaseHeld, float, float]:
        """Take the lease; return what came of it, and what both clocks said before."""
        since, begun = self._look()
        claim = self._store.claim(flow_id, worker, begun, seconds)
        if isinstance(claim, LeaseHeld) and self._void(flow_id, claim.since, begun):
            since, begun = self._look()
            claim = self._store.claim(flow_id, worker, begun, seconds)
        return claim, since, begun

    def _void(self, flow_id: str, taken_at: float | None, begun: float) -> bool:
        """End a lease that a clock has written which was set back since, and tell whether it is.

        Args:
            flow_id: The flow.
            taken_at: When the lease was taken.
            begun: What the clock said before that was read.
        """
        if taken_at is None or taken_at <= begun + CLOCK_TOLERANCE:
            return False
        now = self._now()  # looked at after the lease was
        if taken_at <= now + CLOCK_TOLERANCE:
            return False  # somebody has taken it just now
        self._store.end_lease(flow_id, taken_at, now)
        return True

    def _look(self) -> tuple[float, float]:
        """Return what both clocks say at one moment, for a lease that is taken next to count from.

        Taking it may mean to wait for others, and that is time of the lease, too. The monotonic
        clock is read first: a moment in between makes it later than it is, and no poll too early.
        """
        while True:
            since = self._clock.monotonic()
            begun = self._timeline.now()
            if self._clock.monotonic() - since < CLOCK_TOLERANCE / 2:
                return since, begun

    def _send(
        self, request: Request, timeout: float, now: float, since: float, begun: float
    ) -> tuple[Response | Failure, BaseException | None]:
        """Send the request, unless too little of the lease is left.

        Args:
            request: The request.
            timeout: As for `Transport.send`.
            now: The time.
            since: What the monotonic clock said before the lease was taken.
            begun: What the wall clock said then.

        Returns:
            What came of it, and what interrupted it.
        """
        try:
            ready = authenticated(request, now)  # a key that must be fetched takes its time
            # Whichever clock says more: one of them may have stood still meanwhile.
            passed = max(self._clock.monotonic() - since, self._timeline.now() - begun)
            if passed > LEASE_MARGIN / 2:
                return Failure("lease", sent=False), None
            return self._transmit(ready, timeout), None
        except BaseException as stop:  # noqa: BLE001  # to be raised once it is stored
            # A store's error is about what had to be put on record before.
            unsent = isinstance(stop, errors.UsageError | errors.StoreError | ImportError)
            # Without the frames below, whose locals hold what was being sent.
            interrupt = without_frames(stop)
            return Failure("interrupted", sent=not unsent), interrupt

    def wait(
        self,
        flow_id: str,
        timeout: float | None = None,
        *,
        on_step: Callable[[Step], object] = lambda _: None,
    ) -> Token:
        """Step until the flow ends, and return its token, as `token` does.

        Interrupted by Ctrl-C, a flow in a store that persists can be gone on with; one in memory
        is cancelled, since nobody could.

        Args:
            flow_id: The flow.
            timeout: How many seconds to wait at the most; None for as long as the code lives.
            on_step: Called after each step, to show how things stand. What it raises ends the
                waiting, and not the login.

        Raises:
            WaitTimeoutError: The time is up, and the login still pending.
            LoginError: The login ended without a token: expired, denied, cancelled (by another
                thread, say), or unknown.
            ServerError: The server refused for good, or cannot be understood.
            UnknownFlowError: The store has none of that id.
        """
        self.settle(flow_id, timeout, on_step=on_step)
        return self.token(flow_id)

    def settle(
        self,
        flow_id: str,
        timeout: float | None = None,
        *,
        on_step: Callable[[Step], object] = lambda _: None,
    ) -> Step:
        """Step until the flow ends, and return how: what `wait` does before it takes the token.

        The arguments are those of `wait`.

        Raises:
            WaitTimeoutError: The time is up, and the login still pending.
            UnknownFlowError: The store has none of that id.
        """
        until = None if timeout is None else self._clock.monotonic() + timeout
        with self._waiting_for(flow_id) as wake:
            while True:
                done = self.step(flow_id)
                on_step(done)
                if done.state.ended:
                    for _ in self.get(flow_id).to_revoke:
                        self.step(flow_id)
                    return done
                seconds = done.wait_seconds
                if until is not None:
                    left = until - self._clock.monotonic()
                    if left <= 0:
                        raise errors.WaitTimeoutError(flow_id=flow_id, state=done.state)
                    seconds = min(seconds, left)
                self._clock.sleep(seconds, wake)

    def token(self, flow_id: str) -> Token:
        """Return the token of a flow that is authorized, and put on record that it was.

        It stays in the store, and is returned again, until it is acknowledged or purged.

        Raises:
            WaitTimeoutError: The login is still pending.
            LoginError: It ended without a token.
            TokenGoneError: It was acknowledged before, or purged.
            ServerError: The server refused for good, or could not be understood.
        """
        while True:
            flow = self._store.get(flow_id)
            token = flow.token
            if token is None:
                raise error_of(flow)
            if self._commit(flow, flow.collect(self._now()), self._worker()):
                return token

    def acknowledge(self, flow_id: str) -> Step:
        """Wipe the token from the store: it is safe where it was taken to.

        Once more is as good as once.

        Raises:
            DeviceFlowError: There is no token to acknowledge; as for `token`.
        """
        while True:
            flow = self._store.get(flow_id)
            if flow.handover != "acknowledged":
                if flow.token is None:
                    raise error_of(flow)
                if not self._commit(flow, flow.acknowledge(self._now()), self._worker()):
                    continue
            return Step(flow.id, flow.state)

    @contextmanager
    def collect(self, flow_id: str, seconds: float = 60.0) -> Iterator[Token]:
        """Hand the token over for the length of a `with` block, and acknowledge it behind that.

        If the block raises, nothing is acknowledged, and the token is there for the next try.

        Args:
            flow_id: The flow.
            seconds: For how long nobody else can collect it, unless the block is done before; a day
                at the most.

        Raises:
            FlowBusyError: Somebody else is collecting it.
            DeviceFlowError: There is no token; as for `token`.
        """
        flow = self._store.get(flow_id)
        if flow.token is None:
            raise error_of(flow)  # and leave its lease to whoever polls, or died polling
        worker = self._worker()
        claim = self._take(flow_id, worker, min(seconds, DAY))
        if isinstance(claim, LeaseHeld):
            raise errors.FlowBusyError(
                flow_id=flow_id, state=claim.flow.state, wait_seconds=claim.seconds
            )
        try:
            yield self.token(flow_id)
            self.acknowledge(flow_id)
        finally:
            self._store.release(flow_id, worker)

    def _take(self, flow_id: str, worker: str, seconds: float) -> Claim | LeaseHeld:
        """Take the lease of a flow that has ended."""
        claim, _, _ = self._claim(flow_id, worker, seconds)
        if isinstance(claim, Claim) and claim.previous_owner is not None:
            try:
                self._commit(
                    claim.flow, claim.flow.take_over(claim.now, claim.previous_owner), worker
                )
            except BaseException:
                self._store.snooze(flow_id, worker, self._timeline.now())
                raise
        return claim

    def purge(self, *, tokens_after: float = 7 * DAY, flows_after: float = 90 * DAY) -> Purged:
        """Wipe the secrets of logins that ended long ago, then drop the flows; transitions stay.

        A token that nobody acknowledged is revoked where the server can do that; where it cannot,
        the event's detail says so.

        Args:
            tokens_after: How many seconds after the end a token is wiped.
            flows_after: How many seconds after the end a flow is dropped.
        """
        purged, now = 0, self._now()
        done: set[str] = set()
        problems: list[errors.DeviceFlowError] = []
        ages: tuple[tuple[Literal["token", "revoke"], float], ...] = (
            ("token", tokens_after),
            ("revoke", flows_after),
        )
        for kind, age in ages:
            for flow_id in each(partial(self._store.ids_with_secrets, kind, now - age, now), done):
                try:
                    purged += self._purge(flow_id, kind)
                except errors.DeviceFlowError as problem:
                    self._store.snooze(flow_id, self._worker(), self._timeline.now())
                    problems.append(problem)
        dropped = self._store.delete_ended(now - flows_after, on_problem=problems.append)
        return Purged(purged, dropped, problems)

    def _purge(self, flow_id: str, kind: Literal["token", "revoke"]) -> bool:
        worker = self._worker()
        claim = self._take(flow_id, worker, LEASE_MARGIN)
        if isinstance(claim, LeaseHeld):
            return False  # somebody is collecting it at last
        flow = claim.flow
        if not (flow.token if kind == "token" else flow.to_revoke):
            self._store.release(flow_id, worker)
            return False  # somebody was quicker
        wiped = self._commit(flow, flow.purge(claim.now), worker, worker)
        for _ in flow.to_revoke:
            self.step(flow_id)
        return wiped

    def refresh(self, provider: Provider, token: Token) -> Token:
        """Return the next token, in exchange for the refresh token of this one.

        Args:
            provider: Who issued it.
            token: A token with a refresh token. Where the server sends no new one, it stays.

        Raises:
            UsageError: The provider or the token has no such thing.
            RejectedError: The server refuses: a person has to log in again.
            ServerError: It could not be reached or understood.
        """
        provider = self._discovered(provider)
        now = self._timeline.now()
        request = authenticated(provider.refresh_request(token), now)
        result = self._transmit(request, self._deadline)
        answer = None if isinstance(result, Failure) else provider.read_token(result, now)
        if answer is None or answer.outcome in ("retry", "slow_down"):
            raise errors.UnreachableError("The token could not be refreshed now: no usable answer.")
        known = Known(token.access_token, token.refresh_token, token.id_token)
        if answer.token is None:
            said = CleanText(answer.error or answer.outcome, known, looks=True)
            raise errors.RejectedError(
                f"The token could not be refreshed: {said}.", hint="Log in again."
            )
        answer.token.hide(known)
        if answer.unfit and answer.token.id_token is not None:
            raise errors.RejectedError(
                f"The refreshed token is not fit to be used: {answer.unfit[1]}.",
                hint="Log in again.",
            )
        if answer.token.refresh_token is None:
            answer.token.refresh_token = token.refresh_token
        if answer.token.scopes is None:
            answer.token.scopes = token.scopes  # not said is unchanged (RFC 6749 section 6)
        return answer.token

    def cancel(self, flow_id: str, detail: str | None = None) -> Step:
        """Give the login up, and wake whoever waits for it in this process.

        A flow that has ended stays as it is.

        Args:
            flow_id: The flow.
            detail: Why, for the record.
        """
        while True:
            flow = self.get(flow_id)
            if flow.state.ended:
                break
            if self._commit(flow, flow.cancel(self._now(), detail), self._worker()):
                break
        for waited_for, wake in list(self._waiting):
            if waited_for == flow_id:
                wake.set()
        return Step(flow.id, flow.state, reason=flow.reason)

    def login(
        self,
        provider: Provider,
        *,
        key: str | None = None,
        purpose: str | None = None,
        open_browser: bool = True,
        timeout: float | None = None,
        acknowledge: bool | None = None,
        **request: Any,
    ) -> Token:
        """Start a login, tell the person what to do, and wait for the token.

        With a key, the same call returns the same token until the token is acknowledged (see
        `acknowledge`). So a program that is killed with the token in its hands, and run again,
        gets it and asks nobody. Once the token is safe, acknowledge it, or `purge` revokes it.

        Args:
            provider: The server.
            key: As for `start`.
            purpose: As for `start`.
            open_browser: Whether to open the page in the person's browser.
            timeout: As for `wait`.
            acknowledge: Whether to acknowledge the token before it is returned. By default only
                where no key is given: nobody could ask for it again.
            **request: What to ask for, as for `start`.

        Raises:
            DeviceFlowError: As for `start` and `wait`.
        """
        flow = self.start(provider, key=key, purpose=purpose, **request)
        with self._waiting_for(flow.id):  # a browser on the terminal keeps us until it is closed
            if not flow.state.ended:
                self._show(flow, open_browser=open_browser)
            token = self.wait(flow.id, timeout)
        if acknowledge or (acknowledge is None and key is None):
            self.acknowledge(flow.id)
        return token

    def _show(self, flow: Flow, *, open_browser: bool) -> None:
        # A frame of its own: a traceback of the waiting must not show the user code.
        for line in instructions(flow):
            self._output(line)
        page = web_url(flow.verification_uri_complete or flow.verification_uri)
        if open_browser and page and not self._browser(page):
            self._output("No browser could be opened here: open the address on any device.")

    def close(self) -> None:
        """Close what the transport keeps open. Flows are not touched."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _discovered(self, provider: Provider) -> Provider:
        """Return the provider with its endpoints, which its metadata names if it has any.

        Raises:
            ServerError: There is no metadata to be had, or none that fits.
        """
        urls = provider.metadata_urls()
        if not urls:
            return provider
        fetched, metadata = self._metadata.get(provider.server, (0.0, None))
        if metadata is not None and self._clock.monotonic() < fetched + METADATA_LIFETIME:
            return provider.with_metadata(metadata)
        problem: errors.ServerError = errors.UnreachableError(
            f"No metadata of {provider.server} could be had.",
            hint="Check the issuer's address, or give both endpoints themselves.",
        )
        for url in urls:
            answer = self._transmit(Request("metadata", url, _JSON, b""), self._deadline)
            if isinstance(answer, Failure) or answer.status != 200:
                continue
            metadata = answer.fields()
            if metadata is None:
                continue
            try:
                discovered = provider.with_metadata(metadata)
            except errors.ProtocolError as unfit:
                problem = unfit
                continue
            self._metadata[provider.server] = (self._clock.monotonic(), metadata)
            return discovered
        raise problem

    def _now(self) -> float:
        return self._store.now(self._timeline.now())

    def _worker(self) -> str:
        """Return a name for one piece of work that no other has, in this process or elsewhere."""
        return f"{self._name}.{os.getpid()}.{next(self._steps)}"

    def _commit(
        self, flow: Flow, transition: Transition, worker: str, release: str | None = None
    ) -> bool:
        event = render(flow, transition, self._origin._replace(worker=worker, pid=os.getpid()))
        if self._audit is not None and not self._store.keeps_trail:
            self._audit.link(event, flow)  # before the flow is kept, and with it the chain's head
        if transition.action in _BRINGING:
            self._stranded[flow.id] = (flow, event)
            return self._keep_token(flow, event, release)
        return self._keep(flow, event, release)

    def _keep(self, flow: Flow, event: dict[str, Any], release: str | None = None) -> bool:
        address = None
        if event["action"] == "issue_code":
            address = _clear_address(flow.token_endpoint)
        note = self._plain_http(flow, address)
        kept = self._store.commit(flow, event, release=release, store_event=note)
        if kept:
            if self._audit is not None:
                self._audit.write(event, flow)
            log.emit(log.TRANSITION, event)
            _warn(flow, address)
        return kept

    def _plain_http(self, flow: Flow, address: str | None) -> StoreEvent | None:
        """Return what is to be noted of a flow that sends in clear, if it does."""
        if address is None:
            return None
        said = f"{flow.id} at {address}"
        return StoreEvent("plain_http", self._timeline.now(), said, self._origin)

    def _transmit(self, request: Request, timeout: float) -> Response | Failure:
        if getattr(self._transport, "unverified", False):  # one of the program's own may not say
            self._say_unverified(_address(request.url))
        return self._transport.send(request, timeout)

    def _say_unverified(self, address: str) -> None:
        if address.startswith("https:") and address not in self._unverified:
            self._store.record_store_event(
                "unverified_tls", self._timeline.now(), address, self._origin
            )
            log.emit(log.UNVERIFIED_TLS, {"url": address}, logging.WARNING)
            self._unverified.add(address)

    def _keep_token(self, flow: Flow, event: dict[str, Any], release: str | None) -> bool:
        """Keep what brings a token, and hold on to that while the store fails."""
        until, wake = self._clock.monotonic() + LEASE_MARGIN, threading.Event()
        while True:
            try:
                return self._keep(flow, event, release)
            except errors.StoreError as failed:
                if self._clock.monotonic() >= until:
                    raise errors.StoreError(
                        f"{failed.message} The login was approved, and its token is in this process"
                        " only.",
                        flow_id=flow.id,
                        state=flow.state,
                        hint=f"Keep it running: its next step brings it there. {failed.hint or ''}",
                    ) from None
                self._clock.sleep(1.0, wake)

    def _bring(self, flow_id: str) -> None:
        """Bring a token to the store that it could not be brought to when it came."""
        if flow_id not in self._stranded:
            return
        flow, event = self._stranded[flow_id]
        # Perhaps that was kept, and only the answer was lost: whoever has the token by now must
        # not have it revoked as one that came late.
        if not self._keep_token(flow, event, event["worker"]):
            assert flow.token is not None  # noqa: S101  # what it brings
            steps = deliver(flow.token, flow.attempt, self._now())
            self._drive(steps, self._worker(), flow_id)
        self._stranded.pop(flow_id, None)

    def _brought(self, flow_id: str, worker: str) -> None:
        """Let go of a token that this worker had: it is in the store, or on record as stray."""
        if flow_id in self._stranded and self._stranded[flow_id][1]["worker"] == worker:
            del self._stranded[flow_id]

    @contextmanager
    def _waiting_for(self, flow_id: str) -> Iterator[threading.Event]:
        """Give an event that `cancel` sets, and cancel on Ctrl-C what nobody could go on with."""
        waiting = (flow_id, threading.Event())
        self._waiting.add(waiting)
        try:
            yield waiting[1]
        except KeyboardInterrupt:
            if not self._store.durable:
                self.cancel(flow_id, "interrupted")
            raise
        finally:
            self._waiting.discard(waiting)


@lru_cache(256)
def _shared(provider: Provider) -> Provider:
    """Return the same object for equal settings, which waiting flows then share."""
    return provider


def _new_id() -> str:
    """Return an id that no other flow has, and that no command takes for an option."""
    while (flow_id := secrets.token_urlsafe(12)).startswith("-"):
        pass
    return flow_id


def _say_jumped(ahead: float) -> None:
    log.emit(log.CLOCK_JUMP, {"wall_clock_ahead": round(ahead, 3)}, logging.WARNING)


def _actor() -> str | None:
    try:
        return os.environ.get("DEVICEFLOW_ACTOR") or getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return str(os.getuid()) if hasattr(os, "getuid") else None


def _address(url: str) -> str:
    return "{0.scheme}://{0.netloc}".format(urlsplit(url))  # a path may hold anything


def _clear_address(url: str | None) -> str | None:
    return _address(url) if url and crosses_in_clear(url) else None


def _warn(flow: Flow, address: str | None) -> None:
    if address is not None:
        log.emit(log.PLAIN_HTTP, {"flow_id": flow.id, "url": address}, logging.WARNING)
