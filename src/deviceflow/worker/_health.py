"""A file that says that a worker gets on, for probes of Kubernetes and the like."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from deviceflow.errors import DeviceFlowError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deviceflow.worker._worker import Counts

MAX_AGE: Final = 30.0
"""Seconds after which a worker that has not got on counts as stuck."""

_WRITE_EACH: Final = 1.0


class UnhealthyError(DeviceFlowError):
    """The worker is not running, or has not got on for too long."""


class HealthFile:
    """Writes the file, at most once a second, and removes it at the end.

    A file that cannot be written is tried again: a disk may be full for a while.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tried_at = float("-inf")
        self._failed = False

    def progress(self, counts: Callable[[], Counts]) -> None:
        """Write the file, if it is time: the worker has got on.

        Raises:
            OSError: The file cannot be written. That is told once, until it can be written again.
        """
        now = time.monotonic()
        if now - self._tried_at < _WRITE_EACH:
            return
        self._tried_at = now
        said = counts()._asdict() | {"pid": os.getpid(), "at": time.time()}
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            # Not synced: after a power cut the worker is gone, too.
            draft.write_text(f"{json.dumps(said)}\n")
            draft.replace(self._path)
        except OSError:
            if not self._failed:
                self._failed = True
                raise
        else:
            self._failed = False

    def remove(self) -> None:
        """Remove the file: the worker ends."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def check(path: Path, max_age: float = MAX_AGE) -> dict[str, Any]:
    """Return what the file says, if the worker has got on lately.

    Args:
        path: The file.
        max_age: How many seconds ago is lately.

    Raises:
        UnhealthyError: There is no such file, it is not a worker's, or it is too old.
    """
    try:
        said: Any = json.loads(path.read_text())
        age = time.time() - said["at"]
    except FileNotFoundError:
        problem = f"{path} does not exist: the worker has not begun, or has ended."
    except (OSError, ValueError, TypeError, KeyError) as error:
        problem = f"{path} is not a health file that can be read: {type(error).__name__}."
    else:
        # One from the future was written before the clock was set back, by whatever is stuck since.
        if abs(age) <= max_age:
            return dict(said)
        problem = (
            f"The worker has not got on for {age:.0f} seconds."
            if age > 0
            else f"{path} is from the future: the clock was set back, and the worker has not got on"
            " since."
        )
    raise UnhealthyError(problem)
