"""One HTTP/1.1 connection in an event loop."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final, Literal, Protocol

from deviceflow.core.wire import Failure, Response
from deviceflow.transports._limits import GRACE, TooLargeError
from deviceflow.transports._reader import Reader
from deviceflow.transports._sockets import look

_TICK: Final = 0.002
"""Seconds between two looks for the rest of a response that arrived in time."""


class Owner(Protocol):
    """Who keeps a connection between requests."""

    def free(self, connection: Connection) -> None:
        """Take a connection that can be used again."""

    def lost(self, connection: Connection) -> None:
        """Forget a connection that is closed."""


class Connection(asyncio.Protocol):
    """A connection that does one request at a time.

    After a failure, and after a response that does not allow another request, the connection is
    closed. Nothing is ever sent twice.

    Attributes:
        idle_since: When it became idle, by the monotonic clock.
    """

    __slots__ = (
        "_answer",
        "_closed",
        "_deadline",
        "_grace",
        "_loop",
        "_owner",
        "_readable",
        "_reader",
        "_timer",
        "_transport",
        "idle_since",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: Owner) -> None:
        self._loop = loop
        self._owner = owner
        self._reader = Reader()
        self._answer: asyncio.Future[Response | Failure] | None = None
        self._closed = False
        self.idle_since = 0.0

    def exchange(self, request: bytes, deadline: float) -> asyncio.Future[Response | Failure]:
        """Send a request, and return the future result, a `Failure` of which counts as sent.

        Args:
            request: The head and the body.
            deadline: The deadline, by the monotonic clock.
        """
        self._reader.begin()
        self._deadline, self._grace = deadline, 0.0
        self._answer = answer = self._loop.create_future()
        self._timer = self._loop.call_later(deadline - time.monotonic(), self._expire)
        self._transport.write(request)
        return answer

    def usable(self) -> bool:
        """Return whether the server has neither closed the idle connection nor sent anything."""
        return not (self._closed or self._readable())

    def abort(self) -> None:
        """Close the connection at once."""
        if not self._closed:
            self._closed = True
            self._transport.abort()

    def connection_made(self, transport: Any) -> None:
        """Start (called by the event loop)."""
        self._transport = transport
        self._readable = look(transport.get_extra_info("socket").fileno())

    def data_received(self, data: bytes) -> None:
        """Read the next bytes (called by the event loop)."""
        if self._answer is None:  # nobody asked
            self.abort()
            return
        try:
            self._reader.feed(data)
            if self._reader.complete:
                self._finish(self._reader.response())
        except ValueError as error:
            self._fail("too_large" if isinstance(error, TooLargeError) else "connection")

    def connection_lost(self, error: Exception | None) -> None:
        """Take note of the end, which may be the end of the body (called by the event loop)."""
        self._closed = True
        if self._answer is not None:
            try:
                if error is None:
                    self._reader.feed_end()
                if self._reader.complete:
                    self._finish(self._reader.response())
                else:
                    self._fail("connection")
            except ValueError as wrong:
                self._fail("too_large" if isinstance(wrong, TooLargeError) else "connection")
        self._reader.close()
        self._owner.lost(self)

    def abandon(self, answer: asyncio.Future[Response | Failure]) -> None:
        """Give up a request whose sender no longer waits."""
        if self._answer is answer:
            self._fail("interrupted")

    def _expire(self) -> None:
        now = time.monotonic()
        if now < self._deadline:  # uvloop counts from the start of the loop's turn
            self._timer = self._loop.call_later(self._deadline - now, self._expire)
            return
        # If the process was suspended, the response may have arrived in time.
        self._grace = self._grace or now + GRACE
        if now < self._grace and self._readable():
            self._timer = self._loop.call_later(_TICK, self._expire)
        else:
            self._fail("timeout")

    def _fail(self, kind: Literal["timeout", "connection", "too_large", "interrupted"]) -> None:
        self._reader.keep = False
        self._finish(Failure(kind, sent=True))

    def _finish(self, result: Response | Failure) -> None:
        answer, self._answer = self._answer, None
        self._timer.cancel()
        if self._reader.keep and not self._closed:
            self._owner.free(self)
        else:
            self.abort()
        if answer is not None and not answer.done():
            answer.set_result(result)
