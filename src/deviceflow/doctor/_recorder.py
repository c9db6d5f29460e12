"""A transport that records the exchanges of a login."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from deviceflow.client.clock import default_clock
from deviceflow.core.wire import Failure, Response

if TYPE_CHECKING:
    from deviceflow.core.ports import Clock, Transport
    from deviceflow.core.wire import Fields, Request

PATIENCE: Final = 10.0
"""Seconds to wait for a response."""


class Exchange(NamedTuple):
    """A request, its response or failure, and the time of the response by the monotonic clock."""

    request: Request
    result: Response | Failure
    at: float


class Recorder:
    """A transport that records all exchanges, so that the doctor can check the responses.

    Args:
        inner: The transport that sends.
        clock: The clock for the times of exchanges.

    Attributes:
        exchanges: All exchanges, in order.
    """

    def __init__(self, inner: Transport, clock: Clock | None = None) -> None:
        self._inner = inner
        self._clock = clock or default_clock()
        self.exchanges: list[Exchange] = []

    def send(self, request: Request, timeout: float) -> Response | Failure:
        """Send with the inner transport."""
        result = self._inner.send(request, timeout)
        self.exchanges.append(Exchange(request, result, self._clock.monotonic()))
        return result

    def close(self) -> None:
        """Close the inner transport."""
        self._inner.close()

    def of(self, purpose: str) -> list[Exchange]:
        """Return the exchanges of a purpose, such as `code` or `token`."""
        return [one for one in self.exchanges if one.request.purpose == purpose]

    def metadata(self) -> Fields | None:
        """Return the last metadata that was received."""
        results = [one.result for one in self.of("metadata")]
        found = [r.fields() for r in results if isinstance(r, Response) and r.status == 200]
        return next((fields for fields in reversed(found) if fields is not None), None)
