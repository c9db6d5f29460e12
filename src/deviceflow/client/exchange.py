"""One request: its credentials, what goes on record of the connection, and the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from deviceflow import errors
from deviceflow.client import recorder
from deviceflow.core.wire import Failure, Response

if TYPE_CHECKING:
    from deviceflow.client.lease import Clocks, Lease
    from deviceflow.client.world import World
    from deviceflow.core.wire import Request

_NOTHING_SENT: Final = (errors.UsageError, ImportError)
"""What a transport raises before it sends anything."""


class Outcome(NamedTuple):
    """What came of a request that was to be sent under a lease.

    Attributes:
        result: The response, or why there is none.
        now: What time it was then for the store, in seconds since 1970.
        ended: The same by the monotonic clock.
        duration: How many seconds the exchange took.
        stop: What interrupted it, to be raised once the result is stored.
        uncertainty: By how many seconds `now` may be behind the store's clock.
    """

    result: Response | Failure
    now: float
    ended: float
    duration: float = 0.0
    stop: BaseException | None = None
    uncertainty: float = 0.0


async def transmit(world: World, request: Request, now: float) -> Response | Failure:
    """Send a request that belongs to no login.

    Args:
        world: What the operation works with.
        request: The request.
        now: The time, for an assertion that the client signs.
    """
    prepared = await world.prepare(request, now)
    await recorder.unverified_tls(world, prepared)
    exchange = await world.send(prepared.request, world.context.deadline)
    if isinstance(exchange.result, BaseException):
        raise exchange.result
    return _with_credential(exchange.result, prepared.request)


async def transmit_under(
    world: World, request: Request, lease: Lease, deadline: float | None = None
) -> Outcome:
    """Send a request under a lease, unless too little is left of the lease.

    Whatever interrupts it is part of the outcome, since the outcome has to be stored first.

    Args:
        world: What the operation works with.
        request: The request.
        lease: The lease.
        deadline: Seconds that the request may take, if not as long as any.
    """
    deadline = world.context.deadline if deadline is None else deadline
    stop: BaseException | None = None
    try:
        prepared = await world.prepare(request, lease.now)  # a key may have to be fetched
        await recorder.unverified_tls(world, prepared)
        clocks = world.clocks()
    except GeneratorExit:
        raise
    except BaseException as raised:  # noqa: BLE001  # to be raised once the outcome is stored
        stop = raised
    if stop is not None:
        clocks = world.clocks()
        return _unsent("interrupted", lease, clocks, stop)
    if not lease.covers(deadline, clocks):
        return _unsent("lease", lease, clocks)

    exchange = await world.send(prepared.request, deadline)
    result, stop = exchange.result, None
    if isinstance(result, BaseException):
        stop = result
        result = Failure("interrupted", sent=not isinstance(stop, _NOTHING_SENT))
    result = _with_credential(result, prepared.request)
    ended = exchange.ended
    duration = ended - clocks.steady
    return Outcome(result, lease.time_at(ended), ended, duration, stop, lease.uncertainty)


def _with_credential(result: Response | Failure, request: Request) -> Response | Failure:
    if isinstance(result, Response):
        result.credential = request.credential
    return result


def _unsent(
    kind: Literal["interrupted", "lease"],
    lease: Lease,
    clocks: Clocks,
    stop: BaseException | None = None,
) -> Outcome:
    steady = clocks.steady
    failure = Failure(kind, sent=False)
    return Outcome(failure, lease.time_at(steady), steady, stop=stop, uncertainty=lease.uncertainty)
