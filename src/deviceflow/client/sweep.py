"""Stepping whatever is due: what a periodic task does.

The drivers take the steps at the same time: a server that hangs keeps no others waiting.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from deviceflow import errors
from deviceflow.client.claim import put_off, restart_lease, take_lease
from deviceflow.client.hold import bury
from deviceflow.client.step import BeginPoll, step_claimed
from deviceflow.client.turns import Turn, by_turns
from deviceflow.client.unsaved import save
from deviceflow.core import queries
from deviceflow.core.ports import LeaseHeld

if TYPE_CHECKING:
    from deviceflow.client.turns import Work
    from deviceflow.client.world import World
    from deviceflow.core.login import Login
    from deviceflow.core.ports import Claim


class Swept(NamedTuple):
    """What a sweep did.

    Attributes:
        logins: The logins that were due, after their step.
        problems: What kept others from being stepped. They are left alone for a minute, and for
            twice as long each time that this happens again, up to an hour.
    """

    logins: list[Login]
    problems: list[errors.DeviceFlowError]

    def add(self, others: Swept) -> None:
        """Add what was done for others."""
        self.logins.extend(others.logins)
        self.problems.extend(others.problems)


async def due(world: World) -> tuple[Swept, list[Work[Swept]]]:
    """Do what comes before the steps, and return the steps that are due, the servers by turns."""
    problems = await save_tokens(world)
    await follow_clock(world)
    await bury(world)
    clocks = world.clocks()
    found = await world.store.select(queries.upcoming(0.0, 0.0), clocks.now)
    if world.context.driver.holds:
        found += await world.store.select(queries.lapsed(), clocks.now)
    steps: list[Work[Swept]] = [
        Turn(one.server, one.flow_id, partial(step_due, flow_id=one.flow_id)) for one in found
    ]
    return Swept([], problems), by_turns(steps)


async def save_tokens(world: World) -> list[errors.DeviceFlowError]:
    """Save the tokens whose commit failed; return what kept others from being saved."""
    problems = list[errors.DeviceFlowError]()
    for flow_id in world.context.unsaved.flow_ids():
        try:
            await save(world, flow_id)
        except errors.DeviceFlowError as problem:
            problems.append(problem)
    return problems


async def follow_clock(world: World) -> None:
    """Correct waiting times and leases that were written by a clock that is another now."""
    clocks = world.clocks()
    await world.store.wake_after_clock_change(clocks.now)
    leases = await world.store.select(queries.foreign_leases(), clocks.now)
    for flow_id, since in leases:
        await restart_lease(world, flow_id, since)


def is_due(claim: Claim) -> bool:
    """Tell whether there is something to do for a flow: also where who held it has died."""
    flow = claim.flow
    return bool(flow.reserved) or (flow.wake_at is not None and flow.wait_seconds(claim.now) <= 0)


async def step_due(world: World, flow_id: str) -> Swept:
    """Step a flow, unless others do. If that fails, leave it alone for a while."""
    worker = world.context.identity.worker()
    begin = BeginPoll(world, worker)
    claim: Claim | LeaseHeld | None = None
    try:
        claim, lease = await take_lease(world, flow_id, worker, world.context.lease_seconds, begin)
        if isinstance(claim, LeaseHeld):
            return Swept([], [])
        flow = claim.flow
        if claim.event is None and not is_due(claim):
            await world.store.release(flow.id, worker, due=flow)  # what woke it bypassed the client
            return Swept([], [])
        return Swept([(await step_claimed(world, claim, lease, begin))], [])
    except errors.UnknownLoginError:
        return Swept([], [])  # it was deleted meanwhile
    except errors.DeviceFlowError as problem:
        if claim is None and problem.flow_id is None:
            raise  # it is about the store
        problem.flow_id = problem.flow_id or flow_id
        await put_off(world, flow_id, worker)
        return Swept([], [problem])
