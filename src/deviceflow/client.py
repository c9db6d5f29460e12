"""The sync driver: it performs what a step asks for, and loops over steps to wait."""

from __future__ import annotations

import itertools
import logging
import secrets
import sys
import threading
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

from deviceflow import errors
from deviceflow.audit import log
from deviceflow.audit.events import render
from deviceflow.browser import open_page
from deviceflow.client_auth import authenticated
from deviceflow.clock import Clock, SystemClock, Timeline
from deviceflow.flow import Flow
from deviceflow.machine import Reason, State
from deviceflow.messages import Failure, Request
from deviceflow.providers.base import DeviceCode, Provider, Token
from deviceflow.secret import Secret
from deviceflow.steps import Commit, Exchange, Reload, Send, Step, TakeLease, step
from deviceflow.stores.memory import MemoryStore
from deviceflow.transport import RequestsTransport, Transport
from deviceflow.untrusted import crosses_in_clear, endpoint, printable, web_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deviceflow.flow import Approver, Transition
    from deviceflow.messages import Fields
    from deviceflow.stores.base import Store

DEADLINE: Final = 10.0
"""Seconds that one request may take, all in all, unless the client says otherwise."""

METADATA_LIFETIME: Final = 3600.0
"""Seconds for which a client keeps the metadata of a server."""

_JSON: Final = {"Accept": "application/json"}


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
        self._name = secrets.token_hex(6)
        self._steps = itertools.count(1)
        self._waiting: set[tuple[str, threading.Event]] = set()

    def start(self, provider: Provider, *, key: str | None = None, **request: Any) -> Flow:
        """Ask the server for a device code, and return the flow that holds it.

        A server that does not answer is asked a few times more, within some seconds.

        Args:
            provider: The server.
            key: The caller's own name for this login. While a flow of that key lives it is
                returned, with the code it has, instead of asking for a new one; it must be at the
                same server, and ask for the same.
            **request: What to ask for; the provider says what there is.

        Raises:
            ServerError: The server refused, or could not be reached or understood.
            UsageError: The request is not one that can be made.
        """
        flow = self.create(provider, key=key, **request)
        if flow.expires_at is not None and flow.expires_at <= self._timeline.now():
            # Nobody came back while that key's code lived. It may have been approved in time.
            if self.step(flow.id).state in (State.EXPIRED, State.FAILED):
                flow = self.create(provider, key=key, **request)
            else:
                flow = self.get(flow.id)
        with self._waiting_for(flow.id) as wake:
            while flow.state is State.INIT:
                done = self.step(flow.id)
                if done.state is State.INIT:
                    self._clock.sleep(done.wait_seconds, wake)
                flow = self.get(flow.id)
        if flow.reason is not None:
            self._metadata.pop(provider.server, None)  # it may be why
            raise _error_of(flow)
        return flow

    def create(self, provider: Provider, *, key: str | None = None, **request: Any) -> Flow:
        """Return a flow in `init`; nothing is sent yet, its first step asks for the code.

        For logins that are asked for now and looked at later: a code's short life should begin
        when the person is there. The arguments are `start`'s.

        Raises:
            UsageError: The request is not one that can be made.
        """
        provider = _shared(self._discovered(provider.asking(**request)))
        verifier = Secret(secrets.token_urlsafe(48)) if provider.uses_pkce else None
        now = self._timeline.now()
        flow = Flow(secrets.token_urlsafe(12), provider, now, key=key, verifier=verifier)
        kept = self._store.add(flow)
        if kept is flow:
            _say_plain_http(flow, provider.server)
        elif kept.provider.to_dict() != provider.to_dict():
            raise errors.UsageError(
                f"A login of the key {key!r} is under way at {kept.provider.server}, and asks for"
                " something else.",
                flow_id=kept.id,
                state=kept.state,
                hint="Use another key, or cancel that login first.",
            )
        return kept

    def adopt(self, provider: Provider, *, token_endpoint: str, device_code: Secret) -> Flow:
        """Return a flow that goes on with a device code issued elsewhere.

        It has no deadline but the server's.
        """
        code = DeviceCode(device_code, endpoint(token_endpoint, allow_http=provider.allow_http))
        flow = self.create(provider)
        self._commit(flow, flow.adopt(code, flow.created_at))
        return flow

    def get(self, flow_id: str) -> Flow:
        """Return the flow as it stands.

        Raises:
            UnknownFlowError: The store has none of that id.
        """
        return self._store.get(flow_id)

    def step(self, flow_id: str) -> Step:
        """Do what is due for the flow: at most one request, and no sleeping.

        Returns:
            Where it stands, and in how many seconds to call again.

        Raises:
            UnknownFlowError: The store has none of that id.
        """
        owner = f"{self._name}.{next(self._steps)}"
        steps = step(self._deadline, self._approver)
        result: Any = None
        interrupt: BaseException | None = None
        now, since = 0.0, 0.0
        while True:
            try:
                effect = steps.send(result)
            except StopIteration as stop:
                report: Step = stop.value
                break
            match effect:
                case TakeLease(seconds):
                    now, since = self._timeline.now(), self._clock.monotonic()
                    result = self._store.claim(flow_id, owner, now, seconds)
                    now = getattr(result, "now", now)
                case Commit(flow, transition, release):
                    result = self._commit(flow, transition, owner if release else None)
                case Send(request, timeout):
                    sent = self._clock.monotonic()
                    try:
                        outcome = self._transport.send(authenticated(request, now), timeout)
                    except BaseException as stop:  # noqa: BLE001  # raised below, once it is stored
                        unsent = isinstance(stop, errors.UsageError | ImportError)
                        outcome = Failure("interrupted", sent=not unsent)
                        # Without the frames below, whose locals hold what was being sent.
                        interrupt = stop.with_traceback(None)
                        interrupt.__context__ = interrupt.__cause__ = None
                    arrived = self._clock.monotonic()
                    result = Exchange(outcome, now + (arrived - since), arrived - sent)
                case Reload():
                    result = self._store.get(flow_id)
                case _:  # a Release
                    self._store.release(flow_id, owner)
        if interrupt is not None:
            raise interrupt
        return report

    def wait(
        self,
        flow_id: str,
        timeout: float | None = None,
        *,
        on_step: Callable[[Step], object] = lambda _: None,
    ) -> Token:
        """Step until the flow ends, and return its token.

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
        until = None if timeout is None else self._clock.monotonic() + timeout
        with self._waiting_for(flow_id) as wake:
            while True:
                done = self.step(flow_id)
                on_step(done)
                if done.state.ended:
                    for _ in self.get(flow_id).to_revoke:
                        self.step(flow_id)
                    return self.token(flow_id)
                seconds = done.wait_seconds
                if until is not None:
                    left = until - self._clock.monotonic()
                    if left <= 0:
                        raise errors.WaitTimeoutError(flow_id=flow_id, state=done.state)
                    seconds = min(seconds, left)
                self._clock.sleep(seconds, wake)

    def token(self, flow_id: str) -> Token:
        """Return the token of a flow that is authorized.

        Raises:
            WaitTimeoutError: The login is still pending.
            LoginError: It ended without a token.
            ServerError: The server refused for good, or could not be understood.
        """
        flow = self.get(flow_id)
        if flow.token is None:
            raise _error_of(flow)
        return flow.token

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
        result = self._transport.send(request, self._deadline)
        answer = None if isinstance(result, Failure) else provider.read_token(result, now)
        if answer is None or answer.outcome in ("retry", "slow_down"):
            raise errors.UnreachableError("The token could not be refreshed now: no usable answer.")
        if answer.token is None:
            said = printable(answer.error or answer.outcome, 200)
            raise errors.RejectedError(
                f"The token could not be refreshed: {said}.", hint="Log in again."
            )
        if answer.unfit and answer.token.id_token is not None:
            raise errors.RejectedError(
                f"The refreshed token is not fit to be used: {answer.unfit[1]}.",
                hint="Log in again.",
            )
        if answer.token.refresh_token is None:
            answer.token.refresh_token = token.refresh_token
        if answer.token.scope is None:
            answer.token.scope = token.scope  # not said is unchanged (RFC 6749 section 6)
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
            if flow.state.ended or self._commit(flow, flow.cancel(self._timeline.now(), detail)):
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
        open_browser: bool = True,
        timeout: float | None = None,
        **request: Any,
    ) -> Token:
        """Start a login, tell the person what to do, and wait for the token.

        Args:
            provider: The server.
            key: As for `start`.
            open_browser: Whether to open the page in the person's browser.
            timeout: As for `wait`.
            **request: What to ask for, as for `start`.

        Raises:
            DeviceFlowError: As for `start` and `wait`.
        """
        flow = self.start(provider, key=key, **request)
        with self._waiting_for(flow.id):  # a browser on the terminal keeps us until it is closed
            self._show(flow, open_browser=open_browser)
            return self.wait(flow.id, timeout)

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
            answer = self._transport.send(Request("metadata", url, _JSON, b""), self._deadline)
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

    def _commit(self, flow: Flow, transition: Transition, release: str | None = None) -> bool:
        kept = self._store.commit(flow, transition, release=release)
        if kept:
            log.emit(log.TRANSITION, render(flow, transition))
            if transition.action == "issue_code" and flow.token_endpoint:
                _say_plain_http(flow, flow.token_endpoint)
        return kept

    @contextmanager
    def _waiting_for(self, flow_id: str) -> Iterator[threading.Event]:
        """Give an event that `cancel` sets, and cancel on Ctrl-C what nobody could go on with."""
        waiting = (flow_id, threading.Event())
        self._waiting.add(waiting)
        try:
            yield waiting[1]
        except KeyboardInterrupt:
            if not self._store.persistent:
                self.cancel(flow_id, "interrupted")
            raise
        finally:
            self._waiting.discard(waiting)


@lru_cache(256)
def _shared(provider: Provider) -> Provider:
    """Return the same object for equal settings, which waiting flows then share."""
    return provider


def _say_jumped(ahead: float) -> None:
    log.emit(log.CLOCK_JUMP, {"wall_clock_ahead": round(ahead, 3)}, logging.WARNING)


def _say_plain_http(flow: Flow, url: str) -> None:
    if crosses_in_clear(url):
        origin = "{0.scheme}://{0.netloc}".format(urlsplit(url))  # a path may hold anything
        log.emit(log.PLAIN_HTTP, {"flow_id": flow.id, "url": origin}, logging.WARNING)


def instructions(flow: Flow) -> list[str]:
    """Return what to tell the person, in lines that are safe to print."""
    page = printable(flow.verification_uri or "", 2000)
    code = printable(flow.user_code or "", 100)
    complete = web_url(flow.verification_uri_complete)
    asks = printable(flow.provider.client_name or flow.provider.client_id or "This program", 100)
    lines = [f"{asks} asks for access to {flow.provider.server}."]
    if complete:
        lines.append(f"Open {complete} and check that the page shows the code {code}")
    else:
        lines.append(f"Open {page} and enter the code {code}")
    return lines


def _error_of(flow: Flow) -> errors.DeviceFlowError:
    """Return the error that says why the flow has no token."""
    kind: type[errors.DeviceFlowError]
    if flow.state is State.AUTHORIZED:
        return errors.UsageError(
            "This flow was exported without its token.",
            flow_id=flow.id,
            state=flow.state,
            hint="Export it with to_dict(secrets=True), and keep that text as a secret.",
        )
    if flow.state is State.EXPIRED:
        kind = errors.ExpiredError
    elif flow.reason is None:
        kind = errors.WaitTimeoutError
    else:
        kind = _ERRORS[flow.reason]
    message = kind.default_message
    if flow.detail in _OUR_WORDS:
        message = f"{message} {_OUR_WORDS[flow.detail]}"
    elif flow.detail and issubclass(kind, errors.ServerError):
        message = f"{message} It said: {flow.detail}."
    elif flow.detail and kind is errors.WrongApproverError:
        message = f"{message} In particular: {flow.detail}."
    if flow.in_doubt and flow.state.ended and kind is not errors.OutcomeUnknownError:
        message = (
            f"{message} An answer was lost, and a token may exist: look for it there, revoke it."
        )
    return kind(message, flow_id=flow.id, state=flow.state, reason=flow.reason)


_OUR_WORDS: Final = {
    "connection": "The connection failed.",
    "timeout": "No answer came in time.",
    "too_large": "What it sends is too long for an answer.",
}


_ERRORS: Final = {
    Reason.DENIED: errors.DeniedError,
    Reason.CANCELLED: errors.CancelledError,
    Reason.REJECTED: errors.RejectedError,
    Reason.PROTOCOL: errors.ProtocolError,
    Reason.UNREACHABLE: errors.UnreachableError,
    Reason.OUTCOME_UNKNOWN: errors.OutcomeUnknownError,
    Reason.WRONG_APPROVER: errors.WrongApproverError,
}
