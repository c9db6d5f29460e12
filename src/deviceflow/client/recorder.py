"""The one place where an event is rendered, linked, committed and published."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from deviceflow.audit import log
from deviceflow.audit.events import render, render_grant
from deviceflow.audit.personal import Personal
from deviceflow.client.effects import (
    Add,
    Commit,
    CommitGrant,
    Emit,
    ReadClocks,
    RecordStoreEvent,
    Wake,
    WriteAudit,
)
from deviceflow.core import actions
from deviceflow.core.ports import StoreEvent
from deviceflow.core.sanitize import crosses_in_clear

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.client.effects import Op, Prepared
    from deviceflow.client.identity import Identity
    from deviceflow.core.flow import Flow, Transition
    from deviceflow.core.grant import Grant
    from deviceflow.core.ports import GrantLease, Origin

    Link = Callable[[dict[str, Any], Flow | Grant], None]


class Recorder:
    """Puts what happens to logins on record: in the store, in an audit file, in the log.

    Args:
        identity: In whose name.
        link: Makes an event the next link of its flow's chain before the event is committed; for
            stores that do not link events themselves.
        writes_audit: Whether there is an audit file.
        keeps_trail: Whether the store links events.
    """

    def __init__(
        self,
        identity: Identity,
        link: Link | None = None,
        *,
        writes_audit: bool = False,
        keeps_trail: bool = False,
    ) -> None:
        self._identity = identity
        self._link = link
        self._writes_audit = writes_audit
        self._personal = Personal(linked=keeps_trail or link is not None)
        self._unverified: set[str] = set()

    def render(self, flow: Flow, transition: Transition, worker: str) -> dict[str, Any]:
        """Return the event of a transition, linked where the store does not do that."""
        return self.render_as(self._identity.origin_of(worker), flow, transition)

    def render_as(self, origin: Origin, flow: Flow, transition: Transition) -> dict[str, Any]:
        """Return the event as `render` does, also in a thread of which nobody set the origin."""
        event = self._personal.hide(render(flow, transition, origin))
        if self._link is not None:
            self._link(event, flow)  # before the flow is kept, and with it the chain's head
        return event

    def record(
        self, flow: Flow, transition: Transition, worker: str, *, release: bool = False
    ) -> Op[bool]:
        """Commit a transition, and publish its event.

        Args:
            flow: The flow after the transition.
            transition: What happened.
            worker: Who did it.
            release: Whether the worker's lease is given back in the same transaction.

        Returns:
            Whether it was committed. It is not, if another worker moved the flow meanwhile.
        """
        event = self.render(flow, transition, worker)
        return (yield from self.commit(flow, event, worker if release else None))

    def commit(self, flow: Flow, event: dict[str, Any], release: str | None = None) -> Op[bool]:
        """Commit a rendered event, and publish it. It does not wait, and tries once."""
        address = (
            _address_in_clear(flow.token_endpoint)
            if event["action"] == actions.ISSUE_CODE
            else None
        )
        note = self._plain_http(flow, address)
        committed: bool = yield Commit(flow, event, release, note)
        if committed:
            yield from self.publish(flow, event)
            yield from _warn_of_plain_http(flow, address)
        return committed

    def publish(self, flow: Flow | Grant, event: dict[str, Any]) -> Op[None]:
        """Write a committed event to the audit file and to the log."""
        if self._writes_audit:
            yield WriteAudit(event, flow)
        yield Emit(log.TRANSITION, event)

    # Grants.

    def render_grant(self, grant: Grant, transition: Transition, worker: str) -> dict[str, Any]:
        """Return the event of a grant's transition, linked where the store does not do that."""
        origin = self._identity.origin_of(worker)
        event = self._personal.hide(render_grant(grant, transition, origin))
        if self._link is not None:
            self._link(event, grant)
        return event

    def record_grant(
        self,
        grant: Grant,
        transition: Transition,
        worker: str,
        *,
        lease: GrantLease | None = None,
        release: bool = False,
    ) -> Op[bool]:
        """Commit a transition of a grant, and publish its event; as `record`, for a grant.

        Args:
            grant: The grant after the transition.
            transition: What happened.
            worker: Who did it.
            lease: A lease to take in the same transaction.
            release: Whether the worker's lease is given back in the same transaction.
        """
        event = self.render_grant(grant, transition, worker)
        commit = CommitGrant(grant, event, lease, worker if release else None)
        return (yield from self.commit_grant(commit))

    def commit_grant(self, commit: CommitGrant) -> Op[bool]:
        """Commit a rendered event of a grant, and publish it; with the flow's, if one moves."""
        committed: bool = yield commit
        if committed:
            if commit.flow is not None and commit.flow_event is not None:
                yield from self.publish(commit.flow, commit.flow_event)
            yield from self.publish(commit.grant, commit.event)
            yield Wake(commit.grant.id)
        return committed

    # Besides transitions.

    def add(self, flow: Flow) -> Op[Flow]:
        """Keep a new flow, or return the open one of its name; warn if it begins in clear."""
        address = _address_in_clear(flow.request().url)
        note = self._plain_http(flow, address)
        kept: Flow = yield Add(flow, note)
        if kept is flow:
            yield from _warn_of_plain_http(flow, address)
        return kept

    def unverified_tls(self, prepared: Prepared) -> Op[None]:
        """Put on record, once for each address, that a certificate is not checked."""
        if not prepared.unverified:
            return
        address = _address(prepared.request.url)
        if address.startswith("https:") and address not in self._unverified:
            clocks = yield ReadClocks()
            yield RecordStoreEvent(
                actions.UNVERIFIED_TLS, clocks.wall, address, self._identity.origin
            )
            yield Emit(log.UNVERIFIED_TLS, {"url": address}, logging.WARNING)
            self._unverified.add(address)

    def _plain_http(self, flow: Flow, address: str | None) -> StoreEvent | None:
        if address is None:
            return None
        detail = f"{flow.id} at {address}"
        return StoreEvent(actions.PLAIN_HTTP, flow.moved_at, detail, self._identity.origin)


def _warn_of_plain_http(flow: Flow, address: str | None) -> Op[None]:
    if address is not None:
        yield Emit(log.PLAIN_HTTP, {"flow_id": flow.id, "url": address}, logging.WARNING)


def _address(url: str) -> str:
    return "{0.scheme}://{0.netloc}".format(urlsplit(url))  # a path may hold anything


def _address_in_clear(url: str | None) -> str | None:
    return _address(url) if url and crosses_in_clear(url) else None
