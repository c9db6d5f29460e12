"""One request: its credentials, what goes on record of the connection, and the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from deviceflow import errors
from deviceflow.client.effects import Prepare, ReadClocks, Send
from deviceflow.core.wire import Failure

if TYPE_CHECKING:
    from deviceflow.client.context import Context
    from deviceflow.client.effects import Exchange, Op, Prepared
    from deviceflow.client.lease import Clocks, Lease
    from deviceflow.core.wire import Request, Response

_NOTHING_SENT: Final = (errors.UsageError, ImportError)
"""What a transport raises before it sends anything."""


class Outcome(NamedTuple):
    """What came of a request that was to be sent under a lease.

    Attributes:
        result: The response, or why there is none.
        now: What time it is for the store, in seconds since 1970.
        duration: How many seconds the exchange took.
        stop: What interrupted it, to be raised once the result is stored.
    """

    result: Response | Failure
    now: float
    duration: float
    stop: BaseException | None = None


def transmit(context: Context, request: Request, now: float) -> Op[Response | Failure]:
    """Send a request that belongs to no login.

    Args:
        context: The client's.
        request: The request.
        now: The time, for an assertion that the client signs.
    """
    prepared: Prepared = yield Prepare(request, now)
    yield from context.recorder.unverified_tls(prepared)
    exchange: Exchange = yield Send(prepared.request, context.deadline)
    if isinstance(exchange.result, BaseException):
        raise exchange.result
    return exchange.result


def transmit_under(context: Context, request: Request, lease: Lease) -> Op[Outcome]:
    """Send the request of a login, unless too little is left of the lease.

    Whatever interrupts it is part of the outcome, since the outcome has to be stored first.
    """
    stop: BaseException | None = None
    try:
        prepared: Prepared = yield Prepare(request, lease.now)  # a key may have to be fetched
        yield from context.recorder.unverified_tls(prepared)
        clocks: Clocks = yield ReadClocks()
    except GeneratorExit:
        raise
    except BaseException as raised:  # noqa: BLE001  # to be raised once the outcome is stored
        stop = raised
    if stop is not None:
        clocks = yield ReadClocks()
        now = lease.time_at(clocks.steady)
        return Outcome(Failure("interrupted", sent=False), now, 0.0, stop)
    if not lease.covers(context.deadline, clocks):
        return Outcome(Failure("lease", sent=False), lease.time_at(clocks.steady), 0.0)

    exchange: Exchange = yield Send(prepared.request, context.deadline)
    now, duration = lease.time_at(exchange.ended), exchange.ended - exchange.began
    if isinstance(exchange.result, BaseException):
        sent = not isinstance(exchange.result, _NOTHING_SENT)
        return Outcome(Failure("interrupted", sent=sent), now, duration, exchange.result)
    return Outcome(exchange.result, now, duration)
