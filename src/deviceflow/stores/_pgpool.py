"""PostgreSQL connections with a timeout for each response, and a pool of them.

A server that is suspended or unreachable does not respond, although its kernel or a pooler still
accepts data, and its own timeouts do not run. So each wait for a response is limited by this
machine's clock. When the time is up, the connection is closed.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from psycopg import Connection, Error, OperationalError, waiting
from psycopg.conninfo import conninfo_to_dict

from deviceflow.stores.sql.connection import Result

if TYPE_CHECKING:
    from collections.abc import Generator

    from psycopg.abc import RV, PQGen

    from deviceflow.core.secret import Secret

GRACE: Final = 1.0
"""The shortest timeout for a response, in seconds: this machine may have been suspended."""

IDLE: Final = 300.0
"""Seconds without use after which a connection is closed."""

LOOK: Final = 0.1
"""Seconds between two checks of the clock."""

_SHORTEST: Final = 2  # the shortest connect_timeout that psycopg accepts, in seconds


class GaveUpError(OperationalError):
    """The timeout passed."""


class BoundedConnection(Connection[Any]):
    """A connection with a timeout for each response.

    Attributes:
        until: When to stop waiting, by `time.monotonic`.
        least: The shortest time to wait for a response, in seconds.
    """

    until = 0.0
    least = GRACE

    def wait(
        self,
        gen: PQGen[RV],
        interval: float = LOOK,
        timeout: float | None = None,  # noqa: ARG002  # psycopg's own, which no call here has
    ) -> RV:
        """Wait for a response. psycopg calls this method for each wait.

        Raises:
            GaveUpError: No response came in time. The connection is closed.
        """
        seconds = max(self.until - time.monotonic(), self.least)
        try:
            return waiting.wait(bounded(gen, seconds), self.pgconn.socket, interval=interval)
        except BaseException as problem:
            # On Ctrl-C psycopg would send a cancel request to the server, and wait for it.
            if isinstance(problem, GaveUpError) or not isinstance(problem, Error):
                self.pgconn.finish()
            raise

    def __del__(self, *_: object) -> None:
        """Suppress psycopg's warning about connections that are open at exit."""


def bounded(gen: PQGen[RV], seconds: float) -> Generator[Any, Any, RV]:
    """Raise `GaveUpError` in the place of a response that does not come in time."""
    until, ready = time.monotonic() + seconds, None
    while True:
        try:
            wanted = gen.send(ready)  # type: ignore[arg-type]  # None starts a generator
        except StopIteration as done:
            result: RV = done.value
            return result
        ready = yield wanted
        if time.monotonic() > until:
            raise GaveUpError(f"no response for {seconds:.0f} seconds")


def connect(url: Secret, until: float) -> BoundedConnection:
    """Open a connection.

    Args:
        url: The URL, in libpq's format.
        until: When to stop waiting, by `time.monotonic`; also for the connection's responses.

    Raises:
        psycopg.OperationalError: The connection cannot be opened.
    """
    connection = BoundedConnection.connect(url.reveal(), **parameters(url, until))
    connection.until = until
    return connection


def parameters(url: Secret, until: float) -> dict[str, Any]:
    """Return how a connection is opened, besides its URL."""
    hosts = str(conninfo_to_dict(url.reveal()).get("host", "")).count(",") + 1
    return {
        "autocommit": True,
        # Prepared statements do not work with a pooler in transaction mode.
        "prepare_threshold": None,
        "application_name": "deviceflow",
        "client_encoding": "UTF8",  # whatever PGCLIENTENCODING says
        "connect_timeout": max(_SHORTEST, int((until - time.monotonic()) / hosts)),
    }


class Session:
    """A connection of a pool, whose methods are awaited, and never suspend."""

    def __init__(self, connection: BoundedConnection) -> None:
        self.connection = connection

    async def execute(self, text: str, values: tuple[Any, ...] | None) -> Result:
        """Run SQL, and return its result; of several statements, the result of the last one."""
        cursor = self.connection.execute(text, values)
        while cursor.nextset():
            pass
        rows = [] if cursor.description is None else cursor.fetchall()
        return Result(rows, cursor.rowcount)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


class Pool:
    """A pool of connections for the threads of one process. Connections are opened when needed.

    Args:
        url: The URL, in libpq's format.
        size: The maximum number of connections.
    """

    def __init__(self, url: Secret, size: int) -> None:
        self._url = url
        self._free_slots = threading.BoundedSemaphore(size)
        self._lock = threading.Lock()
        self._idle = Idle()

    async def take(self, until: float, *, patient: bool) -> Session:
        """Return a connection; `put` gives it back.

        Args:
            until: When to stop waiting, by `time.monotonic`; also for its responses.
            patient: Whether to try again to connect until then: the database may be restarting.

        Raises:
            GaveUpError: No connection was available in time.
        """
        if not self._free_slots.acquire(timeout=max(0.0, until - time.monotonic())):
            raise GaveUpError("all connections of this process are in use")
        try:
            with self._lock:
                session = self._idle.take()
            session = session or Session(self._connect(until, patient=patient))
        except BaseException:
            self._free_slots.release()
            raise
        session.connection.until = until
        return session

    def put(self, session: Session) -> None:
        """Take a connection back."""
        with self._lock:
            self._idle.put(session)
        self._free_slots.release()

    def clear(self) -> None:
        """Close idle connections."""
        with self._lock:
            self._idle.clear()

    def close(self) -> None:
        """Close all connections. Those in use are closed when they are returned."""
        with self._lock:
            self._idle.close()

    def _connect(self, until: float, *, patient: bool) -> BoundedConnection:
        pause = 0.05
        while True:
            try:
                return connect(self._url, until)
            except OperationalError as failed:
                if not patient:
                    raise
                if time.monotonic() + pause > until:
                    raise GaveUpError(str(failed)) from None
            time.sleep(pause)
            pause = min(2 * pause, 1.0)


class Idle:
    """Connections that are not in use, the oldest first. Some are closed when they are too old."""

    def __init__(self) -> None:
        self._idle: deque[tuple[float, Any]] = deque()
        self._closed = False

    def take(self) -> Any:
        """Return the connection that was used last; None without one."""
        self._drop_old()
        return self._idle.pop()[1] if self._idle else None

    def put(self, session: Any) -> None:
        """Keep a connection that is not in use any more."""
        if not session.connection.closed:
            self._idle.append((time.monotonic(), session))
        self._drop_old()

    def clear(self) -> None:
        """Close them."""
        while self._idle:
            self._idle.pop()[1].close()

    def close(self) -> None:
        """Close them, and those that are given back from now on."""
        self._closed = True
        self.clear()

    def _drop_old(self) -> None:
        oldest = time.monotonic() - IDLE
        while self._idle and (self._closed or self._idle[0][0] < oldest):
            self._idle.popleft()[1].close()
