"""Wiping the secrets of logins that ended long ago, and deleting such logins and grants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from deviceflow import errors
from deviceflow.client.effects import (
    DeleteEnded,
    DeleteGrant,
    EndedGrants,
    FindFlow,
    IdsWithSecrets,
    LoadGrant,
    ReadClocks,
    Release,
    Snooze,
    StoreNow,
)
from deviceflow.client.handover import claim_ended
from deviceflow.client.lease import LEASE_MARGIN
from deviceflow.client.step import step
from deviceflow.core.ports import LeaseHeld

if TYPE_CHECKING:
    from deviceflow.client.context import Context
    from deviceflow.client.effects import Op
    from deviceflow.client.lease import Clocks
    from deviceflow.core.flow import Flow
    from deviceflow.core.ports import StoredGrant

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


def purge(context: Context, tokens_after: float, flows_after: float) -> Op[Purged]:
    """Wipe the secrets of flows that ended long enough ago, then delete flows and grants.

    Args:
        context: The client.
        tokens_after: The age in seconds, since the end, at which a token is wiped.
        flows_after: The age in seconds, since the end, at which a flow or a grant is deleted; and
            the age at which a need ends that nobody has fulfilled.
    """
    wiped, problems = 0, list[errors.DeviceFlowError]()
    now: float = yield StoreNow()
    seen: set[str] = set()
    ages: tuple[tuple[Kind, float], ...] = (("token", tokens_after), ("revoke", flows_after))
    for kind, age in ages:
        skip = 0
        ids: list[str]
        # Each flow once. What is wiped is found no more, so only what was passed is skipped.
        while ids := (yield IdsWithSecrets(kind, now - age, now, skip)):
            new = [flow_id for flow_id in ids if flow_id not in seen]
            skip += 0 if new else len(ids)
            seen.update(new)
            for flow_id in new:
                wiped += yield from _try_to_wipe(context, flow_id, kind, problems)
    deleted: int = yield DeleteEnded(now - flows_after, problems.append)
    grants, needs = yield from _purge_grants(context, now - flows_after, problems)
    return Purged(wiped, deleted, problems, grants, needs)


def _purge_grants(
    context: Context, before: float, problems: list[errors.DeviceFlowError]
) -> Op[tuple[int, int]]:
    """Delete the grants that ended before a time, and end the needs that are as old.

    Returns:
        How many grants were deleted, and how many needs ended.
    """
    deleted, ended, after = 0, 0, None
    names: list[str]
    while names := (yield EndedGrants(before, after)):
        for name in names:
            try:
                clocks: Clocks = yield ReadClocks()
                stored: StoredGrant | None = yield LoadGrant(name, clocks.now)
                if stored is None:
                    continue
                if stored.grant.is_over(before):
                    deleted += yield from _delete_grant(context, stored)
                elif stored.grant.has_stale_need(before) and not (yield from _has_code(stored)):
                    ended += yield from _give_up_need(context, stored)
            except errors.DeviceFlowError as problem:
                problems.append(problem)
        after = names[-1]
    return deleted, ended


def _has_code(stored: StoredGrant) -> Op[bool]:
    """Tell whether somebody has a valid code to log in for a grant, from wherever."""
    flow: Flow | None = yield FindFlow(stored.grant.name)
    return flow is not None and flow.expires_at is not None and flow.expires_at > stored.now


def _give_up_need(context: Context, stored: StoredGrant) -> Op[bool]:
    """End a need; a sweep notifies of the end, and a later purge deletes the grant."""
    given_up = stored.grant.give_up_need(stored.now)
    worker = context.identity.worker()
    return (yield from context.recorder.record_grant(stored.grant, given_up, worker))


def _delete_grant(context: Context, stored: StoredGrant) -> Op[bool]:
    """Delete a grant, with what is left to revoke."""
    grant, worker = stored.grant, context.identity.worker()
    if grant.to_revoke:
        abandoned = grant.abandon_revocation(stored.now)
        if not (yield from context.recorder.record_grant(grant, abandoned, worker)):
            return False
    context.tokens.discard(grant.name)
    return bool((yield DeleteGrant(grant)))


def _try_to_wipe(
    context: Context, flow_id: str, kind: Kind, problems: list[errors.DeviceFlowError]
) -> Op[bool]:
    try:
        return (yield from wipe(context, flow_id, kind))
    except errors.DeviceFlowError as problem:
        clocks: Clocks = yield ReadClocks()
        yield Snooze(flow_id, context.identity.worker(), clocks.now)
        problems.append(problem)
    return False


def wipe(context: Context, flow_id: str, kind: Kind) -> Op[bool]:
    """Wipe the secrets of a flow that has ended, and revoke its token; return whether it had any.

    Nothing is done while somebody has its lease.
    """
    worker = context.identity.worker()
    claim = yield from claim_ended(context, flow_id, worker, LEASE_MARGIN)
    if isinstance(claim, LeaseHeld):
        return False  # somebody is collecting it at last
    flow = claim.flow
    if not (flow.token if kind == "token" else flow.to_revoke):
        yield Release(flow_id, worker)
        return False  # somebody was quicker
    forget = flow.purge if kind == "token" else flow.abandon_revocation
    transition = forget(claim.now)
    wiped = yield from context.recorder.record(flow, transition, worker, release=True)
    for _ in flow.to_revoke:
        yield from step(context, flow_id)
    return wiped
