"""The sync client: it runs operations over ports that never suspend, and knows no rule."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from contextvars import copy_context
from math import inf
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, Unpack

from deviceflow import _forks as forks
from deviceflow._blocking import complete
from deviceflow.client import handover, lookup, purge, refresh, start, step, sweep, transfer, wait
from deviceflow.client import login as whole
from deviceflow.client._base import BaseClient, ClientWorld
from deviceflow.client._interrupts import Interrupts
from deviceflow.client._sync_grants import GrantClient
from deviceflow.client.browser import open_page
from deviceflow.client.clock import default_clock, sleeps_in_real_time
from deviceflow.client.context import DEADLINE
from deviceflow.client.lookup import log_unreadable, logins_of
from deviceflow.client.purge import DAY
from deviceflow.client.turns import AT_ONCE, Turns
from deviceflow.client.world import MUST_FINISH, Exchange
from deviceflow.core.flow import Flow
from deviceflow.core.need import OUTAGE_AFTER
from deviceflow.core.ports import Origin
from deviceflow.core.secret import Secret, without_frames, without_traceback, wrapped
from deviceflow.credentials import secret_refs
from deviceflow.stores.memory import MemoryStore
from deviceflow.stores.url import open_store
from deviceflow.transports.deferred import DeferredTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from deviceflow.audit.jsonl import JSONLinesAudit
    from deviceflow.audit.log import OnTransition
    from deviceflow.client.purge import Purged
    from deviceflow.client.sweep import Swept
    from deviceflow.client.turns import Work
    from deviceflow.client.world import Prepared, World
    from deviceflow.core.grant import Grant
    from deviceflow.core.login import Login
    from deviceflow.core.notice import LoginNeed
    from deviceflow.core.ports import AsyncStore, Clock, Store, Transport
    from deviceflow.core.provider import Approver, LoginRequest, Provider, Token
    from deviceflow.core.wire import Failure, Request, Response
    from deviceflow.errors import DeviceFlowError

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Client(GrantClient, BaseClient):
    """Drives logins, of any number of providers, one step at a time or to their end.

    You can replace every part that does I/O. You can use a client from any thread. As a context
    manager, a client closes at the end what it has opened.

    Args:
        store: Where the client keeps logins: a store, which the caller closes; or the URL of a
            store, as for `open_store`, which the client opens and closes. By default, the memory
            of this process.
        transport: What sends requests.
        clock: What tells the time and sleeps.
        browser: A function that opens a page, and returns whether the page could be opened.
        output: A function that takes one line. `login` passes it what the person must read.
        approver: The program's own policy on who may approve: a function that takes the claims of
            the id token, and returns whether to take the token. Without an id token, the client
            does not take the token. Processes without an approver do not poll for this client's
            logins, and this client takes no token of a grant that was logged in without one.
        deadline: How many seconds one whole request may take.
        origin: Who the client works for, as events record it: an actor, an engine and its task.
            The actor is by default `DEVICEFLOW_ACTOR`, or the user of the operating system.
            `deviceflow.origin` sets another origin for a block of code.
        on_transition: Called with the event of each transition, after the transition is committed
            and logged. If the hook raises, the client logs the exception, and the login continues.
        audit: A file for the events, for a store that keeps no trail; by default the file that
            `DEVICEFLOW_AUDIT` names, if any.
        notify: Called when a person must log in for a grant: when the need arises, each day that
            the need lasts, and when the need has ended. Each notification comes at least once; a
            repeated one has the same need's id and number. Events record whether `notify`
            succeeded. If `notify` raises, the next `get_token` or `sweep_grants`, or a worker,
            calls it again.
        public_url: Where `deviceflow worker --listen` shows the pages of needs, for the links in
            notifications and in `LoginPending`; by default `DEVICEFLOW_PUBLIC_URL`.
        outage_after: After how many seconds without a usable answer to the refreshes of a grant
            `notify` is called, once, and once more when the outage is over; `math.inf` for never.
            Nobody needs to log in then.
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
        outage_after: float = OUTAGE_AFTER,
    ) -> None:
        owns_store = isinstance(store, str)
        if isinstance(store, str):
            url, store = Secret(store), None  # a password may be in it
            store = without_traceback(lambda: open_store(url.reveal()))
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
            outage_after=outage_after,
        )
        self._interrupts = Interrupts()
        store_of_operations: Any = _AwaitableStore(self)
        self._awaitable_store: AsyncStore = store_of_operations
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
        """Request a device code, and return the login. Show the login's page and code to a person.

        If the server does not answer, the client tries a few times more, within some seconds.

        Args:
            provider: The server.
            name: The caller's own name for this login. While a login of that name is open, `start`
                returns the open login with its code, and requests no new code. The open login must
                be at the same server, and ask for the same. An approved login stays open until its
                token is acknowledged or purged.
            purpose: Why this login is needed: one line of at most 200 printable characters, without
                secrets. The prompt shows the purpose to the person who approves, and each event
                records it. The client sends the purpose only to a server that is known to accept
                one.
            **request: What to ask for, such as `scopes`: see `LoginRequest`.

        Raises:
            ServerError: The server refused, was not reachable, or sent a response that is not of
                the protocol.
            UsageError: An argument is invalid, or an open login of this name differs.
        """
        return self._run(start.start, provider, name, purpose, request)

    def create(
        self,
        provider: Provider,
        *,
        name: str | None = None,
        purpose: str | None = None,
        **request: Unpack[LoginRequest],
    ) -> Login:
        """Store a login in `init`, and send nothing: the first step requests the code.

        Use `create` if the person comes later: a code lives for some minutes only, so request the
        code when the person is there. The arguments are those of `start`.

        Raises:
            UsageError: An argument is invalid, or an open login of this name differs.
        """
        return self._run(start.create, provider, name, purpose, request)

    def adopt(self, provider: Provider, *, token_endpoint: str, device_code: Secret) -> Login:
        """Store a login that continues with a device code that another program requested.

        The client does not know when the code expires: the login ends when the server says so.

        Raises:
            UsageError: The client must not send a device code to this token endpoint.
        """
        return self._run(start.adopt, provider, token_endpoint, device_code)

    # Looking.

    def get(self, flow_id: str) -> Login:
        """Return the login as it is now. This sends nothing, and records nothing.

        Args:
            flow_id: The login's id, or the name of an open login.

        Raises:
            UnknownLoginError: The store has no such login.
        """
        return self._run(lookup.get, flow_id)

    def logins(
        self,
        *,
        skip_ended: bool = False,
        on_problem: Callable[[DeviceFlowError], object] = log_unreadable,
    ) -> Iterator[Login]:
        """Yield the logins in the store, the newest first.

        Args:
            skip_ended: Whether to leave out the logins that have ended.
            on_problem: Called with the error of each login that cannot be read. The iterator skips
                such a login. By default the client logs `deviceflow.unreadable`.
        """
        after = None
        while True:
            page = self._store.page(Flow, self._timeline.read().now, after, skip_ended=skip_ended)
            yield from logins_of(page, on_problem)
            if (after := page.after) is None:
                return

    # Driving.

    def step(self, flow_id: str) -> Login:
        """Do what is due for the login: send at most one request, and do not sleep.

        Returns:
            The login in its new state. `wait_seconds` says in how many seconds to call again.

        Raises:
            UnknownLoginError: The store has no login of that id.
            StoreError: The store failed. If a token had arrived, this client keeps it, and the
                next step saves it.
        """
        return self._run(step.step, flow_id)

    def sweep(self, limit: int = 100) -> Swept:
        """Step each login that is due, once. Call `sweep` from a periodic task.

        So logins that no program drives any more still reach their end. A sweep does not step a
        login that was created and not started: its code should be requested when a person is there.
        The steps run in threads, up to 128 at a time: a server that hangs delays no others.

        Args:
            limit: How many logins to step at most.
        """
        swept, works = self._run(sweep.due)
        while works and (left := limit - len(swept.logins)) > 0:
            for done in self._at_once(works[:left]):
                swept.add(done)
            del works[:left]  # some may not have been due after all
        return swept

    def wait(
        self,
        flow_id: str,
        timeout: float | None = None,
        *,
        on_step: Callable[[Login], object] | None = None,
    ) -> Login:
        """Step until the login has ended, and return the ended login, whatever its end.

        After Ctrl-C, a login in a durable store stays open, and another call can resume it. A login
        in memory is cancelled, because no other process could resume it.

        Args:
            flow_id: The login's id.
            timeout: How many seconds to wait at most; None to wait for as long as the code lives.
            on_step: Called with the login after each step, for example to show its state. If
                `on_step` raises, `wait` ends with that exception, and the login stays open.

        Raises:
            WaitTimeoutError: The timeout passed, and the login is still pending.
            UnknownLoginError: The store has no login of that id.
        """
        return self._run(wait.wait, flow_id, timeout, on_step)

    def wait_for_token(
        self,
        flow_id: str,
        timeout: float | None = None,
        *,
        on_step: Callable[[Login], object] | None = None,
    ) -> Token:
        """Wait until the login has ended, as `wait` does, and return its token.

        The arguments are those of `wait`. The token is recorded as collected, as by
        `collect_token`.

        Raises:
            WaitTimeoutError: The timeout passed, and the login is still pending.
            LoginError: The login ended without a token: it expired, was denied, was cancelled (for
                example by another thread), or its outcome is unknown.
            ServerError: The server refused the login, or its responses are not of the protocol.
            UnknownLoginError: The store has no login of that id.
        """
        return self._run(wait.wait_for_token, flow_id, timeout, on_step)

    def cancel(self, flow_id: str, detail: str | None = None) -> Login:
        """End the login, and wake all calls of `wait` for it in this process.

        If the login has ended already, `cancel` changes nothing.

        Args:
            flow_id: The login's id.
            detail: Why the login is cancelled. The event records this text.
        """
        return self._run(wait.cancel, flow_id, detail)

    # The token.

    def collect_token(self, flow_id: str) -> Token:
        """Return the token of an authorized login, and record that it was collected.

        The token stays in the store, and each call returns it again, until the token is
        acknowledged or purged.

        Raises:
            WaitTimeoutError: The login is still pending.
            LoginError: The login ended without a token.
            TokenGoneError: The token was acknowledged or purged.
            ServerError: The server refused the login, or its responses are not of the protocol.
        """
        return self._run(handover.collect_token, flow_id)

    def acknowledge(self, flow_id: str) -> Login:
        """Say that the token is safe elsewhere, so that the store wipes it.

        You can acknowledge the same token again: the second call changes nothing.

        Raises:
            DeviceFlowError: There is no token to acknowledge; as for `collect_token`.
        """
        return self._run(handover.acknowledge, flow_id)

    @contextmanager
    def collect(self, flow_id: str, seconds: float = 60.0) -> Iterator[Token]:
        """Collect the token for a `with` block, and acknowledge the token at the end of the block.

        If the block raises, the token is not acknowledged, and the next call returns it again.

        Args:
            flow_id: The login's id.
            seconds: For how many seconds nobody else can collect the token; at most a day. The end
                of the block also ends this time.

        Raises:
            LoginBusyError: Another worker is collecting the token.
            DeviceFlowError: There is no token; as for `collect_token`.
        """
        held = self._run(handover.begin_collection, flow_id, seconds)
        acknowledged = False
        try:
            yield held.token
            acknowledged = True
        finally:
            self._run(handover.end_collection, held, acknowledged=acknowledged)

    def purge(self, *, tokens_after: float = 7 * DAY, flows_after: float = 90 * DAY) -> Purged:
        """Wipe the secrets of logins that ended long ago, and later delete the logins.

        The events of deleted logins stay. `purge` also deletes grants that were lost or ended long
        ago. A grant that is needed again stays, as long as the program is notified of the need.

        If nobody acknowledged a token, the client revokes it. If the server cannot revoke tokens,
        the event's detail says so.

        Args:
            tokens_after: How many seconds after the end of a login its token is wiped.
            flows_after: How many seconds after its end a login or a grant is deleted.
        """
        return self._run(purge.purge, tokens_after, flows_after)

    def refresh(self, provider: Provider, token: Token) -> Token:
        """Return the next token, in exchange for the refresh token of this one.

        Args:
            provider: The server that issued the token.
            token: A token with a refresh token. If the server sends no new refresh token, the next
                token has this one.

        Raises:
            UsageError: The provider does not refresh tokens, or the token has no refresh token.
            RejectedError: The server refused: a person must log in again.
            ServerError: The server was not reachable, or its response is not of the protocol.
        """
        return self._run(refresh.refresh, provider, token)

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

        With a name, the same call returns the same token until the token is acknowledged. So if a
        program is killed before it saves the token, its next run gets the token without asking a
        person again. Acknowledge the token once it is safe, or `purge` revokes it.

        Args:
            provider: The server.
            name: As for `start`.
            purpose: As for `start`.
            open_browser: Whether to open the page in the person's browser.
            timeout: As for `wait`.
            acknowledge: Whether to acknowledge the token before returning it. By default only if
                the login has no name, because then no call could return the token again.
            **request: What to ask for, as for `start`.

        Raises:
            DeviceFlowError: As for `start` and `wait_for_token`.
        """
        return self._run(
            whole.login,
            provider,
            name,
            purpose,
            request,
            open_browser=open_browser,
            timeout=timeout,
            acknowledges=acknowledge,
        )

    # Moving.

    def export_login(self, flow_id: str, keys: Sequence[Secret | str]) -> str:
        """Return the whole login, with its secrets, as one sealed, URL-safe text.

        Use this in a program that keeps its own state. The program must make sure that only one
        process at a time resumes the login.

        Args:
            flow_id: The login's id.
            keys: Fernet keys, as `deviceflow keys generate` prints them. The first key seals.

        Raises:
            UnknownLoginError: The store has no login of that id.
            LoginBusyError: A process holds the login while it waits, as it does where the trail is
                a summary.
            SealError: There is no key, or a key is not a Fernet key.
            ImportError: `cryptography` is missing (extra `seal`).
        """
        keys = wrapped(keys)
        return self._run(transfer.export_login, flow_id, keys)

    def import_login(self, text: str, keys: Sequence[Secret | str]) -> Login:
        """Add an exported login to the store.

        Args:
            text: What `export_login` returned.
            keys: Fernet keys. One of them must be the key that sealed the text.

        Raises:
            SealError: The text was sealed with another key, or was changed.
            UsageError: The store has this login already, or has another open login of the same
                name; or the text has another version.
            ImportError: `cryptography` is missing (extra `seal`).
        """
        keys = wrapped(keys)
        return self._run(transfer.import_login, text, keys)

    def close(self) -> None:
        """Close the connections, and the store if the client opened it from a URL.

        The logins do not change.
        """
        self._transport.close()
        if self._owns_store:
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(
        self,
        operation: Callable[Concatenate[World, _P], Coroutine[Any, Any, _T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """Run an operation to its end, and return its result."""
        world = _SyncWorld(self)
        try:
            result = complete(operation(world, *args, **kwargs))
        finally:
            world.close()
        self._interrupts.give_way()
        return result

    def _at_once(
        self, works: Sequence[Work[_T]], places: int = AT_ONCE, seconds: float = inf
    ) -> list[_T]:
        """Run operations at the same time, in threads, and return their results.

        On a clock that does not tell real time, they run one after the other: threads have no order
        there.

        Args:
            works: The operations.
            places: How many run at a time at most.
            seconds: After how many seconds no more begin.
        """
        if len(works) < 2 or not sleeps_in_real_time(self._clock):
            return [self._run(work.item) for work in works]
        from concurrent import futures  # noqa: PLC0415  # costs, and is for sweeps only

        turns, results = Turns[Any](places), list[_T]()
        for work in works:
            turns.put(*work)
        until = self._clock.monotonic() + seconds
        running: dict[futures.Future[_T], Work[_T]] = {}
        with futures.ThreadPoolExecutor(places, thread_name_prefix="deviceflow") as threads:

            def begin(turn: Work[_T]) -> futures.Future[_T]:
                return threads.submit(copy_context().run, lambda: self._run(turn.item))

            while True:
                while self._clock.monotonic() < until and (turn := turns.take()) is not None:
                    running[begin(turn)] = turn
                if not running:
                    return results
                for ended in futures.wait(running, None, futures.FIRST_COMPLETED).done:
                    turns.end(running.pop(ended))
                    results.append(ended.result())

    def _sleep(self, seconds: float, waker: threading.Event | None) -> None:
        if waker is None:
            self._clock.sleep(seconds)
        elif sleeps_in_real_time(self._clock):
            waker.wait(seconds)
        elif not waker.is_set():
            self._clock.sleep(seconds)


class _AwaitableStore:
    """The store of a `Client`, with methods that are awaited, and never suspend."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method, interrupts = getattr(self._client._store, name), self._client._interrupts

        async def call(*args: Any, **kwargs: Any) -> Any:
            if name in MUST_FINISH:
                return interrupts.finish(method, *args, **kwargs)
            interrupts.give_way()
            return method(*args, **kwargs)

        return call


class _SyncWorld(ClientWorld):
    """The ports of one operation of a `Client`. None of them suspends."""

    _client: Client

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self.store = client._awaitable_store
        self._wakers: dict[str, threading.Event] = {}

    def close(self) -> None:
        if self._wakers:
            self._client._wakers.difference_update(self._wakers.items())

    def _give_way(self) -> None:
        self._client._interrupts.give_way()

    async def sleep(self, seconds: float, watched: str | None = None) -> None:
        self._give_way()
        self._client._sleep(seconds, self._wakers.get(watched or ""))

    def watch(self, subject_id: str) -> None:
        self._wakers[subject_id] = waker = self._wakers.get(subject_id) or threading.Event()
        waker.clear()
        self._client._wakers.add((subject_id, waker))

    async def check_credentials(self, provider: Provider) -> None:
        self._give_way()
        secret_refs.check(provider)

    async def prepare(self, request: Request, now: float) -> Prepared:
        self._give_way()
        return self._client._prepare(request, now)

    async def send(self, request: Request, timeout: float) -> Exchange:
        result: Response | Failure | BaseException
        try:
            self._give_way()
            result = self._client._transport.send(request, timeout)
        except BaseException as stop:  # noqa: BLE001  # the operation raises it
            result = without_frames(stop)
        return Exchange(result, self._client._clock.monotonic())

    async def write_audit(self, event: dict[str, Any], subject: Flow | Grant) -> None:
        self._client._interrupts.finish(self._client._write_audit, event, subject)

    def emit(self, name: str, fields: dict[str, Any], level: int = logging.INFO) -> None:
        self._client._interrupts.finish(self._client._emitter.emit, name, fields, level)

    async def print(self, line: str) -> None:
        self._give_way()
        self._client._output(line)

    async def open_browser(self, url: str) -> bool:
        self._give_way()
        return self._client._browser(url)

    async def notify(self, need: LoginNeed) -> str | None:
        self._give_way()
        return self._client._tell_need(need)

    async def on_step(self, function: Callable[[Login], object], login: Login) -> None:
        self._give_way()
        function(login)
