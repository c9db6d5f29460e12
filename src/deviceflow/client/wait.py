"""Waiting for a login to end, and ending it: by its token, its deadline, or `cancel`."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from deviceflow import errors
from deviceflow.client.effects import Load, Notify, ReadClocks, Sleep, StoreNow, Wake, Watch
from deviceflow.client.handover import collect_token
from deviceflow.client.step import step
from deviceflow.core.login import Login

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.client.context import Context
    from deviceflow.client.effects import Op
    from deviceflow.core.flow import Flow
    from deviceflow.core.provider import Token

    OnStep = Callable[[Login], object] | None

_T = TypeVar("_T")


def watching(context: Context, flow_id: str, operation: Op[_T]) -> Op[_T]:
    """Run an operation that `cancel` wakes. On Ctrl-C, cancel a login that is only in memory."""
    yield Watch(flow_id)
    try:
        return (yield from operation)
    except KeyboardInterrupt:
        if not context.durable:
            yield from cancel(context, flow_id, "interrupted")
        raise


def wait_for_token(
    context: Context, flow_id: str, timeout: float | None, on_step: OnStep = None
) -> Op[Token]:
    """Step until the login has ended, and return its token."""
    yield from wait(context, flow_id, timeout, on_step)
    return (yield from collect_token(context, flow_id))


def wait(
    context: Context, flow_id: str, timeout: float | None, on_step: OnStep = None
) -> Op[Login]:
    """Step until the login has ended, and return how."""
    return (yield from watching(context, flow_id, _wait(context, flow_id, timeout, on_step)))


def _wait(context: Context, flow_id: str, timeout: float | None, on_step: OnStep) -> Op[Login]:
    until = None if timeout is None else (yield ReadClocks()).steady + timeout
    while True:
        login = yield from step(context, flow_id)
        if on_step is not None:
            yield Notify(on_step, login)
        if login.state.ended:
            break
        seconds = login.wait_seconds
        if until is not None:
            left = until - (yield ReadClocks()).steady
            if left <= 0:
                raise errors.WaitTimeoutError(flow_id=flow_id, state=login.state)
            seconds = min(seconds, left)
        yield Sleep(seconds, flow_id)
    flow: Flow = yield Load(flow_id)
    for _ in flow.to_revoke:
        login = yield from step(context, flow_id)
    return login


def cancel(context: Context, flow_id: str, detail: str | None) -> Op[Login]:
    """End the login, and wake whoever waits for it in this process."""
    while True:
        flow: Flow = yield Load(flow_id)
        now: float = yield StoreNow()
        if flow.state.ended:
            break
        cancelled = flow.cancel(now, detail)
        if (yield from context.recorder.record(flow, cancelled, context.identity.worker())):
            break
    yield Wake(flow_id)
    return Login.of(flow, flow.wait_seconds(now))
