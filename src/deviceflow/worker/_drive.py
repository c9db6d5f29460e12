"""The operations of a worker: a step of a login that it drives, and what falls due beside logins.

No lease is held between two steps. A worker knows that a login is its own by the login's version:
if the store has the version that the worker's last step left, nobody else went on with the login.
So workers that share a store need no rows beside the logins' own, and each login is polled by one.
"""

from __future__ import annotations

from sys import intern
from typing import TYPE_CHECKING, Any, NamedTuple

from deviceflow import errors
from deviceflow.client.claim import put_off, take_lease
from deviceflow.client.grant_page import settle
from deviceflow.client.step import BeginPoll, step_claimed
from deviceflow.client.store_clock import Seen
from deviceflow.client.sweep import follow_clock, save_tokens
from deviceflow.client.unsaved import save
from deviceflow.core.ports import LeaseHeld
from deviceflow.worker._schedule import Due

if TYPE_CHECKING:
    from deviceflow.client.world import World
    from deviceflow.core.login import Login
    from deviceflow.core.ports import Claim


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


async def _drive(world: World, flow_id: str, seq: int, worker: str) -> Driven:
    await save(world, flow_id)
    begin = BeginPoll(world, worker)
    own = _BeginPollOfOwn(begin, seq)
    claim, lease = await take_lease(world, flow_id, worker, world.context.lease_seconds, own)
    if isinstance(claim, LeaseHeld):
        return Driven()
    seen = Seen(lease.now, lease.taken.steady, lease.taken.steady + lease.uncertainty)
    flow = claim.flow
    if claim.event is None:
        if flow.seq != seq and claim.previous_owner is None:
            await world.store.release(flow_id, worker)
            return Driven()
        if flow.wake_at is None or flow.wait_seconds(claim.now) > 0:
            await world.store.release(flow.id, worker, due=flow)  # what woke it bypassed the client
            return Driven(_next(claim), seen)
    login = await step_claimed(world, claim, lease, begin)
    if login.has_token and login.name is not None:
        await settle(world, login.name, flow_id)
    return Driven(_next(claim), seen, login)


def _next(claim: Claim) -> Due | None:
    flow, at = claim.flow, claim.flow.wake_at
    return None if at is None else Due(at, flow.id, flow.seq, intern(flow.provider.server))


async def tidy(world: World) -> list[errors.DeviceFlowError]:
    """Save the tokens whose commit failed, and correct what a clock that was set back left.

    Returns:
        Why tokens could not be saved.
    """
    problems = await save_tokens(world)
    await follow_clock(world)
    return problems
