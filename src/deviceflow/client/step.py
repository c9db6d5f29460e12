"""One step of a login, written once for every driver.

`step` is a generator. It yields what it needs of the world, and is sent what came of it; so a
driver is a short loop that performs what is yielded, sync or async, and a test is one that answers
from a list. The order of what it yields is the protocol:

1. `TakeLease`: be the only one, and learn what time it is;
2. `Commit` of `poll`, so that the request is on record before it leaves;
3. `Send`, at most once;
4. `Commit` of what the answer means, which gives the lease back.

Nothing in it sleeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deviceflow.core.machine import State
from deviceflow.core.ports import LeaseHeld
from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Generator

    from deviceflow.core.flow import Flow, Transition
    from deviceflow.core.machine import Reason
    from deviceflow.core.ports import Claim
    from deviceflow.core.provider import Approver, Token
    from deviceflow.core.secret import Secret
    from deviceflow.core.wire import Failure, Request, Response

LEASE_MARGIN: Final = 10.0
"""Seconds that a lease outlives the deadline of the request that is sent under it."""


@dataclass(frozen=True, slots=True)
class Step:
    """Where a flow stands after a step.

    Attributes:
        flow_id: The flow.
        state: Its state.
        wait_seconds: When to call again; 0 once it has ended, unless a token is left to revoke.
        reason: Why it failed, where it did.
    """

    flow_id: str
    state: State
    wait_seconds: float = 0.0
    reason: Reason | None = None


class TakeLease(NamedTuple):
    """Take the lease for so many seconds. Answered by a `Claim` or `LeaseHeld`."""

    seconds: float


class Commit(NamedTuple):
    """Store the flow with its transition; answered by whether that was done."""

    flow: Flow
    transition: Transition
    release: bool = False


class Send(NamedTuple):
    """Send the request within so many seconds; answered by an `Exchange`."""

    request: Request
    timeout: float


class Exchange(NamedTuple):
    """What came of a request: the answer or why there is none, when, and after how long."""

    result: Response | Failure
    now: float
    duration: float


class Look(NamedTuple):
    """Look at the clock once more; answered by the time, in seconds since 1970."""


class Reload(NamedTuple):
    """Read the flow as it is stored by now; answered by that `Flow`."""


class Release(NamedTuple):
    """Give the lease back; answered by None."""


Effect = TakeLease | Commit | Send | Look | Reload | Release


def step(timeout: float, approver: Approver | None = None) -> Generator[Effect, Any, Step]:
    """Do what is due for one flow, if anything is.

    Args:
        timeout: The hard deadline for the one request, in seconds.
        approver: As for `Flow.receive`.
    """
    claim: Claim | LeaseHeld = yield TakeLease(timeout + LEASE_MARGIN)
    flow = claim.flow
    if isinstance(claim, LeaseHeld):
        return _report(flow, min(claim.seconds, flow.interval))
    now = claim.now

    if flow.moved_at > now:
        # Others have moved it since this worker looked at the clock; or the clock was set back.
        now = yield Look()
        flow.follow_clock(now)
    left = _left_behind(claim, now)
    if left is not None:
        committed = yield Commit(flow, left)
        if not committed:
            return (yield from _overtaken())
    wait = flow.wait_seconds(now)
    if wait > 0 or (flow.state.ended and not flow.to_revoke):
        yield Release()
        return _report(flow, wait)
    if flow.overdue(now):
        committed = yield Commit(flow, flow.expire(now), release=True)
        return _report(flow) if committed else (yield from _overtaken())

    try:
        request = flow.request()
    except UsageError:
        yield Release()
        raise
    if flow.state is State.AWAITING_USER:
        committed = yield Commit(flow, flow.poll(now, timeout))
        if not committed:
            return (yield from _overtaken())
    exchange: Exchange = yield Send(request, timeout)
    return (yield from _take_in(flow, exchange, approver))


def _left_behind(claim: Claim, now: float) -> Transition | None:
    """Put on record that somebody's lease ran out, if that is so: most likely they died."""
    flow, previous_owner = claim.flow, claim.previous_owner
    if flow.state is State.POLLING:
        # Polling, and nobody held the lease.
        return flow.recover(now, previous_owner)
    return None if previous_owner is None else flow.take_over(now, previous_owner)


def _take_in(
    flow: Flow, exchange: Exchange, approver: Approver | None
) -> Generator[Effect, Any, Step]:
    """Store what the answer means; and where others went on meanwhile, what must not be lost."""
    result, now, duration = exchange
    strays, waiting = flow.stray_tokens, len(flow.to_revoke)
    transition = flow.receive(result, now, duration=duration, approver=approver)
    committed = yield Commit(flow, transition, release=True)
    if committed:
        return _report(flow, flow.wait_seconds(now))
    if flow.token is not None:
        return (yield from deliver(flow.token, flow.attempt, now))
    if flow.stray_tokens > strays:
        return (yield from _set_aside_late(flow.to_revoke[waiting:], now))
    return (yield from _overtaken())


def deliver(token: Token, attempt: int, now: float) -> Generator[Effect, Any, Step]:
    """Bring a token to a flow that others went on with meanwhile: it must not be lost.

    Args:
        token: The token.
        attempt: The poll that brought it.
        now: The time.
    """
    committed = False
    while not committed:
        flow: Flow = yield Reload()
        if flow.token is not None and flow.token.access_token == token.access_token:
            break  # it is there: only the store's answer was lost
        committed = yield Commit(flow, flow.late_grant(token, attempt, now))
    return _report(flow, flow.wait_seconds(now))


def _set_aside_late(
    revocable: tuple[tuple[str, Secret], ...], now: float
) -> Generator[Effect, Any, Step]:
    """Put a token that may not be taken on the record of a flow that others went on with."""
    committed = False
    while not committed:
        flow: Flow = yield Reload()
        committed = yield Commit(flow, flow.set_aside(revocable, now))
    return _report(flow, flow.wait_seconds(now))


def _overtaken() -> Generator[Effect, Any, Step]:
    """Report how far others have brought the flow."""
    flow: Flow = yield Reload()
    yield Release()
    return _report(flow, 0.0 if flow.state.ended else flow.interval)


def _report(flow: Flow, wait: float = 0.0) -> Step:
    return Step(flow.id, flow.state, wait, flow.reason)
