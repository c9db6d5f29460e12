"""Taking a flow's lease, where a clock may have been set since others took it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deviceflow.client.effects import (
    ClaimFlow,
    JoinClock,
    Load,
    ReadClocks,
    RestartLease,
)
from deviceflow.client.lease import Clocks, Lease
from deviceflow.core.ports import Claim, LeaseHeld

if TYPE_CHECKING:
    from deviceflow.client.effects import Op
    from deviceflow.core.flow import Flow
    from deviceflow.core.ports import Decide


def take_lease(
    flow_id: str, owner: str, seconds: float, decide: Decide | None = None
) -> Op[tuple[Claim | LeaseHeld, Lease]]:
    """Take a flow's lease.

    Args:
        flow_id: The flow.
        owner: Who is to hold the lease.
        seconds: For how long.
        decide: What is to happen to the flow in the same transaction.

    Returns:
        What came of it, and the lease, which counts only with a `Claim`.
    """
    clocks: Clocks = yield ReadClocks()
    if clocks.added:
        flow: Flow = yield Load(flow_id, secrets=False)
        if (yield from joined(clocks, flow)):
            clocks = yield ReadClocks()
    claim: Claim | LeaseHeld = yield ClaimFlow(flow_id, owner, clocks.now, seconds, decide)
    if isinstance(claim, LeaseHeld) and claim.since is not None:
        yield from restart_lease(flow_id, claim.since)
    now = claim.now if isinstance(claim, Claim) else clocks.wall
    return claim, (yield from lease_of(owner, seconds, clocks, now))


def joined(clocks: Clocks, flow: Flow) -> Op[bool]:
    """Go by the wall clock as it is, if that is what a flow was last moved by; return whether."""
    if not clocks.others_follow(flow.moved_at):
        return False
    yield JoinClock()
    return True


def lease_of(owner: str, seconds: float, taken: Clocks, now: float) -> Op[Lease]:
    """Return a lease that was taken just now.

    Args:
        owner: Who holds it.
        seconds: For how long it was taken.
        taken: What both clocks showed right before.
        now: What time it was for the store.
    """
    lease = Lease(owner, seconds, taken, now)
    if now == taken.wall:
        return lease
    clocks: Clocks = yield ReadClocks()  # the store has a clock of its own
    return lease._replace(behind=clocks.steady - taken.steady)


def restart_lease(subject_id: str, since: float) -> Op[None]:
    """Have the lease of a flow or a grant last its whole duration from now, by this clock.

    Args:
        subject_id: The flow or the grant.
        since: When the lease was taken, by another clock.
    """
    clocks: Clocks = yield ReadClocks()  # after the lease was seen
    yield RestartLease(subject_id, since, clocks.shared)
