"""Stepping whatever is due: what a periodic task does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from deviceflow import errors
from deviceflow.client.claim import joined, lease_of, restart_lease
from deviceflow.client.effects import (
    ClaimDue,
    ForeignLeases,
    ReadClocks,
    Reschedule,
    Snooze,
    WakeAfterClockChange,
)
from deviceflow.client.step import BeginPoll, step_claimed
from deviceflow.client.unsaved import save

if TYPE_CHECKING:
    from deviceflow.client.context import Context
    from deviceflow.client.effects import Op
    from deviceflow.client.lease import Clocks
    from deviceflow.core.login import Login
    from deviceflow.core.ports import Claim, Decide

MOST_PROBLEMS: Final = 1000
"""How many flows one sweep passes over at the most."""


class Swept(NamedTuple):
    """What a sweep did.

    Attributes:
        logins: The logins that were due, after their step.
        problems: What kept others from being stepped. They are left alone for a minute, and for
            twice as long each time that this happens again, up to an hour.
    """

    logins: list[Login]
    problems: list[errors.DeviceFlowError]


def sweep(context: Context, limit: int) -> Op[Swept]:
    """Step the flows that are due, each once, and no more than `limit`."""
    swept = Swept([], (yield from save_tokens(context)))
    yield from follow_clock()
    while len(swept.logins) < limit and len(swept.problems) < MOST_PROBLEMS:
        if not (yield from _step_next(context, swept)):
            break
    return swept


def save_tokens(context: Context) -> Op[list[errors.DeviceFlowError]]:
    """Save the tokens whose commit failed; return what kept others from being saved."""
    problems = list[errors.DeviceFlowError]()
    for flow_id in context.unsaved.flow_ids():
        try:
            yield from save(context, flow_id)
        except errors.DeviceFlowError as problem:
            problems.append(problem)
    return problems


def follow_clock() -> Op[None]:
    """Correct waiting times and leases that were written by a clock that is another now."""
    clocks: Clocks = yield ReadClocks()
    yield WakeAfterClockChange(clocks.now)
    leases: list[tuple[str, float]] = yield ForeignLeases(clocks.now)
    for flow_id, since in leases:
        yield from restart_lease(flow_id, since)


def _step_next(context: Context, swept: Swept) -> Op[bool]:
    """Step the flow that is due the longest; return whether there was one."""
    worker, seconds = context.identity.worker(), context.lease_seconds
    begin = BeginPoll(context, worker)
    clocks: Clocks = yield ReadClocks()
    flow_id: str | None = None
    try:
        decide = _unless_others_follow(clocks, begin) if clocks.added else begin
        due: Claim | None = yield ClaimDue(worker, clocks.now, seconds, decide)
        if due is None:
            return False
        flow_id = due.flow.id
        if due.event is None and (yield from joined(clocks, due.flow)):
            yield Reschedule(due.flow, worker)
            return True
        if due.event is None and (due.flow.wake_at is None or due.flow.wait_seconds(due.now) > 0):
            yield Reschedule(due.flow, worker)  # what woke it bypassed the client
            return True
        lease = yield from lease_of(worker, seconds, clocks, due.now)
        swept.logins.append((yield from step_claimed(context, due, lease, begin)))
    except errors.DeviceFlowError as problem:
        if problem.flow_id is None:
            problem.flow_id = flow_id
        if problem.flow_id is None:
            raise  # it is about the store
        clocks = yield ReadClocks()
        yield Snooze(problem.flow_id, worker, clocks.now)
        swept.problems.append(problem)
    return True


def _unless_others_follow(clocks: Clocks, decide: Decide) -> Decide:
    """Decide nothing about a flow that was moved by the wall clock as it is: see `joined`."""
    return lambda claim: None if clocks.others_follow(claim.flow.moved_at) else decide(claim)
