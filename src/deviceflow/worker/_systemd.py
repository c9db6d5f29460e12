"""Tell systemd how a service is doing, by the protocol of sd_notify(3). No library is needed."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_OFTEN: Final = 4
"""How many times the watchdog is fed within its time, so that a late one does no harm."""


class Notifier:
    """Sends a service's state to systemd; does nothing where systemd did not start the process.

    Args:
        environment: Where `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` are.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # An address that begins with @ is in the abstract namespace, which has no files.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._feed_each = _watchdog_seconds(environment) / _OFTEN
        self._fed_at = float("-inf")
        self._socket: socket.socket | None = None
        if address[:1] in ("/", "@") and hasattr(socket, "AF_UNIX"):
            kind = socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0)
            self._socket = socket.socket(socket.AF_UNIX, kind)
            self._socket.setblocking(False)

    def send(self, *lines: str) -> None:
        """Send a message, if systemd waits for one. What cannot be sent is dropped."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.sendto("\n".join(lines).encode(), self._address)

    def ready(self) -> None:
        """Say that the service works, with its settings as they are now."""
        self.send("READY=1")

    def reloading(self) -> None:
        """Say that the service reads its settings again; `ready` says that this is done."""
        # systemd wants to know when that began (Type=notify-reload), by CLOCK_MONOTONIC.
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Say that the service is about to end."""
        self.send("STOPPING=1")

    def progress(self, status: Callable[[], str]) -> None:
        """Feed the watchdog, if there is one and it is time, and say how the service is doing."""
        now = time.monotonic()
        if self._feed_each and now - self._fed_at >= self._feed_each:
            self._fed_at = now
            self.send("WATCHDOG=1", f"STATUS={status()}")

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _watchdog_seconds(environment: Mapping[str, str]) -> float:
    """Return within how many seconds the watchdog is to be fed; 0 if there is none."""
    pid = environment.get("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return 0.0
    try:
        return max(0.0, int(environment.get("WATCHDOG_USEC", "0")) / 1e6)
    except ValueError:
        return 0.0
