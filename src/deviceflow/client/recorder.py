"""The one place where an event is rendered, linked, committed and published."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from deviceflow.audit import events, log
from deviceflow.client.kept import GrantCommit
from deviceflow.core import actions
from deviceflow.core.ports import StoreEvent
from deviceflow.core.sanitize import crosses_in_clear

if TYPE_CHECKING:
    from deviceflow.client.context import Context
    from deviceflow.client.world import Prepared, World
    from deviceflow.core.flow import Flow, Transition
    from deviceflow.core.grant import Grant
    from deviceflow.core.ports import AsyncHolder, GrantLease, Origin


def render(context: Context, flow: Flow, transition: Transition, worker: str) -> dict[str, Any]:
    """Return the event of a transition, linked where the store does not do that."""
    return render_as(context, context.identity.origin_of(worker), flow, transition)


def render_as(
    context: Context, origin: Origin, flow: Flow, transition: Transition
) -> dict[str, Any]:
    """Return the event as `render` does, also in a thread of which nobody set the origin."""
    event = context.personal.hide(events.render(flow, transition, origin))
    if context.link is not None:
        context.link(event, flow)  # before the flow is kept, and with it the chain's head
    return event


async def record(
    world: World, flow: Flow, transition: Transition, worker: str, *, release: bool = False
) -> bool:
    """Commit a transition, and publish its event.

    Args:
        world: What the operation works with.
        flow: The flow after the transition.
        transition: What happened.
        worker: Who did it.
        release: Whether the worker's lease is given back in the same transaction.

    Returns:
        Whether it was committed. It is not, if another worker moved the flow meanwhile.
    """
    event = render(world.context, flow, transition, worker)
    return await commit(world, flow, event, worker if release else None)


async def commit(
    world: World, flow: Flow, event: dict[str, Any], release: str | None = None
) -> bool:
    """Commit a rendered event, and publish it. It does not wait, and tries once."""
    address = (
        _address_in_clear(flow.token_endpoint) if event["action"] == actions.ISSUE_CODE else None
    )
    note = _plain_http(world, flow, address)
    committed = await world.store.commit(flow, event, release=release, store_event=note)
    if committed:
        await publish(world, flow, event)
        _warn_of_plain_http(world, flow, address)
    return committed


async def leave_out(world: World, flow: Flow, transition: Transition, worker: str) -> None:
    """Publish the event of a transition of a login that is held, which is not stored."""
    event = render(world.context, flow, transition, worker)
    await cast("AsyncHolder", world.store).leave_out(flow, event)
    await publish(world, flow, event)


async def publish(world: World, subject: Flow | Grant, event: dict[str, Any]) -> None:
    """Write an event to the audit file and to the log; a committed one, unless it is left out."""
    if world.context.writes_audit:
        await world.write_audit(event, subject)
    world.emit(log.TRANSITION, event)


# Grants.


def render_grant(
    context: Context, grant: Grant, transition: Transition, worker: str
) -> dict[str, Any]:
    """Return the event of a grant's transition, linked where the store does not do that."""
    origin = context.identity.origin_of(worker)
    event = context.personal.hide(events.render_grant(grant, transition, origin))
    if context.link is not None:
        context.link(event, grant)
    return event


async def record_grant(
    world: World,
    grant: Grant,
    transition: Transition,
    worker: str,
    *,
    lease: GrantLease | None = None,
    release: bool = False,
) -> bool:
    """Commit a transition of a grant, and publish its event; as `record`, for a grant.

    Args:
        world: What the operation works with.
        grant: The grant after the transition.
        transition: What happened.
        worker: Who did it.
        lease: A lease to take in the same transaction.
        release: Whether the worker's lease is given back in the same transaction.
    """
    event = render_grant(world.context, grant, transition, worker)
    return await commit_grant(world, GrantCommit(grant, event, lease, worker if release else None))


async def commit_grant(world: World, commit: GrantCommit) -> bool:
    """Commit a rendered event of a grant, and publish it; with the flow's, if one moves."""
    committed = await world.store.commit(
        commit.grant,
        commit.event,
        lease=commit.lease,
        release=commit.release,
        flow=commit.flow,
        flow_event=commit.flow_event,
    )
    if committed:
        if commit.flow is not None and commit.flow_event is not None:
            await publish(world, commit.flow, commit.flow_event)
        await publish(world, commit.grant, commit.event)
        world.wake(commit.grant.id)
    return committed


# Besides transitions.


async def add(world: World, flow: Flow) -> Flow:
    """Keep a new flow, or return the open one of its name; warn if it begins in clear."""
    address = _address_in_clear(flow.request().url)
    kept = await world.store.add(flow, store_event=_plain_http(world, flow, address))
    if kept is flow:
        _warn_of_plain_http(world, flow, address)
    return kept


async def unverified_tls(world: World, prepared: Prepared) -> None:
    """Put on record, once for each address, that a certificate is not checked."""
    if not prepared.unverified:
        return
    address, unverified = _address(prepared.request.url), world.context.unverified
    if address.startswith("https:") and address not in unverified:
        now, origin = world.clocks().wall, world.context.identity.origin
        await world.store.append(StoreEvent(actions.UNVERIFIED_TLS, now, address, origin))
        world.emit(log.UNVERIFIED_TLS, {"url": address}, logging.WARNING)
        unverified.add(address)


def _plain_http(world: World, flow: Flow, address: str | None) -> StoreEvent | None:
    if address is None:
        return None
    detail = f"{flow.id} at {address}"
    return StoreEvent(actions.PLAIN_HTTP, flow.moved_at, detail, world.context.identity.origin)


def _warn_of_plain_http(world: World, flow: Flow, address: str | None) -> None:
    if address is not None:
        world.emit(log.PLAIN_HTTP, {"flow_id": flow.id, "url": address}, logging.WARNING)


def _address(url: str) -> str:
    return "{0.scheme}://{0.netloc}".format(urlsplit(url))  # a path may hold anything


def _address_in_clear(url: str | None) -> str | None:
    return _address(url) if url and crosses_in_clear(url) else None
