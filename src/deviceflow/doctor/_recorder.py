"""A transport that records the exchanges of a login."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from deviceflow.client.clock import SystemClock
from deviceflow.core.wire import Failure, Response

if TYPE_CHECKING:
    from deviceflow.core.ports import Clock, Transport
    from deviceflow.core.wire import Fields, Request

PATIENCE: Final = 10.0
"""Seconds that a server has for an answer."""


class Exchange(NamedTuple):
    """A request, what came of it, and when, by the monotonic clock."""

    request: Request
    result: Response | Failure
    at: float


class Recorder:
    """A transport that keeps what was said, for a closer look than a login takes.

    Args:
        inner: What sends.
        clock: What tells when.

    Attributes:
        exchanges: All of it, in order.
    """

    def __init__(self, inner: Transport, clock: Clock | None = None) -> None:
        self._inner = inner
        self._clock = clock or SystemClock()
        self.exchanges: list[Exchange] = []

    def send(self, request: Request, timeout: float) -> Response | Failure:
        """Send by the transport inside."""
        result = self._inner.send(request, timeout)
        self.exchanges.append(Exchange(request, result, self._clock.monotonic()))
        return result

    def close(self) -> None:
        """Close the transport inside."""
        self._inner.close()

    def of(self, purpose: str) -> list[Exchange]:
        """Return the exchanges of that purpose."""
        return [one for one in self.exchanges if one.request.purpose == purpose]

    def metadata(self) -> Fields | None:
        """Return the metadata that came last."""
        results = [one.result for one in self.of("metadata")]
        found = [r.fields() for r in results if isinstance(r, Response) and r.status == 200]
        return next((fields for fields in reversed(found) if fields is not None), None)
