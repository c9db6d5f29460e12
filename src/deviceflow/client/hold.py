"""Holding a login while it waits: nothing is stored until something happens.

Whoever drives a login for longer than one step holds it:

1. The first poll that is due is stored, as `BeginPoll` decides within the claim. It says how many
   polls may follow without being stored; nobody else uses the numbers of their events.
2. Each further poll goes through the machine and is logged, and so is the answer that nobody has
   approved yet. The store learns nothing of them.
3. Whatever else happens is stored, as in `step`, and ends the hold. `let_go` does so where nothing
   happened. The stored event says how many events were left out before it.

**The lease** of all logins that a client holds is in one row: that of the client as a driver.
Before each request the client knows by both of its clocks that the lease outlasts the request; else
it renews the lease first. A lease that has ended is never renewed. The client then holds the login
again, as another driver, by a poll that is stored: unless others have moved the login meanwhile.

**Others** may move a login that is held, for example cancel it. A client looks for that twice a
second, for all logins that it holds: one hold, the watcher, asks the store, and wakes the others.
After that, the store refuses what the client would commit, since the login is at another
transition.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar, cast

from deviceflow.client import recorder, step
from deviceflow.client.claim import lease_of
from deviceflow.client.driver import HEARTBEAT, LOOK
from deviceflow.client.lease import LEASE_MARGIN
from deviceflow.core import queries
from deviceflow.core.login import Login
from deviceflow.core.pacing import CLOCK_TOLERANCE
from deviceflow.core.states import State
from deviceflow.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from deviceflow.client.lease import Lease
    from deviceflow.client.world import World
    from deviceflow.core.flow import Flow
    from deviceflow.core.ports import AsyncHolder

_T = TypeVar("_T")


class Hold:
    """A login that an operation drives, which may be held.

    Attributes:
        flow: The login as it is, while it is held.
    """

    def __init__(self, flow_id: str) -> None:
        self._flow_id = flow_id
        self._may_hold = False
        self.flow: Flow | None = None

    async def step(self, world: World) -> Login:
        """Do what is due for the login, if anything is, and hold it from its second step on."""
        driver = world.context.driver
        if self.flow is None:
            name = None
            if driver.holds and self._may_hold:
                driver.enter(self._flow_id)
                name = (await lease_to_hold(world)).owner
            self._may_hold = True
            first = step.step_as(world, self._flow_id, name)
            login, flow = await (first if name is None else or_lose(world, self._flow_id, first))
        else:
            flow = self.flow
            login = await poll_held(world, flow)
        self.flow = None if flow is None or flow.driver is None else flow
        if self.flow is None:
            await self._leave(world)
        return login

    async def sleep(self, world: World, seconds: float) -> None:
        """Wait for the next step, or until others have moved the login."""
        driver = world.context.driver
        if self.flow is None or driver.watcher is not None:
            await self._sleep(world, seconds)
            return
        driver.watcher = self
        try:
            until = world.clocks().steady + seconds
            while (left := until - (began := world.clocks().steady)) > 0:
                await self._sleep(world, least := min(left, LOOK))
                if world.clocks().steady < began + least / 2:
                    break
                with suppress(StoreError):  # the next step raises it, if the store still fails
                    if await _look(world, self._flow_id):
                        break
        finally:
            driver.watcher = None

    async def _sleep(self, world: World, seconds: float) -> None:
        await world.sleep(seconds, self._flow_id)
        world.watch(self._flow_id)  # the next step sees what has woken it

    async def end(self, world: World) -> None:
        """Give the login back, if it is held."""
        flow, self.flow = self.flow, None
        if flow is not None:
            await give_back(world, flow)
        await self._leave(world)

    async def _leave(self, world: World) -> None:
        await stop(world, self._flow_id)
        other = world.context.driver.next_to_watch()
        if other is not None:
            world.wake(other)


async def or_lose(world: World, flow_id: str, work: Awaitable[_T]) -> _T:
    """Await work that may store that a login is held, or is not. If the store fails, lose it."""
    try:
        return await work
    except StoreError:
        world.context.driver.lose(flow_id)
        raise


async def stop(world: World, flow_id: str) -> None:
    """Hold a login no more; and where that was the last one, nothing."""
    name = world.context.driver.leave(flow_id)
    if name is not None:
        await _holder(world).stop_driving(name, world.clocks().now)


async def bury(world: World) -> None:
    """Put on record which drivers have died, once nothing is left of what they held."""
    if world.context.driver.holds:
        now = world.clocks().now
        for name in await world.store.select(queries.gone_drivers(), now):
            await _holder(world).stop_driving(name, now, lapsed=True)


async def lease_to_hold(world: World) -> Lease:
    """Return the lease by which the client holds logins, which is long enough for a request."""
    context, driver, clocks = world.context, world.context.driver, world.clocks()
    lease, seconds = driver.lease, context.lease_seconds + 2 * HEARTBEAT
    if lease is not None:
        enough = context.deadline if driver.renewing else seconds - HEARTBEAT - LEASE_MARGIN / 2
        if lease.covers(enough, clocks):
            return lease
    owner, now = None if lease is None else lease.owner, None
    driver.renewing = True
    try:
        if owner is not None:
            seen = tuple(driver.taken)
            now = await _holder(world).drive(owner, clocks.now, seconds, seen=seen)
            if now is not None:
                driver.forget_moved(seen)
        if owner is None or now is None:
            if driver.lease is not lease:
                return await lease_to_hold(world)  # another task has begun a lease meanwhile
            owner = driver.reserve_name(context.identity.worker())
            clocks = world.clocks()
            now = await _holder(world).drive(owner, clocks.now, seconds, begin=True)
    finally:
        driver.renewing = False
    if now is None:  # the lease ended before the store's answer came
        driver.drop_name()
        return await lease_to_hold(world)
    lease = await lease_of(world, owner, seconds, clocks, now)
    driver.take(lease := lease.narrowed(context.store_clock))
    return lease


async def poll_held(world: World, flow: Flow) -> Login:
    """Poll for a login that is held, if it is due."""
    try:
        return await _poll_held(world, flow)
    except StoreError:
        kept = world.context.unsaved.of(flow.id)  # it is saved later, and held until then
        if not kept and (flow.driver is None or flow.state is not State.AWAITING_USER):
            flow.driver = None
            world.context.driver.lose(flow.id)
        raise


async def _poll_held(world: World, flow: Flow) -> Login:
    context = world.context
    if await _is_taken(world, flow):
        flow.driver = None
        return await step.overtaken(world, flow.id, None)
    lease = await lease_to_hold(world)
    now = lease.time_at(world.clocks().steady)
    if (
        flow.moved_at - now > CLOCK_TOLERANCE
        or flow.overdue(now)
        or not step.may_poll(context, flow)
    ):
        await give_back(world, flow)
        return await step.step(world, flow.id)
    now = max(now, flow.moved_at)
    wait = flow.wait_seconds(now)
    if wait > 0:
        return Login.of(flow, wait)
    request = flow.request()
    if flow.reserved > 1 and flow.driver == lease.owner:
        await recorder.leave_out(world, flow, flow.poll(now, context.deadline, None), lease.owner)
    else:
        flow.driver = lease.owner
        poll = flow.poll(now, context.deadline, step.RESERVED)
        if not await recorder.record(world, flow, poll, lease.owner):
            flow.driver = None
            return await step.overtaken(world, flow.id, None)
    return await step.ask(world, flow, request, lease)


async def give_back(world: World, flow: Flow) -> None:
    """Let others have a login that was held, and say how many events were left out."""
    owner = flow.driver
    known = world.context.driver.is_name(owner)  # else this process is a child of who holds it
    if owner is None or not known or flow.state is not State.AWAITING_USER:
        return
    now = max(await world.now(), flow.moved_at)
    let_go = flow.let_go(now)
    flow.end_hold()
    await or_lose(world, flow.id, recorder.record(world, flow, let_go, owner))


async def _is_taken(world: World, flow: Flow) -> bool:
    """Tell whether others have moved the login, or this process does not hold it."""
    return await _look(world, flow.id) or not world.context.driver.is_name(flow.driver)


async def _look(world: World, flow_id: str) -> bool:
    """Tell whether others have moved a login. Wake the holds of all logins that were moved."""
    driver, clocks = world.context.driver, world.clocks()
    lease = driver.lease
    if lease is not None and driver.is_look_due(clocks):
        moved = await world.store.select(queries.taken(lease.owner), clocks.now)
        for other in set(moved) - driver.taken:
            driver.mark_moved(other)
            world.wake(other)
    return flow_id in driver.taken


def _holder(world: World) -> AsyncHolder:
    return cast("AsyncHolder", world.store)
