"""One step of a login: what is due, and at most one request. Nothing in it sleeps.

A poll that is due costs two transactions of the store:

1. `claim` takes the lease and stores `poll`, so that the request is on record before it is
   sent; `BeginPoll` decides that within the transaction;
2. `send`, at most once;
3. `commit` of what the answer means, which gives the lease back.

Whatever is not such a poll takes the longer way: the flow is claimed first, and each decision is a
commit of its own.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from deviceflow.client import recorder
from deviceflow.client.claim import take_lease
from deviceflow.client.exchange import transmit_under
from deviceflow.client.kept import Issued
from deviceflow.client.unsaved import record_issued, save
from deviceflow.client.world import or_else
from deviceflow.core.login import Login
from deviceflow.core.ports import LeaseHeld
from deviceflow.core.states import State
from deviceflow.credentials import secret_refs
from deviceflow.errors import StoreError, UsageError

if TYPE_CHECKING:
    from deviceflow.client.context import Context
    from deviceflow.client.exchange import Outcome
    from deviceflow.client.lease import Lease
    from deviceflow.client.world import World
    from deviceflow.core.flow import Flow, Transition
    from deviceflow.core.ports import Claim
    from deviceflow.core.wire import Request


RESERVED: Final = 1000
"""How many polls may follow the stored one of a flow that is held, before one is stored again."""


class BeginPoll:
    """Decides within a claim whether the flow may poll at once, and moves it to `polling` if so.

    It leaves everything else to the longer way: a flow that somebody left behind, that is not due,
    overdue, ended or without a code, whose clock seems to be set back, whose request cannot be
    built, whose client secret this process has not been checked to may read, or whose approver it
    cannot check.

    Args:
        world: What the operation works with.
        worker: Who claims.
        driver: Who is to hold the flow from this poll on; None if nobody is.

    Attributes:
        request: The token request of the flow that polls.
    """

    def __init__(self, world: World, worker: str, driver: str | None = None) -> None:
        self._context = world.context
        self._driver = driver
        self._origin = world.context.identity.origin_of(worker)  # an async store may have threads
        self.request: Request | None = None

    def __call__(self, claim: Claim) -> dict[str, Any] | None:
        """Move the claimed flow and return the event, or return None."""
        flow, now, previous_owner = claim[:3]
        self.request = None
        if (
            flow.state is not State.AWAITING_USER
            or previous_owner is not None
            or flow.moved_at > now
            or flow.wait_seconds(now) > 0
            or flow.overdue(now)
            or not secret_refs.begun_here(flow.provider)
            or not may_poll(self._context, flow)
        ):
            return None
        try:
            self.request = flow.request()
        except UsageError:
            return None
        return recorder.render_as(self._context, self._origin, flow, self.poll(flow, now))

    def poll(self, flow: Flow, now: float) -> Transition:
        """Move the flow to `polling`."""
        flow.driver = self._driver
        return flow.poll(now, self._context.deadline, 0 if self._driver is None else RESERVED)


async def step(world: World, flow_id: str) -> Login:
    """Do what is due for one flow, if anything is."""
    login, _ = await step_as(world, flow_id, None)
    return login


async def step_as(world: World, flow_id: str, driver: str | None) -> tuple[Login, Flow | None]:
    """Do what is due for one flow, and hold it from then on if it is polled, and goes on.

    Args:
        world: What the operation works with.
        flow_id: The flow.
        driver: Who is to hold it; None if nobody is.

    Returns:
        What it is like by then; and the flow, which is held if it has a driver.
    """
    await save(world, flow_id)
    worker = world.context.identity.worker()
    begin = BeginPoll(world, worker, driver)
    claim, lease = await take_lease(world, flow_id, worker, world.context.lease_seconds, begin)
    if isinstance(claim, LeaseHeld):
        return Login.of(claim.flow, min(claim.seconds, claim.flow.interval)), None
    return await step_claimed(world, claim, lease, begin), claim.flow


async def step_claimed(world: World, claim: Claim, lease: Lease, begin: BeginPoll) -> Login:
    """Do what is due for a flow whose lease was just taken.

    Args:
        world: What the operation works with.
        claim: What came of taking the lease.
        lease: The lease.
        begin: The decision that was made within the claim.
    """
    flow, lease = claim.flow, lease.narrowed(world.context.store_clock)
    if claim.event is not None and begin.request is not None:
        request = begin.request
        await recorder.publish(world, flow, claim.event)
    else:
        begun = await _begin(world, claim, lease, begin)
        if isinstance(begun, Login):
            flow.driver = None
            return begun
        request, lease = begun
    return await ask(world, flow, request, lease)


async def ask(world: World, flow: Flow, request: Request, lease: Lease) -> Login:
    """Send the request of a flow that is in `polling`, or has ended, and store the outcome."""
    outcome = await transmit_under(world, request, lease)
    if outcome.stop is None:
        return await _apply_response(world, flow, outcome, lease.owner)
    try:
        await _apply_response(world, flow, outcome, lease.owner)
    except StoreError:  # the interruption counts; the flow is as if this process had died
        world.context.driver.lose(flow.id)
    raise outcome.stop


async def _begin(
    world: World, claim: Claim, lease: Lease, begin: BeginPoll
) -> tuple[Request, Lease] | Login:
    """Do what comes before a request, each step on record; return the request if one is due."""
    flow, now = claim.flow, claim.now
    await _check_credentials(world, flow, lease.owner)
    if flow.moved_at > now:
        # Others have moved it since this worker looked at the clock; or the clock was set back.
        now = await world.now()
        flow.follow_clock(now)
        clocks = world.clocks()
        lease = lease.corrected(now, clocks.steady)
    left = _left_behind(claim, now)
    if left is not None and not await recorder.record(world, flow, left, lease.owner):
        return await overtaken(world, flow.id, lease.owner)
    wait = flow.wait_seconds(now)
    if wait > 0 or (flow.state.ended and not flow.to_revoke):
        await world.store.release(flow.id, lease.owner)
        return Login.of(flow, wait)
    if flow.overdue(now):
        if await recorder.record(world, flow, flow.expire(now), lease.owner, release=True):
            return Login.of(flow, flow.wait_seconds(now))
        return await overtaken(world, flow.id, lease.owner)
    try:
        if flow.state is State.AWAITING_USER and not may_poll(world.context, flow):
            raise _needs_approver(flow)
        request = flow.request()
    except UsageError:
        await world.store.release(flow.id, lease.owner)
        raise
    if flow.state is State.AWAITING_USER:
        poll = begin.poll(flow, now)
        if not await recorder.record(world, flow, poll, lease.owner):
            return await overtaken(world, flow.id, lease.owner)
    return request, lease


def may_poll(context: Context, flow: Flow) -> bool:
    """Tell whether this process can check who approved a login, where the login needs that."""
    return context.approver is not None or not flow.needs_approver


def _needs_approver(flow: Flow) -> UsageError:
    return UsageError(
        "The login was begun by a program that checks who approved (Client(approver=…)). This"
        " process has no such policy, so it does not poll.",
        flow_id=flow.id,
        state=flow.state,
        hint="Let that program continue: nothing is lost. To log in without its policy, end the"
        f" login first: deviceflow cancel {flow.id}",
    )


async def _check_credentials(world: World, flow: Flow, owner: str) -> None:
    """Give the lease back where the flow names a client secret that this process does not have.

    Nothing is done yet, so an interruption gives the lease back as well.
    """
    if flow.state.ended and not flow.to_revoke:
        return
    try:
        await or_else(
            world.check_credentials(flow.provider),
            partial(world.store.release, flow.id, owner),
        )
    except UsageError as problem:
        problem.flow_id, problem.state = flow.id, flow.state
        raise


def _left_behind(claim: Claim, now: float) -> Transition | None:
    """Put on record that somebody's lease ran out, if that is so: most likely they died."""
    flow, owner = claim.flow, claim.previous_owner
    if flow.state is State.POLLING:
        return flow.recover(now, owner)  # nobody held the lease
    return None if owner is None else flow.take_over(now, owner)


async def _apply_response(world: World, flow: Flow, outcome: Outcome, worker: str) -> Login:
    """Store what the answer means; and where others went on meanwhile, what must not be lost."""
    now, duration = outcome.now, outcome.duration
    had_token, orphaned, waiting = flow.token is not None, flow.orphaned_tokens, len(flow.to_revoke)
    attempt = flow.attempt + flow.reserved  # others go on behind all that were reserved
    transition = flow.receive(
        outcome.result,
        now,
        duration=duration,
        approver=world.context.approver,
        uncertainty=outcome.uncertainty,
    )
    if flow.state.ended:
        flow.end_hold()
    if (flow.token is not None and not had_token) or flow.orphaned_tokens > orphaned:
        issued = Issued(flow.token, attempt, flow.to_revoke[waiting:])
        flow = await record_issued(world, flow, transition, issued, worker, outcome)
        return Login.of(flow, flow.wait_seconds(now))
    if flow.driver is not None and flow.is_routine(transition):
        await recorder.leave_out(world, flow, transition, worker)
        return Login.of(flow, flow.wait_seconds(now))
    flow.end_hold()
    if await recorder.record(world, flow, transition, worker, release=True):
        return Login.of(flow, flow.wait_seconds(now))
    return await overtaken(world, flow.id, worker)


async def overtaken(world: World, flow_id: str, worker: str | None) -> Login:
    """Report how far others have moved the flow."""
    flow = await world.load_login(flow_id)
    if worker is not None:
        await world.store.release(flow_id, worker)
    return Login.of(flow, 0.0 if flow.state.ended else flow.interval)
