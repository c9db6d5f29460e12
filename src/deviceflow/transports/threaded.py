"""Send with a sync transport from an event loop, in threads."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from deviceflow import _forks as forks
from deviceflow.core.wire import Failure

if TYPE_CHECKING:
    from deviceflow.core.ports import Transport
    from deviceflow.core.wire import Request, Response

THREADS: Final = 128
"""How many requests are sent at a time, unless the caller says otherwise."""


class ThreadedTransport:
    """An `AsyncTransport` that runs a sync transport in threads, and needs no other library.

    It serves some dozens of logins. For hundreds of logins, use a transport made for asyncio: a
    request that finds no free thread waits for one.

    If a task is cancelled, it no longer waits for its request, but the request continues in its
    thread until its deadline at most.

    Args:
        transport: The transport that sends the requests. Closing this transport closes it.
        threads: How many requests to send at a time.
    """

    def __init__(self, transport: Transport, *, threads: int = THREADS) -> None:
        self._transport = transport
        self._most = threads
        self._renew()
        forks.in_child(self._renew)

    def _renew(self) -> None:
        self._threads = ThreadPoolExecutor(self._most, thread_name_prefix="deviceflow")

    @property
    def unverified(self) -> bool:
        """Whether certificates are not verified."""
        return getattr(self._transport, "unverified", False)

    async def send(self, request: Request, timeout: float) -> Response | Failure:  # noqa: ASYNC109  # as in `AsyncTransport`
        """Send the request once, within `timeout` seconds, and return the response or failure.

        The time that the request waits for a thread counts.
        """
        until = time.monotonic() + timeout
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._send, request, until)

    def _send(self, request: Request, until: float) -> Response | Failure:
        left = until - time.monotonic()
        if left <= 0:
            return Failure("timeout", sent=False)
        return self._transport.send(request, left)

    async def close(self) -> None:
        """Close the transport, and end the threads once their requests have ended.

        A later `send` opens new ones.
        """
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._renew()
        self._transport.close()
