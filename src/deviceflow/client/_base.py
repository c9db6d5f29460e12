"""What both drivers share: a client's parts and settings, and the effects that a store performs."""

from __future__ import annotations

import logging
import sys
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from deviceflow._environment import http_allowed
from deviceflow._environment import public_url as configured_url
from deviceflow.audit.jsonl import JSONLinesAudit
from deviceflow.audit.log import CLOCK_JUMP, Emitter
from deviceflow.client import effects as do
from deviceflow.client.clock import Timeline
from deviceflow.client.context import context_of
from deviceflow.core.sanitize import endpoint
from deviceflow.core.secret import unseen
from deviceflow.credentials.client_auth import authenticated
from deviceflow.errors import DeviceFlowError, UsageError

if TYPE_CHECKING:
    import asyncio
    import threading
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    from deviceflow.audit.log import OnTransition
    from deviceflow.client.effects import SharedEffect
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
    "store": ("commit", "get", "close"),
    "transport": ("send", "close"),
    "clock": ("sleep",),
}
_ASYNC_PART: Final = {
    "store": "Pass the store's URL, or open_async_store(url).",
    "transport": "Pass ThreadedTransport(transport), which sends in threads.",
    "clock": "Pass one with `async def sleep`; for tests, an AsyncVirtualClock.",
}


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
    ) -> None:
        self._check_part("store", store)
        self._check_part("transport", transport)
        self._check_part("clock", clock)
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
            audit=self._audit,
            origin=origin,
            deadline=deadline,
            approver=approver,
            notifies=notify is not None,
            pages=pages_at(public_url),
        )
        self._notify = notify

    def _check_part(self, kind: str, part: object) -> None:
        """Refuse a part of the other kind of client, which would fail later, and obscurely."""
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

    def _perform_shared(self, effect: SharedEffect) -> Any:  # noqa: C901, PLR0912  # one case for each effect
        """Perform an effect that both drivers perform alike.

        Returns:
            Its answer; where an `AsyncStore` performs it, an awaitable of the answer.
        """
        store = self._store
        match effect:
            case do.ReadClocks():
                return self._timeline.read()
            case do.LoadGrant(name, client_now):
                return store.load_grant(name, client_now)
            case do.Emit(name, fields, level):
                return self._emitter.emit(name, fields, level)
            case do.Wake(flow_id):
                for watched, waker in list(self._wakers):
                    if watched == flow_id:
                        waker.set()
                return None
            case do.ClaimFlow(flow_id, owner, client_now, seconds, decide):
                return store.claim(flow_id, owner, client_now, seconds, decide)
            case do.Commit(flow, event, release, store_event):
                return store.commit(flow, event, release=release, store_event=store_event)
            case do.StoreNow():
                return store.now(self._timeline.now())
            case do.Load(flow_id, secrets):
                return store.get(flow_id, secrets=secrets)
            case do.Release(flow_id, owner):
                return store.release(flow_id, owner)
            case do.ClaimDue(owner, client_now, seconds, decide):
                return store.claim_due(owner, client_now, seconds, decide)
            case do.Snooze(flow_id, owner, client_now):
                return store.snooze(flow_id, owner, client_now)
            case do.Reschedule(flow, owner):
                return store.reschedule(flow, owner)
            case do.WakeAfterClockChange(client_now):
                return store.wake_after_clock_change(client_now)
            case do.LeasesTakenAfter(client_now):
                return store.leases_taken_after(client_now)
            case do.EndLease(flow_id, since, client_now):
                return store.end_lease(flow_id, since, client_now)
            case do.Add(flow, store_event):
                return store.add(flow, store_event=store_event)
            case do.IdsWithSecrets(kind, ended_before, client_now, skip):
                return store.ids_with_secrets(kind, ended_before, client_now, skip)
            case do.DeleteEnded(ended_before, on_problem):
                return store.delete_ended(ended_before, on_problem=on_problem)
            case do.CommitGrant(grant, event, lease, release, moved, flow_event):
                return store.commit_grant(
                    grant, event, lease=lease, release=release, flow=moved, flow_event=flow_event
                )
            case do.LoadGrantById(grant_id, client_now):
                return store.load_grant_by_id(grant_id, client_now)
            case do.LoadGrantByLink(link, client_now):
                return store.load_grant_by_link(link, client_now)
            case do.FindFlow(name):
                return store.find(name)
            case do.UseGrant(grant_id, client_now):
                return store.use_grant(grant_id, client_now)
            case do.ListGrants(client_now, after):
                return store.grants(client_now, after)
            case do.DueGrants(client_now, unused, limit):
                return store.due_grants(client_now, unused, limit)
            case do.DueNotices(client_now, limit):
                return store.due_notices(client_now, limit)
            case do.ClaimNotice(grant_id, client_now, seconds):
                return store.claim_notice(grant_id, client_now, seconds)
            case do.SnoozeGrant(name, client_now):
                return store.snooze_grant(name, client_now)
            case do.RecordStoreEvent(action, client_now, detail, origin):
                return store.record_store_event(action, client_now, detail, origin)

    def _prepare(self, request: Request, now: float) -> do.Prepared:
        unverified = getattr(self._transport, "unverified", False)
        return do.Prepared(unseen(lambda: authenticated(request, now)), unverified=unverified)

    def _tell_need(self, need: LoginNeed) -> bool:
        try:
            if self._notify is not None:
                self._notify(need)
        except Exception as problem:  # noqa: BLE001  # it is on record, and tried again
            # The text and the frames of an exception that is not ours may hold the link.
            said = str(problem) if isinstance(problem, DeviceFlowError) else type(problem).__name__
            logging.getLogger("deviceflow").warning(
                "notify failed for the need %s: %s", need.id, said
            )
            return False
        return True

    def _write_audit(self, event: dict[str, Any], flow: Flow | Grant) -> None:
        if self._audit is not None:
            self._audit.write(event, flow)


def pages_at(public_url: str | None) -> str | None:
    """Return where the pages of needs are, without a slash at the end.

    Raises:
        InsecureURLError: The URL is invalid, or plain http to another machine.
    """
    url = public_url or configured_url()
    return None if url is None else endpoint(url, allow_http=http_allowed()).rstrip("/")


def documented_as(model: type) -> Callable[[type[_T]], type[_T]]:
    """Give methods without a docstring that of the method of the same name in another class."""

    def document(cls: type[_T]) -> type[_T]:
        for name, method in vars(cls).items():
            if not name.startswith("_") and method.__doc__ is None:
                method.__doc__ = getattr(model, name).__doc__
        return cls

    return document
