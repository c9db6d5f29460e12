"""Stepping whatever is due: what a periodic task does.

The drivers take the steps at the same time: a server that hangs keeps no others waiting.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from deviceflow import errors
from deviceflow.client.claim import restart_lease, take_lease
from deviceflow.client.effects import (
    ForeignLeases,
    ReadClocks,
    Reschedule,
    Snooze,
    Upcoming,
    WakeAfterClockChange,
)
from deviceflow.client.step import BeginPoll, step_claimed
from deviceflow.client.turns import Turn, by_turns
from deviceflow.client.unsaved import save
from deviceflow.core.ports import LeaseHeld

if TYPE_CHECKING:
    from deviceflow.client.context import Context
    from deviceflow.client.effects import Op
    from deviceflow.client.lease import Clocks
    from deviceflow.client.turns import Work
    from deviceflow.core.login import Login
    from deviceflow.core.ports import Claim, UpcomingFlow


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


def due(context: Context) -> Op[tuple[Swept, list[Work[Swept]]]]:
    """Do what comes before the steps, and return the steps that are due, the servers by turns."""
    problems = yield from save_tokens(context)
    yield from follow_clock()
    clocks: Clocks = yield ReadClocks()
    found: list[UpcomingFlow] = yield Upcoming(clocks.now, 0.0, 0.0)
    steps: list[Work[Swept]] = [
        Turn(one.server, one.flow_id, partial(step_due, context, one.flow_id)) for one in found
    ]
    return Swept([], problems), by_turns(steps)


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


def step_due(context: Context, flow_id: str) -> Op[Swept]:
    """Step a flow, unless others do. If that fails, leave it alone for a while."""
    worker = context.identity.worker()
    begin = BeginPoll(context, worker)
    claim: Claim | LeaseHeld | None = None
    try:
        claim, lease = yield from take_lease(flow_id, worker, context.lease_seconds, begin)
        if isinstance(claim, LeaseHeld):
            return Swept([], [])
        flow = claim.flow
        if claim.event is None and (flow.wake_at is None or flow.wait_seconds(claim.now) > 0):
            yield Reschedule(flow, worker)  # what woke it bypassed the client
            return Swept([], [])
        return Swept([(yield from step_claimed(context, claim, lease, begin))], [])
    except errors.UnknownLoginError:
        return Swept([], [])  # it was deleted meanwhile
    except errors.DeviceFlowError as problem:
        if claim is None and problem.flow_id is None:
            raise  # it is about the store
        problem.flow_id = problem.flow_id or flow_id
        clocks: Clocks = yield ReadClocks()
        yield Snooze(flow_id, worker, clocks.now)
        return Swept([], [problem])
