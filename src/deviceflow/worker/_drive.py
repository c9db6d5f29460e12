"""The operations of a worker: a step of a login that it drives, and what falls due beside logins.

Where the store allows it, a worker holds the logins that it drives: see `deviceflow.client.hold`.
Else no lease is held between two steps. A worker then knows that a login is its own by the login's
version: if the store has the version that the worker's last step left, no other has moved it.
So each login is polled by one worker.
"""

from __future__ import annotations

from sys import intern
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deviceflow import errors
from deviceflow.client import hold
from deviceflow.client.claim import put_off, take_lease
from deviceflow.client.grant_page import settle
from deviceflow.client.hold import lease_to_hold, or_lose, poll_held
from deviceflow.client.step import BeginPoll, step_claimed
from deviceflow.client.store_clock import Seen
from deviceflow.client.sweep import follow_clock, is_due, save_tokens
from deviceflow.client.unsaved import save
from deviceflow.core.ports import LeaseHeld
from deviceflow.worker._schedule import Due

if TYPE_CHECKING:
    from deviceflow.client.world import World
    from deviceflow.core.login import Login
    from deviceflow.core.ports import Claim


HERE: Final = "worker"
"""What a worker enters its driver for, instead of one login."""


class Driven(NamedTuple):
    """What came of driving a login.

    Attributes:
        next: When to step it again; None if it has ended, or if another worker drives it.
        seen: What time it was for the store; None if there was no step.
        login: The login after the step.
        problem: What kept it from being stepped. It is left alone for a while, as by a sweep.
    """

    next: Due | None = None
    seen: Seen | None = None
    login: Login | None = None
    problem: Exception | None = None


class _BeginPollOfOwn:
    """Begins a poll within a claim, if the login is of the expected version."""

    def __init__(self, begin: BeginPoll, seq: int) -> None:
        self._begin = begin
        self._seq = seq

    def __call__(self, claim: Claim) -> dict[str, Any] | None:
        return self._begin(claim) if claim.flow.seq == self._seq else None


async def drive(world: World, flow_id: str, seq: int) -> Driven:
    """Step a login, unless another worker drives it.

    Args:
        world: What the operation works with.
        flow_id: The login.
        seq: The version that this worker last saw.

    Raises:
        StoreError: The store failed. The same call can be made again.
    """
    worker = world.context.identity.worker()
    try:
        if flow_id in world.context.driver.flows:
            return await _drive_held(world, flow_id)
        return await _drive(world, flow_id, seq, worker)
    except errors.UnknownLoginError:
        return Driven()
    except (errors.DeviceFlowError, ImportError) as problem:
        if _is_of_the_store(problem) or world.context.unsaved.of(flow_id):
            raise
        if isinstance(problem, errors.DeviceFlowError) and problem.flow_id is None:
            problem.flow_id = flow_id
        await put_off(world, flow_id, worker)
        return Driven(problem=problem)


def _is_of_the_store(problem: Exception) -> bool:
    return isinstance(problem, errors.StoreError) and problem.flow_id is None


async def _drive_held(world: World, flow_id: str) -> Driven:
    await save(world, flow_id)
    flows = world.context.driver.flows
    flow = flows[flow_id]
    lease = await lease_to_hold(world)
    seen = Seen(lease.now, lease.taken.steady, lease.taken.steady + lease.uncertainty)
    login = await poll_held(world, flow)
    if flow.driver is None:
        flows.pop(flow_id, None)
    at = flow.wake_at if flow.driver is None else flow.due_at
    if login.has_token and login.name is not None:
        await settle(world, login.name, flow_id)
    return Driven(_next(flow, at), seen, login)


async def give_back(world: World, flow_id: str) -> None:
    """Give a login back that is held."""
    flow = world.context.driver.flows.pop(flow_id, None)
    if flow is not None:
        await hold.give_back(world, flow)


async def stop(world: World) -> None:
    """Hold nothing more, once all logins are given back."""
    await hold.stop(world, HERE)


async def _drive(world: World, flow_id: str, seq: int, worker: str) -> Driven:
    await save(world, flow_id)
    driver, name = world.context.driver, None
    if driver.holds:
        driver.enter(HERE)
        name = (await lease_to_hold(world)).owner
    begin = BeginPoll(world, worker, name)
    own = _BeginPollOfOwn(begin, seq)
    taking = take_lease(world, flow_id, worker, world.context.lease_seconds, own)
    claim, lease = await or_lose(world, flow_id, taking)
    if isinstance(claim, LeaseHeld):
        return Driven()
    seen = Seen(lease.now, lease.taken.steady, lease.taken.steady + lease.uncertainty)
    flow = claim.flow
    if claim.event is None:
        if flow.seq != seq and claim.previous_owner is None:
            await world.store.release(flow_id, worker)
            return Driven()
        if not is_due(claim):
            await world.store.release(flow.id, worker, due=flow)  # what woke it bypassed the client
            return Driven(_next(flow, flow.wake_at), seen)
    login = await or_lose(world, flow_id, step_claimed(world, claim, lease, begin))
    at = flow.wake_at
    if flow.driver is not None:
        driver.flows[flow_id], at = flow, flow.due_at
    if login.has_token and login.name is not None:
        await settle(world, login.name, flow_id)
    return Driven(_next(flow, at), seen, login)


def _next(flow: Any, at: float | None) -> Due | None:
    return None if at is None else Due(at, flow.id, flow.seq, intern(flow.provider.server))


async def tidy(world: World) -> list[errors.DeviceFlowError]:
    """Save the tokens whose commit failed, and correct what a clock that was set back left.

    Returns:
        Why tokens could not be saved.
    """
    problems = await save_tokens(world)
    await follow_clock(world)
    await hold.bury(world)
    return problems
