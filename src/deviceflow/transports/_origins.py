"""What async transports share: something kept for each origin, and one attempt at an exchange."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

from deviceflow import _forks as forks
from deviceflow.core.wire import Failure
from deviceflow.transports._cause import cause_of
from deviceflow.transports._limits import TooLargeError
from deviceflow.transports._settings import REMEMBERED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from deviceflow.core.wire import Response
    from deviceflow.transports._settings import Origin, Settings, Way

_T = TypeVar("_T")


class Origins(Generic[_T]):
    """Keeps what a transport makes for each origin, such as a pool of connections.

    The settings of an origin are read once, in a thread, since that reads files.

    Args:
        settings: The settings.
        make: Makes the part for an origin.
        drop: Closes such a part, when there are too many of them.
    """

    def __init__(
        self,
        settings: Settings,
        make: Callable[[Origin, Way], _T],
        drop: Callable[[_T], Awaitable[object]],
    ) -> None:
        self._settings, self._make, self._drop = settings, make, drop
        self._parts: dict[Origin, _T] = {}
        self._reading = asyncio.Lock()
        forks.in_child(self._renew)

    async def get(self, origin: Origin) -> _T:
        """Return the part for an origin.

        Raises:
            UsageError: The settings for proxies or certificates are invalid.
            OSError: A file with certificates cannot be used.
        """
        async with self._reading:
            if origin not in self._parts:
                if len(self._parts) >= REMEMBERED:
                    await self._drop(self._parts.pop(next(iter(self._parts))))
                way = await asyncio.to_thread(self._settings.way, origin)
                self._parts[origin] = self._make(origin, way)
            return self._parts[origin]

    async def close(self) -> None:
        """Close all parts. New ones are made when they are needed."""
        parts, self._parts = self._parts, {}
        for part in parts.values():
            await self._drop(part)

    def _renew(self) -> None:
        # Closing the parent's connections here would remove them from the parent's event loop.
        forks.abandon(self._parts)
        self._parts, self._reading = {}, asyncio.Lock()


class Attempt:
    """One request in progress.

    Attributes:
        sent: Whether bytes of the request may have been sent.
    """

    __slots__ = ("sent",)

    def __init__(self) -> None:
        self.sent = False

    async def result(
        self,
        exchange: Awaitable[Response],
        timeout: float,  # noqa: ASYNC109  # as `Transport.send`
        trouble: tuple[type[Exception], ...],
    ) -> Response | Failure:
        """Return what comes of an exchange within a deadline.

        Args:
            exchange: The exchange.
            timeout: The deadline for all of it, in seconds.
            trouble: The exceptions of an HTTP library for what a server or the network can cause.
        """
        try:
            async with asyncio.timeout(timeout):
                return await exchange
        except TooLargeError:
            return Failure("too_large", sent=self.sent)
        except TimeoutError:
            return Failure("timeout", sent=self.sent)
        except (OSError, ValueError) as failed:
            return Failure("connection", sent=self.sent, cause=cause_of(failed))
        except trouble as failed:
            return Failure("connection", sent=self.sent, cause=cause_of(failed))
        except BaseException as interruption:  # noqa: BLE001  # raised again without its frames
            interruption.__context__ = interruption.__cause__ = None
            raise interruption.with_traceback(None)  # noqa: B904  # from itself
