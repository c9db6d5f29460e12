"""Waiting for a login to end, and ending it: by its token, its deadline, or `cancel`."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from deviceflow import errors
from deviceflow.client.effects import Load, Notify, ReadClocks, Sleep, StoreNow, Wake, Watch
from deviceflow.client.handover import token
from deviceflow.client.step import Step, step

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.client.context import Context
    from deviceflow.client.effects import Op
    from deviceflow.core.flow import Flow
    from deviceflow.core.provider import Token

_T = TypeVar("_T")


def watching(context: Context, flow_id: str, operation: Op[_T]) -> Op[_T]:
    """Run an operation that `cancel` wakes, and cancel on Ctrl-C what nobody could go on with."""
    yield Watch(flow_id)
    try:
        return (yield from operation)
    except KeyboardInterrupt:
        if not context.durable:
            yield from cancel(context, flow_id, "interrupted")
        raise


def wait(
    context: Context, flow_id: str, timeout: float | None, on_step: Callable[[Step], object] | None
) -> Op[Token]:
    """Step until the flow ends, and return its token."""
    yield from settle(context, flow_id, timeout, on_step)
    return (yield from token(context, flow_id))


def settle(
    context: Context, flow_id: str, timeout: float | None, on_step: Callable[[Step], object] | None
) -> Op[Step]:
    """Step until the flow ends, and return how."""
    return (yield from watching(context, flow_id, _settle(context, flow_id, timeout, on_step)))


def _settle(
    context: Context, flow_id: str, timeout: float | None, on_step: Callable[[Step], object] | None
) -> Op[Step]:
    until = None if timeout is None else (yield ReadClocks()).steady + timeout
    while True:
        done = yield from step(context, flow_id)
        if on_step is not None:
            yield Notify(on_step, done)
        if done.state.ended:
            break
        seconds = done.wait_seconds
        if until is not None:
            left = until - (yield ReadClocks()).steady
            if left <= 0:
                raise errors.WaitTimeoutError(flow_id=flow_id, state=done.state)
            seconds = min(seconds, left)
        yield Sleep(seconds, flow_id)
    flow: Flow = yield Load(flow_id)
    for _ in flow.to_revoke:
        yield from step(context, flow_id)
    return done


def cancel(context: Context, flow_id: str, detail: str | None) -> Op[Step]:
    """End the login, and wake whoever waits for it in this process."""
    while True:
        flow: Flow = yield Load(flow_id)
        if flow.state.ended:
            break
        now: float = yield StoreNow()
        cancelled = flow.cancel(now, detail)
        if (yield from context.recorder.record(flow, cancelled, context.identity.worker())):
            break
    yield Wake(flow_id)
    return Step(flow.id, flow.state, reason=flow.reason)
