"""Waiting for a login to end, and ending it: by its token, its deadline, or `cancel`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from deviceflow import errors
from deviceflow.client import recorder
from deviceflow.client.driver import HEARTBEAT
from deviceflow.client.handover import collect_token
from deviceflow.client.hold import Hold
from deviceflow.client.step import step
from deviceflow.client.world import or_else
from deviceflow.core.login import Login

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from deviceflow.client.world import World
    from deviceflow.core.provider import Token

    OnStep = Callable[[Login], object] | None

_T = TypeVar("_T")


async def watching(world: World, flow_id: str, operation: Coroutine[Any, Any, _T]) -> _T:
    """Run an operation that `cancel` wakes. On Ctrl-C, cancel a login that is only in memory."""
    world.watch(flow_id)
    try:
        return await operation
    except KeyboardInterrupt:
        if not world.context.durable:
            await cancel(world, flow_id, "interrupted")
        raise


async def wait_for_token(
    world: World, flow_id: str, timeout: float | None, on_step: OnStep = None
) -> Token:
    """Step until the login has ended, and return its token."""
    await wait(world, flow_id, timeout, on_step)
    return await collect_token(world, flow_id)


async def wait(world: World, flow_id: str, timeout: float | None, on_step: OnStep = None) -> Login:
    """Step until the login has ended, and return how."""
    return await watching(world, flow_id, _wait(world, flow_id, timeout, on_step))


async def _wait(world: World, flow_id: str, timeout: float | None, on_step: OnStep) -> Login:
    hold = Hold(flow_id)
    login = await or_else(
        _wait_for_end(world, hold, flow_id, timeout, on_step), partial(hold.end, world)
    )
    flow = await world.load_login(flow_id)
    for _ in flow.to_revoke:
        login = await step(world, flow_id)
    return login


async def _wait_for_end(
    world: World, hold: Hold, flow_id: str, timeout: float | None, on_step: OnStep
) -> Login:
    until = None if timeout is None else world.clocks().steady + timeout
    while True:
        login = await hold.step(world)
        if on_step is not None:
            await world.on_step(on_step, login)
        if login.state.ended:
            return login
        seconds = login.wait_seconds
        if hold.flow is not None:
            seconds = min(seconds, HEARTBEAT)
        if until is not None:
            left = until - world.clocks().steady
            if left <= 0:
                raise errors.WaitTimeoutError(flow_id=flow_id, state=login.state)
            seconds = min(seconds, left)
        await hold.sleep(world, seconds)


async def cancel(world: World, flow_id: str, detail: str | None) -> Login:
    """End the login, and wake whoever waits for it in this process."""
    while True:
        flow = await world.load_login(flow_id)
        now = await world.now()
        if flow.state.ended:
            break
        cancelled = flow.cancel(now, detail)
        if await recorder.record(world, flow, cancelled, world.context.identity.worker()):
            break
    world.context.driver.mark_moved(flow_id)
    world.wake(flow_id)
    return Login.of(flow, flow.wait_seconds(now))
