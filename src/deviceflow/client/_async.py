"""The client for asyncio: it awaits the same operations, and can be cancelled safely."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from functools import partial
from inspect import isawaitable
from math import inf
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, Unpack

from deviceflow.client import handover, lookup, purge, refresh, start, step, sweep, transfer, wait
from deviceflow.client import login as whole
from deviceflow.client._async_grants import AsyncGrantClient
from deviceflow.client._base import BaseClient, ClientWorld, documented_as
from deviceflow.client._cancellation import Cancellation
from deviceflow.client._sync import Client
from deviceflow.client.browser import open_page
from deviceflow.client.clock import default_async_clock, sleeps_in_real_time
from deviceflow.client.context import DEADLINE
from deviceflow.client.lookup import log_unreadable, logins_of
from deviceflow.client.purge import DAY
from deviceflow.client.turns import AT_ONCE, NOTIFIED_AT_ONCE, Turns
from deviceflow.client.world import MUST_FINISH, Exchange
from deviceflow.core.flow import Flow
from deviceflow.core.need import OUTAGE_AFTER
from deviceflow.core.ports import Origin
from deviceflow.core.secret import Secret, without_frames, without_traceback, wrapped
from deviceflow.credentials import secret_refs
from deviceflow.credentials.client_auth import needs_secret
from deviceflow.errors import UsageError
from deviceflow.stores.async_memory import AsyncMemoryStore
from deviceflow.stores.url import open_async_store
from deviceflow.transports.requests import RequestsTransport
from deviceflow.transports.threaded import ThreadedTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from deviceflow.audit.jsonl import JSONLinesAudit
    from deviceflow.audit.log import OnTransition
    from deviceflow.client.purge import Purged
    from deviceflow.client.sweep import Swept
    from deviceflow.client.turns import Work
    from deviceflow.client.world import Prepared, World
    from deviceflow.core.grant import Grant
    from deviceflow.core.login import Login
    from deviceflow.core.notice import LoginNeed
    from deviceflow.core.ports import AsyncClock, AsyncStore, AsyncTransport
    from deviceflow.core.provider import Approver, LoginRequest, Provider, Token
    from deviceflow.core.wire import Request
    from deviceflow.errors import DeviceFlowError

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _default_transport() -> AsyncTransport:
    try:
        from deviceflow.transports.httptools import HttptoolsTransport  # noqa: PLC0415  # an extra
    except ImportError:
        return ThreadedTransport(RequestsTransport())
    return HttptoolsTransport()


@documented_as(Client)
class AsyncClient(AsyncGrantClient, BaseClient):
    """A `Client` for asyncio: the same methods, which you await.

    `async with` closes what the client has opened. A client belongs to the event loop that first
    uses it. Any number of this loop's tasks may use the client.

    You can cancel each method at any time, for example by `asyncio.timeout`. A cancelled method
    first finishes what must not be interrupted, such as a commit. If it has sent a request, it
    records that the request was interrupted. The login stays open, and another call continues it.

    Args:
        store: As for `Client`: an async store, or a URL.
        transport: What sends requests; by default an `HttptoolsTransport`, or a
            `RequestsTransport` in threads if the extra `async` is not installed.
        clock: What tells the time and sleeps.
        browser: As for `Client`. The client calls it in a thread.
        output: As for `Client`. It may be a coroutine function, and so may `on_step` of `wait`.
        approver: As for `Client`. It must not block.
        deadline: As for `Client`.
        origin: As for `Client`. `deviceflow.origin` sets another origin for the current task, and
            for the tasks that this task creates.
        on_transition: As for `Client`. The client calls it in the event loop: it must not block.
        audit: As for `Client`. The client writes the file in a thread.
        notify: As for `Client`. The client calls it in a thread.
        public_url: As for `Client`.
        outage_after: As for `Client`.
    """

    _is_async = True
    _store: AsyncStore
    _transport: AsyncTransport
    _clock: AsyncClock
    _wakers: set[tuple[str, asyncio.Event]]

    def __init__(
        self,
        store: AsyncStore | str | None = None,
        *,
        transport: AsyncTransport | None = None,
        clock: AsyncClock | None = None,
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
            store = without_traceback(lambda: open_async_store(url.reveal()))
        super().__init__(
            AsyncMemoryStore() if store is None else store,
            owns_store=owns_store,
            transport=transport or _default_transport(),
            clock=clock or default_async_clock(),
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
        self._wakers = set()
        self._in_task = getattr(self._store, "works_in_callers_task", False)
        self._audit_lock = asyncio.Lock()
        self._notifiers: ThreadPoolExecutor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # The beginning.

    async def start(
        self,
        provider: Provider,
        *,
        name: str | None = None,
        purpose: str | None = None,
        **request: Unpack[LoginRequest],
    ) -> Login:
        return await self._run(start.start, provider, name, purpose, request)

    async def create(
        self,
        provider: Provider,
        *,
        name: str | None = None,
        purpose: str | None = None,
        **request: Unpack[LoginRequest],
    ) -> Login:
        return await self._run(start.create, provider, name, purpose, request)

    async def adopt(self, provider: Provider, *, token_endpoint: str, device_code: Secret) -> Login:
        return await self._run(start.adopt, provider, token_endpoint, device_code)

    # Looking.

    async def get(self, flow_id: str) -> Login:
        return await self._run(lookup.get, flow_id)

    async def logins(
        self,
        *,
        skip_ended: bool = False,
        on_problem: Callable[[DeviceFlowError], object] = log_unreadable,
    ) -> AsyncIterator[Login]:
        self._check_loop()
        after = None
        while True:
            page = await self._store.page(
                Flow, self._timeline.read().now, after, skip_ended=skip_ended
            )
            for login in logins_of(page, on_problem):
                yield login
            if (after := page.after) is None:
                return

    # Going on.

    async def step(self, flow_id: str) -> Login:
        return await self._run(step.step, flow_id)

    async def sweep(self, limit: int = 100) -> Swept:
        swept, works = await self._run(sweep.due)
        while works and (left := limit - len(swept.logins)) > 0:
            for done in await self._at_once(works[:left]):
                swept.add(done)
            del works[:left]  # some may not have been due after all
        return swept

    async def wait(
        self,
        flow_id: str,
        timeout: float | None = None,
        *,
        on_step: Callable[[Login], object] | None = None,
    ) -> Login:
        return await self._run(wait.wait, flow_id, timeout, on_step)

    async def wait_for_token(
        self,
        flow_id: str,
        timeout: float | None = None,
        *,
        on_step: Callable[[Login], object] | None = None,
    ) -> Token:
        return await self._run(wait.wait_for_token, flow_id, timeout, on_step)

    async def cancel(self, flow_id: str, detail: str | None = None) -> Login:
        return await self._run(wait.cancel, flow_id, detail)

    # The token.

    async def collect_token(self, flow_id: str) -> Token:
        return await self._run(handover.collect_token, flow_id)

    async def acknowledge(self, flow_id: str) -> Login:
        return await self._run(handover.acknowledge, flow_id)

    @asynccontextmanager
    async def collect(self, flow_id: str, seconds: float = 60.0) -> AsyncIterator[Token]:
        held = await self._run_or_undo(
            partial(handover.end_collection, acknowledged=False),
            handover.begin_collection,
            flow_id,
            seconds,
        )
        acknowledged = False
        try:
            yield held.token
            acknowledged = True
        finally:
            await self._run(handover.end_collection, held, acknowledged=acknowledged)

    async def purge(
        self, *, tokens_after: float = 7 * DAY, flows_after: float = 90 * DAY
    ) -> Purged:
        return await self._run(purge.purge, tokens_after, flows_after)

    async def refresh(self, provider: Provider, token: Token) -> Token:
        return await self._run(refresh.refresh, provider, token)

    async def login(
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
        return await self._run(
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

    async def export_login(self, flow_id: str, keys: Sequence[Secret | str]) -> str:
        keys = wrapped(keys)
        return await self._run(transfer.export_login, flow_id, keys)

    async def import_login(self, text: str, keys: Sequence[Secret | str]) -> Login:
        keys = wrapped(keys)
        return await self._run(transfer.import_login, text, keys)

    async def close(self) -> None:
        if self._notifiers is not None:
            self._notifiers.shutdown(wait=False)
            self._notifiers = None
        await self._transport.close()
        if self._owns_store:
            await self._store.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _run(
        self,
        operation: Callable[Concatenate[World, _P], Coroutine[Any, Any, _T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """Await an operation, and return its result.

        Raises:
            CancelledError: It was cancelled, whatever the operation has made of that.
            UsageError: The client belongs to another event loop.
        """
        return await self._run_or_undo(None, operation, *args, **kwargs)

    async def _run_or_undo(
        self,
        undo: Callable[[World, _T], Coroutine[Any, Any, object]] | None,
        operation: Callable[Concatenate[World, _P], Coroutine[Any, Any, _T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """Await an operation, as `_run` does.

        Args:
            undo: The operation that takes the result back, if a cancellation came too late to end
                the operation, so that nobody gets the result.
            operation: The operation.
            *args: Its arguments.
            **kwargs: Its arguments.
        """
        self._check_loop()
        with Cancellation() as cancellation:
            world = _AsyncWorld(self, cancellation)
            try:
                result = await operation(world, *args, **kwargs)
            finally:
                world.close()
            if undo is not None and cancellation.first is not None:
                await self._run(undo, result)
        return result

    def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise UsageError(
                "This AsyncClient belongs to another event loop.",
                hint="Create a client in each loop: in the coroutine that asyncio.run runs.",
            )

    async def _at_once(
        self, works: Sequence[Work[_T]], places: int = AT_ONCE, seconds: float = inf
    ) -> list[_T]:
        """Run operations at the same time, each in a task, and return their results.

        If one fails, those under way are finished, and no more begin. The arguments are those of
        `Client._at_once`.
        """
        if len(works) < 2:
            return [await self._run(work.item) for work in works]
        turns, room = Turns[Any](places), asyncio.Event()
        results, failed = list[_T](), list[Exception]()
        for work in works:
            turns.put(*work)
        until = self._clock.monotonic() + seconds

        async def run(turn: Work[_T]) -> None:
            try:
                results.append(await self._run(turn.item))
            except Exception as problem:  # noqa: BLE001  # a task group would cancel the others
                failed.append(problem)
            turns.end(turn)
            room.set()

        async with asyncio.TaskGroup() as group:
            while not failed:
                while self._clock.monotonic() < until and (turn := turns.take()) is not None:
                    group.create_task(run(turn))
                if turns.free == places:
                    break
                room.clear()
                await room.wait()
        if failed:
            raise failed[0]
        return results

    async def _write_in_order(self, event: dict[str, Any], subject: Flow | Grant) -> None:
        async with self._audit_lock:
            await asyncio.to_thread(self._write_audit, event, subject)

    async def _tell_in_thread(self, need: LoginNeed) -> str | None:
        if self._notifiers is None:
            # Its own threads: a webhook that hangs must not hold those that read keys and files.
            self._notifiers = ThreadPoolExecutor(NOTIFIED_AT_ONCE, "deviceflow-notify")
        tell = partial(copy_context().run, self._tell_need, need)
        return await asyncio.get_running_loop().run_in_executor(self._notifiers, tell)

    async def _sleep(self, seconds: float, waker: asyncio.Event | None) -> None:
        if waker is None:
            await self._clock.sleep(seconds)
        elif sleeps_in_real_time(self._clock):
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await waker.wait()
        elif not waker.is_set():
            await self._clock.sleep(seconds)


class _CancellableStore:
    """The store of one operation, whose methods are cancelled or finished as `World` says."""

    def __init__(self, world: _AsyncWorld, store: AsyncStore) -> None:
        self._world = world
        self._store = store

    def __getattr__(self, name: str) -> Any:
        call = self._world.finish if name in MUST_FINISH else self._world.give_way_to
        return partial(call, getattr(self._store, name))


class _AsyncWorld(ClientWorld):
    """The ports of one operation of an `AsyncClient`."""

    _client: AsyncClient

    def __init__(self, client: AsyncClient, cancellation: Cancellation) -> None:
        super().__init__(client)
        store: Any = _CancellableStore(self, client._store)
        self.store = store
        self._cancellation = cancellation
        self._wakers: dict[str, asyncio.Event] = {}

    def close(self) -> None:
        self._client._wakers.difference_update(self._wakers.items())

    async def give_way_to(
        self,
        function: Callable[_P, Any],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> Any:
        """Call a function, and await its result if it is awaitable; a cancellation ends that."""
        self._cancellation.give_way()
        try:
            result = function(*args, **kwargs)
            return await result if isawaitable(result) else result
        except asyncio.CancelledError as stop:
            self._cancellation.note(stop)
            raise

    async def finish(
        self, function: Callable[_P, Coroutine[Any, Any, _T]], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Await a function's result to its end, and hold a cancellation back."""
        cancellation = self._cancellation
        finish = cancellation.finish_here if self._client._in_task else cancellation.finish
        return await finish(function(*args, **kwargs))

    async def sleep(self, seconds: float, watched: str | None = None) -> None:
        await self.give_way_to(self._client._sleep, seconds, self._wakers.get(watched or ""))

    def watch(self, subject_id: str) -> None:
        self._wakers[subject_id] = waker = self._wakers.get(subject_id) or asyncio.Event()
        waker.clear()
        self._client._wakers.add((subject_id, waker))

    async def check_credentials(self, provider: Provider) -> None:
        if not secret_refs.begun_here(provider):
            await self.give_way_to(asyncio.to_thread, secret_refs.check, provider)

    async def prepare(self, request: Request, now: float) -> Prepared:
        prepare = self._client._prepare
        if needs_secret(request):
            prepared: Prepared = await self.give_way_to(asyncio.to_thread, prepare, request, now)
            return prepared
        self._cancellation.give_way()
        return prepare(request, now)

    async def send(self, request: Request, timeout: float) -> Exchange:
        try:
            result = await self.give_way_to(self._client._transport.send, request, timeout)
        except GeneratorExit:
            raise
        except BaseException as stop:  # noqa: BLE001  # the operation raises it
            result = without_frames(stop)
        return Exchange(result, self._client._clock.monotonic())

    async def write_audit(self, event: dict[str, Any], subject: Flow | Grant) -> None:
        await self.finish(self._client._write_in_order, event, subject)

    async def print(self, line: str) -> None:
        await self.give_way_to(self._client._output, line)

    async def open_browser(self, url: str) -> bool:
        return bool(await self.give_way_to(asyncio.to_thread, self._client._browser, url))

    async def notify(self, need: LoginNeed) -> str | None:
        failed: str | None = await self.give_way_to(self._client._tell_in_thread, need)
        return failed

    async def on_step(self, function: Callable[[Login], object], login: Login) -> None:
        await self.give_way_to(function, login)
