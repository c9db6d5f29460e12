"""Wiping the secrets of logins that ended long ago, and deleting such logins and grants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from deviceflow import errors
from deviceflow.client import recorder
from deviceflow.client.claim import put_off
from deviceflow.client.handover import claim_ended
from deviceflow.client.lease import LEASE_MARGIN
from deviceflow.client.step import step
from deviceflow.core import queries
from deviceflow.core.grant import Grant
from deviceflow.core.ports import LeaseHeld, Unreadable

if TYPE_CHECKING:
    from deviceflow.client.world import World
    from deviceflow.core.ports import Stored

    Kind = Literal["token", "revoke"]

DAY: Final = 86400.0
"""Seconds of a day."""


class Purged(NamedTuple):
    """What a purge did.

    Attributes:
        tokens: How many flows' secrets were wiped.
        flows: How many flows were dropped.
        problems: What kept others from being wiped.
        grants: How many grants were dropped.
        needs: How many needs were ended that nobody had fulfilled.
    """

    tokens: int
    flows: int
    problems: list[errors.DeviceFlowError]
    grants: int = 0
    needs: int = 0


async def purge(world: World, tokens_after: float, flows_after: float) -> Purged:
    """Wipe the secrets of flows that ended long enough ago, then delete flows and grants.

    Args:
        world: What the operation works with.
        tokens_after: The age in seconds, since the end, at which a token is wiped.
        flows_after: The age in seconds, since the end, at which a flow or a grant is deleted; and
            the age at which a need ends that nobody has fulfilled.
    """
    wiped, problems = 0, list[errors.DeviceFlowError]()
    now = await world.now()
    seen: set[str] = set()
    ages: tuple[tuple[Kind, float], ...] = (("token", tokens_after), ("revoke", flows_after))
    for kind, age in ages:
        skip = 0
        # Each flow once. What is wiped is found no more, so only what was passed is skipped.
        while ids := await world.store.select(queries.with_secrets(kind, now - age, skip), now):
            new = [flow_id for flow_id in ids if flow_id not in seen]
            skip += 0 if new else len(ids)
            seen.update(new)
            for flow_id in new:
                wiped += await _try_to_wipe(world, flow_id, kind, problems)
    deleted = await _purge_logins(world, now, now - flows_after, problems)
    grants, needs = await _purge_grants(world, now, now - flows_after, problems)
    return Purged(wiped, deleted, problems, grants, needs)


async def _purge_logins(
    world: World, now: float, before: float, problems: list[errors.DeviceFlowError]
) -> int:
    """Delete the logins that ended before a time and have no secrets; return how many."""
    deleted = skip = 0
    while found := await world.store.select(queries.without_secrets(before, skip), now):
        problems.extend(one.problem for one in found if isinstance(one, Unreadable))
        over = [one.record for one in found if not isinstance(one, Unreadable)]
        gone = await world.store.delete(over)
        deleted += gone
        skip += len(found) - gone
    return deleted


async def _purge_grants(
    world: World, now: float, before: float, problems: list[errors.DeviceFlowError]
) -> tuple[int, int]:
    """Delete the grants that ended before a time, and end the needs that are as old.

    Returns:
        How many grants were deleted, and how many needs ended.
    """
    deleted, ended, after = 0, 0, ""
    while names := await world.store.select(queries.ended_grants(before, after), now):
        for name in names:
            try:
                clocks = world.clocks()
                stored = await world.store.load(Grant, name, clocks.now, by="name")
                if stored is None:
                    continue
                if stored.record.is_over(before):
                    deleted += await _delete_grant(world, stored)
                elif stored.record.has_stale_need(before) and not await _has_code(world, stored):
                    ended += await _give_up_need(world, stored)
            except errors.DeviceFlowError as problem:
                problems.append(problem)
        if names[-1] <= after:  # a row whose name is not text is listed last, under another name
            break
        after = names[-1]
    return deleted, ended


async def _has_code(world: World, stored: Stored[Grant]) -> bool:
    """Tell whether somebody has a valid code to log in for a grant, from wherever."""
    flow = await world.find_login(stored.record.name)
    return flow is not None and flow.expires_at is not None and flow.expires_at > stored.now


async def _give_up_need(world: World, stored: Stored[Grant]) -> bool:
    """End a need; a sweep notifies of the end, and a later purge deletes the grant."""
    given_up = stored.record.give_up_need(stored.now)
    worker = world.context.identity.worker()
    return await recorder.record_grant(world, stored.record, given_up, worker)


async def _delete_grant(world: World, stored: Stored[Grant]) -> bool:
    """Delete a grant, with what is left to revoke."""
    grant, worker = stored.record, world.context.identity.worker()
    if grant.to_revoke:
        abandoned = grant.abandon_revocation(stored.now)
        if not await recorder.record_grant(world, grant, abandoned, worker):
            return False
    world.context.tokens.discard(grant.name)
    return bool(await world.store.delete([grant]))


async def _try_to_wipe(
    world: World, flow_id: str, kind: Kind, problems: list[errors.DeviceFlowError]
) -> bool:
    try:
        return await wipe(world, flow_id, kind)
    except errors.DeviceFlowError as problem:
        await put_off(world, flow_id, world.context.identity.worker())
        problems.append(problem)
    return False


async def wipe(world: World, flow_id: str, kind: Kind) -> bool:
    """Wipe the secrets of a flow that has ended, and revoke its token; return whether it had any.

    Nothing is done while somebody has its lease.
    """
    worker = world.context.identity.worker()
    claim = await claim_ended(world, flow_id, worker, LEASE_MARGIN)
    if isinstance(claim, LeaseHeld):
        return False  # somebody is collecting it at last
    flow = claim.flow
    if not (flow.token if kind == "token" else flow.to_revoke):
        await world.store.release(flow_id, worker)
        return False  # somebody was quicker
    forget = flow.purge if kind == "token" else flow.abandon_revocation
    transition = forget(claim.now)
    wiped = await recorder.record(world, flow, transition, worker, release=True)
    for _ in flow.to_revoke:
        await step(world, flow_id)
    return wiped
