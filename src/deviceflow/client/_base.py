"""What both clients share: their parts and settings, and the ports that need not be awaited."""

from __future__ import annotations

import logging
import sys
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from deviceflow._environment import http_allowed
from deviceflow._environment import public_url as configured_url
from deviceflow.audit.jsonl import JSONLinesAudit
from deviceflow.audit.log import CLOCK_JUMP, Emitter
from deviceflow.client.clock import Timeline
from deviceflow.client.context import context_of
from deviceflow.client.world import Prepared, World
from deviceflow.core.sanitize import endpoint
from deviceflow.core.secret import without_traceback
from deviceflow.credentials.client_auth import authenticated
from deviceflow.errors import DeviceFlowError, UsageError

if TYPE_CHECKING:
    import asyncio
    import threading
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    from deviceflow.audit.log import OnTransition
    from deviceflow.client.lease import Clocks
    from deviceflow.core.flow import Flow
    from deviceflow.core.grant import Grant
    from deviceflow.core.notice import LoginNeed
    from deviceflow.core.ports import (
        AsyncClock,
        AsyncStore,
        AsyncTransport,
        Clock,
        Origin,
        Store,
        Transport,
    )
    from deviceflow.core.provider import Approver
    from deviceflow.core.wire import Request

_T = TypeVar("_T")

# A part is an async one if any of these is a coroutine function: a wrapper may have plain methods.
_METHODS: Final = {
    "store": ("commit", "load", "close"),
    "transport": ("send", "close"),
    "clock": ("sleep",),
}
_ASYNC_PART: Final = {
    "store": "Pass the store's URL, or open_async_store(url).",
    "transport": "Pass ThreadedTransport(transport), which sends in threads.",
    "clock": "Pass one with `async def sleep`; for tests, an AsyncVirtualClock.",
}
_NO_PART: Final = {
    "store": "Pass a store, or the URL of one. For a SQLite file: Client('sqlite:///PATH').",
}

_PUBLIC_URL: Final = "public_url (--public-url, DEVICEFLOW_PUBLIC_URL)"


class BaseClient:
    """The parts of a client. `Client` describes the arguments."""

    _is_async: ClassVar[bool] = False
    _store: Store | AsyncStore
    _transport: Transport | AsyncTransport
    _clock: Clock | AsyncClock
    _wakers: AbstractSet[tuple[str, threading.Event | asyncio.Event]]

    def __init__(
        self,
        store: Store | AsyncStore,
        *,
        owns_store: bool,
        transport: Transport | AsyncTransport,
        clock: Clock | AsyncClock,
        browser: Callable[[str], bool],
        output: Callable[[str], object] | None,
        approver: Approver | None,
        deadline: float,
        origin: Origin,
        on_transition: OnTransition | None,
        audit: JSONLinesAudit | None,
        notify: Callable[[LoginNeed], object] | None,
        public_url: str | None,
        outage_after: float,
    ) -> None:
        self._check_part("store", store)
        self._check_part("transport", transport)
        self._check_part("clock", clock)
        _check_notify(notify)
        self._store = store
        self._owns_store = owns_store
        self._transport = transport
        self._clock = clock
        self._timeline = Timeline(clock, self._log_jump)
        self._browser = browser
        self._output = output or (lambda line: print(line, file=sys.stderr))  # noqa: T201
        self._emitter = Emitter(on_transition)
        self._audit = audit or JSONLinesAudit.from_env()
        self._context = context_of(
            durable=store.durable,
            keeps_trail=store.keeps_trail,
            holds=getattr(store, "holds", False),
            audit=self._audit,
            origin=origin,
            deadline=deadline,
            approver=approver,
            notifies=notify is not None,
            pages=pages_at(public_url),
            outage_after=outage_after,
            invalidate=self.invalidate,
            store_option=getattr(store, "_option", ""),
        )
        self._notify = notify

    def invalidate(self, name: str, token: Any = None) -> Any:
        """Say that a server refused a token: the methods on grants do that."""
        raise NotImplementedError

    def _check_part(self, kind: str, part: object) -> None:
        """Refuse a part of the other kind of client, which would fail later, and obscurely."""
        if not hasattr(part, _METHODS[kind][0]):
            raise UsageError(
                f"A {kind} of the type {type(part).__name__} has no method {_METHODS[kind][0]}.",
                hint=_NO_PART.get(kind, f"See deviceflow.typing.{kind.capitalize()}."),
            )
        methods = (getattr(part, name, None) for name in _METHODS[kind])
        if any(iscoroutinefunction(method) for method in methods) == self._is_async:
            return
        if not self._is_async:
            raise UsageError(
                f"A Client cannot await the methods of its {kind}, {type(part).__name__}.",
                hint=f"Use an AsyncClient, or pass a {kind} that is not async.",
            )
        raise UsageError(
            f"An AsyncClient needs an async {kind}, and {type(part).__name__} is none.",
            hint=_ASYNC_PART[kind],
        )

    def _log_jump(self, ahead: float) -> None:
        self._emitter.emit(CLOCK_JUMP, {"wall_clock_ahead": round(ahead, 3)}, logging.WARNING)

    @property
    def durable(self) -> bool:
        """Whether its logins outlive this process."""
        return self._store.durable

    def _wake(self, subject_id: str) -> None:
        for watched, waker in list(self._wakers):
            if watched == subject_id:
                waker.set()

    def _prepare(self, request: Request, now: float) -> Prepared:
        unverified = getattr(self._transport, "unverified", False)
        return Prepared(
            without_traceback(lambda: authenticated(request, now)), unverified=unverified
        )

    def _tell_need(self, need: LoginNeed) -> str | None:
        try:
            if self._notify is not None:
                self._notify(need)
        except Exception as problem:  # noqa: BLE001  # it is on record, and tried again
            # The text and the frames of an exception that is not ours may hold the link.
            said = str(problem) if isinstance(problem, DeviceFlowError) else type(problem).__name__
            logging.getLogger("deviceflow").warning(
                "notify failed for the need %s: %s", need.id, said
            )
            return said
        return None

    def _write_audit(self, event: dict[str, Any], flow: Flow | Grant) -> None:
        if self._audit is not None:
            self._audit.write(event, flow)


class ClientWorld(World):
    """The ports of one operation of a client that neither client awaits."""

    def __init__(self, client: BaseClient) -> None:
        self._client = client
        self.context = client._context

    def clocks(self) -> Clocks:
        return self._client._timeline.read()

    def resync_clock(self) -> None:
        self._client._timeline.resync()

    def wake(self, subject_id: str) -> None:
        self._client._wake(subject_id)

    def emit(self, name: str, fields: dict[str, Any], level: int = logging.INFO) -> None:
        self._client._emitter.emit(name, fields, level)


def _check_notify(notify: object) -> None:
    """Refuse what could not be called when a person must log in. A URL in it is not quoted."""
    if notify is None or (callable(notify) and not _is_async(notify)):
        return
    kind = "an async function" if callable(notify) else f"of the type {type(notify).__name__}"
    raise UsageError(
        f"notify must be a function that takes a LoginNeed, and it is {kind}.",
        hint="For a URL or a command: notify=notifier(…), from deviceflow.notify. A client calls"
        " notify in a thread, or between its requests, and awaits nothing.",
    )


def _is_async(function: Callable[..., object]) -> bool:
    return iscoroutinefunction(function) or iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  # the method itself
    )


def pages_at(public_url: str | None) -> str | None:
    """Return where the pages of needs are, without a slash at the end.

    Raises:
        InsecureURLError: The URL is invalid, or plain http to another machine.
        UsageError: It has a query or a fragment, which a link would end up in.
    """
    url = public_url or configured_url()
    if url is None:
        return None
    if "?" in url or "#" in url:
        raise UsageError(
            f"{_PUBLIC_URL}: The URL has a query or a fragment, so no link to a page can begin with"
            " the URL.",
            hint="Give one such as https://jobs.example.com/logins.",
        )
    return endpoint(url, allow_http=http_allowed(), setting=_PUBLIC_URL).rstrip("/")


def documented_as(model: type) -> Callable[[type[_T]], type[_T]]:
    """Give methods without a docstring that of the method of the same name in another class."""

    def document(cls: type[_T]) -> type[_T]:
        for name, method in vars(cls).items():
            if not name.startswith("_") and method.__doc__ is None:
                method.__doc__ = getattr(model, name).__doc__
        return cls

    return document
