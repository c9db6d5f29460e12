"""Taking a flow's lease, where a clock may have been set since others took it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deviceflow.client.lease import Clocks, Lease
from deviceflow.core.flow import Flow
from deviceflow.core.ports import Claim, LeaseHeld

if TYPE_CHECKING:
    from deviceflow.client.world import World
    from deviceflow.core.ports import Decide


async def take_lease(
    world: World, flow_id: str, owner: str, seconds: float, decide: Decide | None = None
) -> tuple[Claim | LeaseHeld, Lease]:
    """Take a flow's lease.

    Args:
        world: What the operation works with.
        flow_id: The flow.
        owner: Who is to hold the lease.
        seconds: For how long.
        decide: What is to happen to the flow in the same transaction.

    Returns:
        What came of it, and the lease, which counts only with a `Claim`.
    """
    clocks = world.clocks()
    if clocks.added:
        flow = await world.load_login(flow_id, secrets=False)
        if await resynced(world, clocks, flow):
            clocks = world.clocks()
    claim = await world.store.claim(flow_id, owner, clocks.now, seconds, decide)
    if isinstance(claim, LeaseHeld) and claim.since is not None:
        await restart_lease(world, flow_id, claim.since)
    now = claim.now if isinstance(claim, Claim) else clocks.wall
    return claim, await lease_of(world, owner, seconds, clocks, now)


async def put_off(world: World, flow_id: str, owner: str) -> None:
    """Give a flow's lease back, and leave the flow alone for a while: it cannot be processed."""
    clocks = world.clocks()
    await world.store.put_off(Flow, flow_id, clocks.now, owner)


async def resynced(world: World, clocks: Clocks, flow: Flow) -> bool:
    """Go by the wall clock as it is, if that is what a flow was last moved by; return whether."""
    if not clocks.clock_was_reset_unseen(flow.moved_at):
        return False
    world.resync_clock()
    return True


async def lease_of(world: World, owner: str, seconds: float, taken: Clocks, now: float) -> Lease:
    """Return a lease that was taken just now.

    Args:
        world: What the operation works with.
        owner: Who holds it.
        seconds: For how long it was taken.
        taken: What both clocks showed right before.
        now: What time it was for the store.
    """
    lease = Lease(owner, seconds, taken, now)
    if now == taken.wall:
        return lease
    clocks = world.clocks()  # the store has a clock of its own
    return lease._replace(uncertainty=clocks.steady - taken.steady)


async def restart_lease(world: World, subject_id: str, since: float) -> None:
    """Have the lease of a flow or a grant last its whole duration from now, by this clock.

    Args:
        world: What the operation works with.
        subject_id: The flow or the grant.
        since: When the lease was taken, by another clock.
    """
    clocks = world.clocks()  # after the lease was seen
    await world.store.restart_lease(subject_id, since, clocks.shared)
