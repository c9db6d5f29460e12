"""PostgreSQL connections for asyncio, with a timeout for each response; see `_pgpool`.

psycopg's own pool is not used, for the reason that `_pgpool` is not it either: not each of its
waits could be limited.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from psycopg import AsyncConnection, Error, OperationalError, waiting

from deviceflow.stores._pgarrays import Arrays
from deviceflow.stores._pgpool import GRACE, LOOK, GaveUpError, bounded, parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg.abc import RV, PQGen

    from deviceflow.core.secret import Secret


class BoundedAsyncConnection(AsyncConnection[Any]):
    """A connection with a timeout for each response.

    Attributes:
        until: When to stop waiting, by `time.monotonic`.
        least: The shortest time to wait for a response, in seconds.
        must_finish: Whether the task that uses it must come to its end: a cancellation then does
            not end a wait.
    """

    until = 0.0
    least = GRACE
    must_finish = False

    _arrays: Arrays | None = None

    def array(self, kind: str, values: Sequence[Any]) -> bytes:
        """Return values as an array for this connection; see `Arrays.of`."""
        if self._arrays is None:
            self._arrays = Arrays(self)
        return self._arrays.of(kind, values)

    async def wait(
        self,
        gen: PQGen[RV],
        interval: float = LOOK,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109  # psycopg's own
    ) -> RV:
        """Wait for a response. psycopg calls this method for each wait.

        Raises:
            GaveUpError: No response came in time. The connection is closed.
        """
        seconds = max(self.until - time.monotonic(), self.least)
        waited = bounded(gen, seconds)
        while True:
            try:
                return await waiting.wait_async(waited, self.pgconn.socket, interval=interval)
            except BaseException as problem:
                if self.must_finish and isinstance(problem, asyncio.CancelledError):
                    continue
                if isinstance(problem, GaveUpError) or not isinstance(problem, Error):
                    self.pgconn.finish()
                raise

    def __del__(self, *_: object) -> None:
        """Suppress psycopg's warning about connections that are open at exit."""


async def connect(url: Secret, until: float) -> BoundedAsyncConnection:
    """Open a connection.

    Args:
        url: The URL, in libpq's format.
        until: When to stop waiting, by `time.monotonic`; also for the connection's responses.

    Raises:
        psycopg.OperationalError: The connection cannot be opened.
    """
    connection = await BoundedAsyncConnection.connect(url.reveal(), **parameters(url, until))
    connection.until = until
    return connection


async def connect_patiently(url: Secret, until: float) -> BoundedAsyncConnection:
    """Open a connection, with retries until the time is up: the database may be restarting.

    A cancellation ends neither this nor a wait of the connection: tasks wait for the end of the one
    that calls this.
    """
    pause = 0.05
    while True:
        try:
            connection = await connect(url, until)
        except OperationalError as failed:
            if time.monotonic() + pause > until:
                raise GaveUpError(str(failed)) from None
        except asyncio.CancelledError:
            continue
        else:
            connection.must_finish = True
            return connection
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(pause)
        pause = min(2 * pause, 1.0)
