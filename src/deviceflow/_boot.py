"""Which monotonic clock this process reads, and how long the machine has been running."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path
from typing import Final

from deviceflow import _forks as forks


class _Boot:
    """One start of the machine, as far as the system tells.

    It is read when the module is imported, since an event loop must not wait for a file; and again
    in a forked child, which may have another time namespace.
    """

    def __init__(self) -> None:
        self.read()
        forks.in_child(self.read)

    def read(self) -> None:
        """Read which start it is, and in which time namespace this process is."""
        self.known = True
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            self.name, self.known = socket.gethostname(), False
            return
        try:
            self.name = f"{boot} {os.readlink('/proc/self/ns/time')}"  # noqa: PTH115  # no path
        except OSError:
            self.name = boot


_boot: Final = _Boot()


def clock_name() -> str:
    """Return a name of the monotonic clock: two processes of one name can compare their readings.

    On Linux it names one start of the machine, and a time namespace, which containers may have.
    Elsewhere the machine's name has to do: after another start, the clock begins anew, and what
    was noted before seems to be in the future, or was noted by a process that is gone.
    """
    return _boot.name


def uptime() -> float | None:
    """Return the seconds since the machine started; None where `clock_name` names several starts.

    Unlike those of the monotonic clock, these seconds count while the machine sleeps.
    """
    if sys.platform == "linux" and _boot.known:
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return None
