"""Look up the addresses of a host.

An event loop does that in its default threads. A few names whose servers do not answer would take
all of these, and hold up files, keys, and the end of `asyncio.run`. So each host has a thread of
its own while it is looked up, which nobody waits for any longer than he wants to.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress


class Lookup:
    """Looks up the addresses of one host, once at a time for all tasks that want them.

    Args:
        host: The host.
        port: The port.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._found: asyncio.Future[list[str]] | None = None

    async def addresses(self) -> list[str]:
        """Return the addresses in the order in which to try them.

        Raises:
            OSError: There is none.
        """
        if _is_address(self.host):
            return [self.host]
        found = self._found
        if found is None or found.done():
            loop = asyncio.get_running_loop()
            found = self._found = loop.create_future()
            threading.Thread(
                target=self._look, args=(loop, found), name="deviceflow-lookup", daemon=True
            ).start()
        addresses = await asyncio.shield(found)
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "The host has no address.")
        return addresses

    def _look(self, loop: asyncio.AbstractEventLoop, found: asyncio.Future[list[str]]) -> None:
        addresses: list[str] = []
        with suppress(OSError, ValueError):
            told = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys(str(address[0]) for *_, address in told))
        with suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(_tell, found, addresses)


def _tell(found: asyncio.Future[list[str]], addresses: list[str]) -> None:
    if not found.done():
        found.set_result(addresses)


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError, ValueError):
            return bool(socket.inet_pton(family, host))
    return False
