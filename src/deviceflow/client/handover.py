"""Handing the token over: shown, collected under a lease, acknowledged."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from deviceflow import errors
from deviceflow.client import recorder
from deviceflow.client.claim import put_off, take_lease
from deviceflow.client.world import or_else
from deviceflow.core.explain import error_of
from deviceflow.core.login import Login
from deviceflow.core.policy import wrong_approver
from deviceflow.core.ports import Claim, LeaseHeld
from deviceflow.core.states import Handover
from deviceflow.providers.idtoken import claims_of

if TYPE_CHECKING:
    from deviceflow.client.world import World
    from deviceflow.core.flow import Flow
    from deviceflow.core.provider import Token
    from deviceflow.core.text import CleanText

LONGEST_COLLECTION: Final = 86400.0
"""Seconds for which a token can be kept from others while it is collected, at most."""


class Collection(NamedTuple):
    """A token that is being collected.

    Attributes:
        flow_id: The flow.
        owner: Who holds the flow's lease meanwhile.
        token: The token.
    """

    flow_id: str
    owner: str
    token: Token


async def collect_token(world: World, flow_id: str) -> Token:
    """Return the token of a flow that is authorized, and put on record that it was.

    It is refused where this client's policy does not accept who approved.
    """
    while True:
        flow = await world.load_login(flow_id)
        if flow.token is None:
            raise error_of(flow)
        if await refuse(world, flow):
            continue
        now = await world.now()
        token, collected = flow.token, flow.collect(now)
        if await recorder.record(world, flow, collected, world.context.identity.worker()):
            return token


async def refuse(world: World, flow: Flow, why: CleanText | None = None) -> bool:
    """Refuse the token of a login, if the policy of this client does not accept who approved it.

    Others may have polled: another process, with another policy or none.

    Args:
        world: What the operation works with.
        flow: The login with its token.
        why: Why to refuse it anyway.

    Returns:
        Whether it was refused, or others moved the login meanwhile: then look again.
    """
    token = flow.token
    assert token is not None  # noqa: S101  # the callers looked
    if why is None:
        claims = None if token.id_token is None else claims_of(token.id_token.reveal())
        why = wrong_approver(flow.provider, claims, world.context.approver)
    if why is None:
        return False
    now = await world.now()
    refused = flow.refuse_token(why, now)
    await recorder.record(world, flow, refused, world.context.identity.worker())
    return True


async def acknowledge(world: World, flow_id: str) -> Login:
    """Wipe the token from the store. A second call changes nothing."""
    while True:
        flow = await world.load_login(flow_id)
        now = await world.now()
        if flow.handover is Handover.ACKNOWLEDGED:
            break
        if flow.token is None:
            raise error_of(flow)
        acknowledged = flow.acknowledge(now)
        if await recorder.record(world, flow, acknowledged, world.context.identity.worker()):
            break
    return Login.of(flow, flow.wait_seconds(now))


async def begin_collection(world: World, flow_id: str, seconds: float) -> Collection:
    """Take the token, and a lease that keeps others from it for a number of seconds.

    `end_collection` has to follow, whatever happens.
    """
    flow = await world.load_login(flow_id)
    if flow.token is None:
        raise error_of(flow)  # and leave its lease to whoever polls, or died polling
    owner = world.context.identity.worker()
    claim = await claim_ended(world, flow_id, owner, min(seconds, LONGEST_COLLECTION))
    if isinstance(claim, LeaseHeld):
        raise errors.LoginBusyError(
            flow_id=flow_id, state=claim.flow.state, wait_seconds=claim.seconds
        )
    release = partial(world.store.release, flow_id, owner)
    collected = await or_else(collect_token(world, flow_id), release)
    return Collection(flow_id, owner, collected)


async def end_collection(world: World, held: Collection, *, acknowledged: bool) -> None:
    """Acknowledge the token if it is safe, and let others have it if it is not."""
    release = partial(world.store.release, held.flow_id, held.owner)
    if acknowledged:
        await or_else(acknowledge(world, held.flow_id), release)
    await release()


async def claim_ended(world: World, flow_id: str, owner: str, seconds: float) -> Claim | LeaseHeld:
    """Take the lease of a flow that has ended, and put on record whose lease had run out."""
    claim, _ = await take_lease(world, flow_id, owner, seconds)
    if isinstance(claim, LeaseHeld) or claim.previous_owner is None:
        return claim
    taken_over = claim.flow.take_over(claim.now, claim.previous_owner)
    recorded = recorder.record(world, claim.flow, taken_over, owner)
    await or_else(recorded, partial(put_off, world, flow_id, owner))
    return claim
