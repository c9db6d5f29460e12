"""The sync driver: it performs the effects of operations, and knows no rule of a login."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, Unpack

from deviceflow import _forks as forks
from deviceflow.client import effects as do
from deviceflow.client import handover, lookup, purge, refresh, start, step, sweep, transfer, wait
from deviceflow.client import login as whole
from deviceflow.client._base import SHARED, BaseClient
from deviceflow.client._sync_grants import GrantClient
from deviceflow.client.browser import open_page
from deviceflow.client.clock import default_clock, sleeps_in_real_time
from deviceflow.client.context import DEADLINE
from deviceflow.client.lookup import log_unreadable
from deviceflow.client.purge import DAY
from deviceflow.core.ports import Origin
from deviceflow.core.secret import Secret, unseen, without_frames, wrapped
from deviceflow.credentials import secret_refs
from deviceflow.stores.memory import MemoryStore
from deviceflow.stores.url import open_store
from deviceflow.transports.deferred import DeferredTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from deviceflow.audit.jsonl import JSONLinesAudit
    from deviceflow.audit.log import OnTransition
    from deviceflow.client._base import Perform
    from deviceflow.client.effects import Effect, Op
    from deviceflow.client.purge import Purged
    from deviceflow.client.sweep import Swept
    from deviceflow.core.login import Login
    from deviceflow.core.notice import LoginNeed
    from deviceflow.core.ports import Clock, Store, Transport
    from deviceflow.core.provider import Approver, LoginRequest, Provider, Token
    from deviceflow.core.wire import Failure, Request, Response
    from deviceflow.errors import DeviceFlowError

_T = TypeVar("_T")


class Client(GrantClient, BaseClient):
    """Drives logins, of any number of providers, one step at a time or to their end.

    Every part that touches the world can be replaced. A client may be used from any thread. As a
    context manager it closes what it has opened at the end.

    Args:
        store: Where logins are kept: a store, which stays the caller's to close; or the URL of one,
            as for `open_store`, which the client opens and closes. By default, in this process's
            memory.
        transport: What sends requests.
        clock: What tells the time and waits.
        browser: What opens a page; it says whether it could.
        output: Where `login` writes what the person must read; a function that takes a line.
        approver: The program's own policy on who may approve: it is given the claims of the id
            token, and says whether to take the token. Where no id token came, it is not taken.
        deadline: How many seconds one request may take, all in all.
        origin: Who it works for, for the record: an actor, an engine and its task. The actor is by
            default what `DEVICEFLOW_ACTOR` says, or the user of the operating system. What
            `deviceflow.origin` sets for a block of code counts instead.
        on_transition: Called with the event of each transition, once the transition is committed
            and logged. What the hook raises is logged and ends nothing.
        audit: A file for the events, where the store keeps no trail of them; by default the one
            that `DEVICEFLOW_AUDIT` names, if it names one.
        notify: Called where a person must log in for a grant: when the need arises, each day that
            it lasts, and when it has ended; at least once each, with the need's id to recognise
            repetitions by. Whether it could be told is on record. Where it raises, it is called
            again later: by the next `get_token` or `sweep_grants`, or by a worker.
        public_url: Where `deviceflow worker --listen` shows the pages of needs, for the links in
            notifications and in `LoginPending`; by default `DEVICEFLOW_PUBLIC_URL`.
    """

    _store: Store
    _transport: Transport
    _clock: Clock
    _wakers: set[tuple[str, threading.Event]]

    def __init__(
        self,
        store: Store | str | None = None,
        *,
        transport: Transport | None = None,
        clock: Clock | None = None,
        browser: Callable[[str], bool] = open_page,
        output: Callable[[str], object] | None = None,
        approver: Approver | None = None,
        deadline: float = DEADLINE,
        origin: Origin = Origin(),  # noqa: B008  # it is immutable
        on_transition: OnTransition | None = None,
        audit: JSONLinesAudit | None = None,
        notify: Callable[[LoginNeed], object] | None = None,
        public_url: str | None = None,
    ) -> None:
        owns_store = isinstance(store, str)
        if isinstance(store, str):
            url, store = Secret(store), None  # a password may be in it
            store = unseen(lambda: open_store(url.reveal()))
        super().__init__(
            MemoryStore() if store is None else store,
            owns_store=owns_store,
            transport=transport or DeferredTransport(),
            clock=clock or default_clock(),
            browser=browser,
            output=output,
            approver=approver,
            deadline=deadline,
            origin=origin,
            on_transition=on_transition,
            audit=audit,
            notify=notify,
            public_url=public_url,
        )
        self._renew()
        forks.in_child(self._renew)

    def _renew(self) -> None:
        self._wakers = set()

    # The beginning.

    def start(
        self,
        provider: Provider,
        *,
        name: str | None = None,
        purpose: str | None = None,
        **request: Unpack[LoginRequest],
    ) -> Login:
        """Ask the server for a device code, and return the login, to be shown to a person.

        A server that does not answer is asked a few times more, within some seconds.

        Args:
            provider: The server.
            name: The caller's own name for this login. While a login of that name is open, it is
                returned, with the code it has, instead of asking for a new one; it must be at the
                same server, and ask for the same. A login that was approved stays open until its
                token is acknowledged, or purged.
            purpose: Why this login is needed: one line of at most 200 printable characters, and
                nothing secret. The person who approves is shown it, and each event records it. A
                server is sent it only where it is known to take it.
            **request: What to ask for, such as `scopes`; `LoginRequest` has all of it.

        Raises:
            ServerError: The server refused, or could not be reached or understood.
            UsageError: The request is not one that can be made.
        """
        return self._run(start.start(self._context, provider, name, purpose, request))

    def create(
        self,
        provider: Provider,
        *,
        name: str | None = None,
        purpose: str | None = None,
        **request: Unpack[LoginRequest],
    ) -> Login:
        """Store a login in `init`, and send nothing: its first step asks for the code.

        For logins that are asked for now and looked at later: a code's short life should begin
        when the person is there. The arguments are `start`'s.

        Raises:
            UsageError: The request is not one that can be made.
        """
        return self._run(start.create(self._context, provider, name, purpose, request))

    def adopt(self, provider: Provider, *, token_endpoint: str, device_code: Secret) -> Login:
        """Store a login that goes on with a device code issued elsewhere.

        It has no deadline but the server's.

        Raises:
            UsageError: The address is not one to send a device code to.
        """
        return self._run(start.adopt(self._context, provider, token_endpoint, device_code))

    # Looking.

    def get(self, flow_id: str) -> Login:
        """Return the login as it is now; nothing is sent, and nothing recorded.

        Args:
            flow_id: The login's id.

        Raises:
            UnknownLoginError: The store has no login of that id.
        """
        return self._run(lookup.get(flow_id))

    def logins(
        self,
        *,
        skip_ended: bool = False,
        on_problem: Callable[[DeviceFlowError], object] = log_unreadable,
    ) -> Iterator[Login]:
        """Yield the logins in the store, the newest first.

        Args:
            skip_ended: Whether to leave out the logins that have ended.
            on_problem: Told of each login that cannot be read, which is passed over. By default
                that is logged, as `deviceflow.unreadable`.
        """
        return self._run(lookup.logins(skip_ended=skip_ended, on_problem=on_problem))

    # Going on.

    def step(self, flow_id: str) -> Login:
        """Do what is due for the login: at most one request, and no sleeping.

        Returns:
            The login after that; `wait_seconds` says in how many seconds to call again.

        Raises:
            UnknownLoginError: The store has no login of that id.
            StoreError: The store failed. A token that had come is kept in this client, and the
                next step saves it.
        """
        return self._run(step.step(self._context, flow_id))

    def sweep(self, limit: int = 100) -> Swept:
        """Step whatever is due, each login once: what a periodic task calls.

        Logins that nobody drives any more are brought to their end so. A login that was created and
        not yet started is left for whoever will be there to see its code.

        Args:
            limit: How many logins to step at the most.
        """
        return self._run(sweep.sweep(self._context, limit))

    def wait(
        self,
        flow_id: str,
        timeout: float | None = None,
        *,
        on_step: Callable[[Login], object] | None = None,
    ) -> Login:
        """Step until the login has ended, however it ended, and return it.

        After Ctrl-C a login in a durable store stays open, and another call can resume it. A login
        in memory is cancelled, because no other process could resume it.

        Args:
            flow_id: The login's id.
            timeout: How many seconds to wait at the most; None for as long as the code lives.
            on_step: Called after each step, to show how things stand. What it raises ends the
                waiting, and not the login.

        Raises:
            WaitTimeoutError: The time is up, and the login still pending.
            UnknownLoginError: The store has no login of that id.
        """
        return self._run(wait.wait(self._context, flow_id, timeout, on_step))

    def wait_for_token(
        self,
        flow_id: str,
        timeout: float | None = None,
        *,
        on_step: Callable[[Login], object] | None = None,
    ) -> Token:
        """Step until the login has ended, as `wait` does, and return its token, as `collect_token`.

        The arguments are `wait`'s.

        Raises:
            WaitTimeoutError: The time is up, and the login still pending.
            LoginError: The login ended without a token: expired, denied, cancelled (by another
                thread, say), or unknown.
            ServerError: The server refused for good, or cannot be understood.
            UnknownLoginError: The store has no login of that id.
        """
        return self._run(wait.wait_for_token(self._context, flow_id, timeout, on_step))

    def cancel(self, flow_id: str, detail: str | None = None) -> Login:
        """End the login, and wake whoever waits for it in this process.

        A login that has ended stays as it is.

        Args:
            flow_id: The login's id.
            detail: Why, for the record.
        """
        return self._run(wait.cancel(self._context, flow_id, detail))

    # The token.

    def collect_token(self, flow_id: str) -> Token:
        """Return the token of an authorized login, and record that it was collected.

        It stays in the store, and is returned again, until it is acknowledged or purged.

        Raises:
            WaitTimeoutError: The login is still pending.
            LoginError: It ended without a token.
            TokenGoneError: It was acknowledged before, or purged.
            ServerError: The server refused for good, or could not be understood.
        """
        return self._run(handover.collect_token(self._context, flow_id))

    def acknowledge(self, flow_id: str) -> Login:
        """Wipe the token from the store: it is safe where it was taken to.

        Once more is as good as once.

        Raises:
            DeviceFlowError: There is no token to acknowledge; as for `collect_token`.
        """
        return self._run(handover.acknowledge(self._context, flow_id))

    @contextmanager
    def collect(self, flow_id: str, seconds: float = 60.0) -> Iterator[Token]:
        """Hand the token over for the length of a `with` block, and acknowledge it behind that.

        If the block raises, nothing is acknowledged, and the token is there for the next try.

        Args:
            flow_id: The login's id.
            seconds: For how long nobody else can collect it, unless the block is done before; a day
                at the most.

        Raises:
            LoginBusyError: Somebody else is collecting it.
            DeviceFlowError: There is no token; as for `collect_token`.
        """
        held = self._run(handover.begin_collection(self._context, flow_id, seconds))
        acknowledged = False
        try:
            yield held.token
            acknowledged = True
        finally:
            self._run(handover.end_collection(self._context, held, acknowledged=acknowledged))

    def purge(self, *, tokens_after: float = 7 * DAY, flows_after: float = 90 * DAY) -> Purged:
        """Wipe the secrets of logins that ended long ago, then drop them; transitions stay.

        Grants that were lost or ended long ago are dropped as well. One that is still needed stays
        while the program is told of the need.

        A token that nobody acknowledged is revoked where the server can do that; where it cannot,
        the event's detail says so.

        Args:
            tokens_after: How many seconds after the end a token is wiped.
            flows_after: How many seconds after the end a flow or a grant is dropped.
        """
        return self._run(purge.purge(self._context, tokens_after, flows_after))

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
        return self._run(refresh.refresh(self._context, provider, token))

    def login(
        self,
        provider: Provider,
        *,
        name: str | None = None,
        purpose: str | None = None,
        open_browser: bool = True,
        timeout: float | None = None,
        acknowledge: bool | None = None,
        **request: Unpack[LoginRequest],
    ) -> Token:
        """Start a login, tell the person what to do, and wait for the token.

        With a name, the same call returns the same token until the token is acknowledged (see
        `acknowledge`). So a program that is killed with the token in its hands, and run again,
        gets it and asks nobody. Once the token is safe, acknowledge it, or `purge` revokes it.

        Args:
            provider: The server.
            name: As for `start`.
            purpose: As for `start`.
            open_browser: Whether to open the page in the person's browser.
            timeout: As for `wait`.
            acknowledge: Whether to acknowledge the token before it is returned. By default only
                where no name is given: nobody could ask for it again.
            **request: What to ask for, as for `start`.

        Raises:
            DeviceFlowError: As for `start` and `wait_for_token`.
        """
        operation = whole.login(
            self._context,
            provider,
            name,
            purpose,
            request,
            open_browser=open_browser,
            timeout=timeout,
            acknowledges=acknowledge,
        )
        return self._run(operation)

    # Moving.

    def export_login(self, flow_id: str, keys: Sequence[Secret | str]) -> str:
        """Return the whole login, secrets included, as one sealed, URL-safe text.

        For a program that keeps its own state. Only one process at a time may resume the login. The
        program has to make sure of that.

        Args:
            flow_id: The login's id.
            keys: Fernet keys, such as `deviceflow keys generate` prints; the first one seals.

        Raises:
            UnknownLoginError: The store has no login of that id.
            SealError: There is no key, or a key is not a Fernet key.
            ImportError: `cryptography` is missing (extra `seal`).
        """
        keys = wrapped(keys)
        return self._run(transfer.export_login(flow_id, keys))

    def import_login(self, text: str, keys: Sequence[Secret | str]) -> Login:
        """Add a login to the store that `export_login` made a text of.

        Args:
            text: What `export_login` returned.
            keys: Fernet keys, of which one sealed the text.

        Raises:
            SealError: The text was sealed with another key, or changed since.
            UsageError: The login is in the store already, or another one of its name is open there;
                or the text is of another version.
            ImportError: `cryptography` is missing (extra `seal`).
        """
        keys = wrapped(keys)
        return self._run(transfer.import_login(text, keys))

    def close(self) -> None:
        """Close the connections, and the store where the client has opened it by its URL.

        Logins are not touched.
        """
        self._transport.close()
        if self._owns_store:
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, operation: Op[_T]) -> _T:
        """Perform the effects that an operation yields, and return its result."""
        wakers: dict[str, threading.Event] = {}
        answer: Any = None
        raised: BaseException | None = None
        try:
            while True:
                try:
                    effect = operation.send(answer) if raised is None else operation.throw(raised)
                except StopIteration as done:
                    result: _T = done.value
                    return result
                answer = raised = None
                try:
                    answer = self._perform(effect, wakers)
                except BaseException as stop:  # noqa: BLE001  # the operation decides about it
                    raised = stop
        finally:
            operation.close()
            if wakers:
                self._wakers.difference_update(wakers.items())

    def _perform(self, effect: Effect, wakers: dict[str, threading.Event]) -> Any:
        """Perform one effect, and return its answer.

        Args:
            effect: The effect.
            wakers: What wakes the operation that yielded it, by the flows that it watches.
        """
        return PERFORM[type(effect)](self, effect, wakers)

    def _watch(self, flow_id: str, wakers: dict[str, threading.Event]) -> None:
        wakers[flow_id] = waker = wakers.get(flow_id) or threading.Event()
        self._wakers.add((flow_id, waker))

    def _send(self, request: Request, timeout: float) -> do.Exchange:
        result: Response | Failure | BaseException
        try:
            result = self._transport.send(request, timeout)
        except BaseException as stop:  # noqa: BLE001  # the operation raises it
            result = without_frames(stop)
        return do.Exchange(result, self._clock.monotonic())

    def _sleep(self, seconds: float, waker: threading.Event | None) -> None:
        if waker is None:
            self._clock.sleep(seconds)
        elif sleeps_in_real_time(self._clock):
            waker.wait(seconds)
        elif not waker.is_set():
            self._clock.sleep(seconds)


PERFORM: Final[dict[type, Perform]] = SHARED | {
    do.CheckCredentials: lambda _, e, __: secret_refs.check(e.provider),
    do.ListFlows: lambda self, e, _: map(
        e.present, self._store.flows(skip_ended=e.skip_ended, on_problem=e.on_problem)
    ),
    do.Notify: lambda _, e, __: e.on_step(e.login),
    do.OpenBrowser: lambda self, e, _: self._browser(e.url),
    do.Prepare: lambda self, e, _: self._prepare(*e),
    do.Print: lambda self, e, _: self._output(e.line),
    do.Send: lambda self, e, _: self._send(*e),
    do.Sleep: lambda self, e, wakers: self._sleep(e.seconds, wakers.get(e.flow_id)),
    do.TellNeed: lambda self, e, _: self._tell_need(e.need),
    do.Watch: lambda self, e, wakers: self._watch(e.flow_id, wakers),
    do.WriteAudit: lambda self, e, _: self._write_audit(*e),
}
"""How a `Client` performs each effect."""
