"""A transport that is made when something is sent.

To import `requests` takes longer than a whole step that sends nothing, such as one of a login that
is not due.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deviceflow.core.ports import Transport
    from deviceflow.core.wire import Failure, Request, Response


class DeferredTransport:
    """A `RequestsTransport` of its own session, made at the first request."""

    @cached_property
    def _transport(self) -> Transport:
        from deviceflow.transports.requests import RequestsTransport  # noqa: PLC0415  # it costs

        return RequestsTransport()

    def send(self, request: Request, timeout: float) -> Response | Failure:
        """Send the request, as `RequestsTransport.send` does."""
        return self._transport.send(request, timeout)

    def close(self) -> None:
        """Close idle connections, if there are any."""
        if "_transport" in vars(self):
            self._transport.close()
