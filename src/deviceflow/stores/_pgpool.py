"""Connections to PostgreSQL that give up in time, and a few of them to share.

A server that is suspended, or cut off, answers nothing, while its kernel or a pooler before it
still takes what is sent; the server's own timeouts stand still. So each wait for an answer has a
limit here, by this machine's clock, at which the connection is closed.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from psycopg import Connection, Error, OperationalError, waiting
from psycopg.conninfo import conninfo_to_dict

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from psycopg.abc import RV, PQGen

    from deviceflow.core.secret import Secret

GRACE: Final = 1.0
"""Seconds that each answer may take at least: this machine may have been suspended meanwhile."""

IDLE: Final = 300.0
"""Seconds without use after which a connection is closed."""

_LOOK: Final = 0.1  # seconds between two looks at the clock
_SHORTEST: Final = 2  # seconds to connect: psycopg takes less for this


class GaveUpError(OperationalError):
    """The time was up."""


class BoundedConnection(Connection[Any]):
    """A connection whose every answer has to come in time.

    Attributes:
        until: Until when to wait, by `time.monotonic`.
        least: For how many seconds to wait at least.
    """

    until = 0.0
    least = GRACE

    def wait(
        self,
        gen: PQGen[RV],
        interval: float = _LOOK,
        timeout: float | None = None,  # noqa: ARG002  # psycopg's own, which no call here has
    ) -> RV:
        """Wait for an answer; psycopg does all its waiting by this method.

        Raises:
            GaveUpError: None came in time; the connection is closed.
        """
        seconds = max(self.until - time.monotonic(), self.least)
        try:
            return waiting.wait(_bounded(gen, seconds), self.pgconn.socket, interval=interval)
        except BaseException as problem:
            # On Ctrl-C psycopg would ask the same server to cancel, and wait for that.
            if isinstance(problem, GaveUpError) or not isinstance(problem, Error):
                self.pgconn.finish()
            raise

    def __del__(self, *_: object) -> None:
        """Say nothing: one that is open as the program ends is closed with it."""


def _bounded(gen: PQGen[RV], seconds: float) -> Generator[Any, Any, RV]:
    until, ready = time.monotonic() + seconds, None
    while True:
        try:
            wanted = gen.send(ready)  # type: ignore[arg-type]  # None starts a generator
        except StopIteration as done:
            result: RV = done.value
            return result
        ready = yield wanted
        if time.monotonic() > until:
            raise GaveUpError(f"it has not answered for {seconds:.0f} seconds")


def connect(url: Secret, until: float) -> BoundedConnection:
    """Open a connection, by then; it does not wait for an answer any longer either.

    Args:
        url: Where, as libpq has it.
        until: By `time.monotonic`.

    Raises:
        psycopg.OperationalError: It cannot be opened.
    """
    hosts = str(conninfo_to_dict(url.reveal()).get("host", "")).count(",") + 1
    connection = BoundedConnection.connect(
        url.reveal(),
        autocommit=True,
        # Prepared statements do not go through a pooler that pools by transaction.
        prepare_threshold=None,
        application_name="deviceflow",
        connect_timeout=max(_SHORTEST, int((until - time.monotonic()) / hosts)),
    )
    connection.until = until
    return connection


class Pool:
    """Connections that the threads of one process share. None is opened before it is needed.

    Args:
        url: Where, as libpq has it.
        size: How many to have at the most.
    """

    def __init__(self, url: Secret, size: int) -> None:
        self._url = url
        self._room = threading.BoundedSemaphore(size)
        self._lock = threading.Lock()
        self._idle: deque[tuple[float, BoundedConnection]] = deque()
        self._closed = False

    @contextmanager
    def connection(self, until: float) -> Iterator[BoundedConnection]:
        """Give a connection that waits until then. One whose work fails is closed.

        Args:
            until: By `time.monotonic`.

        Raises:
            GaveUpError: None could be had by then, or an answer did not come.
        """
        if not self._room.acquire(timeout=max(0.0, until - time.monotonic())):
            raise GaveUpError("all connections of this process are in use")
        try:
            connection = self._take() or self._connect(until)
            connection.until = until
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            self._put(connection)
        finally:
            self._room.release()

    def clear(self) -> None:
        """Close those that are not in use."""
        with self._lock:
            while self._idle:
                self._idle.pop()[1].close()

    def close(self) -> None:
        """Close all; those in use as soon as they are not."""
        self._closed = True
        self.clear()

    def _take(self) -> BoundedConnection | None:
        with self._lock:
            self._drop_old()
            return self._idle.pop()[1] if self._idle else None

    def _put(self, connection: BoundedConnection) -> None:
        with self._lock:
            self._idle.append((time.monotonic(), connection))
            self._drop_old()

    def _drop_old(self) -> None:
        oldest = time.monotonic() - IDLE
        while self._idle and (self._closed or self._idle[0][0] < oldest):
            self._idle.popleft()[1].close()

    def _connect(self, until: float) -> BoundedConnection:
        """Open a connection, and try that again until then: the database may be back soon."""
        pause = 0.05
        while True:
            try:
                return connect(self._url, until)
            except OperationalError as failed:
                if time.monotonic() + pause > until:
                    raise GaveUpError(str(failed)) from None
            time.sleep(pause)
            pause = min(2 * pause, 1.0)
