"""Tell whether anything came for a connection that nobody reads at the moment."""

from __future__ import annotations

import functools
import select
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def look(descriptor: int) -> Callable[[], object]:
    """Return a function that tells at once whether a socket can be read, or was closed."""
    if sys.platform == "win32":  # it has no `poll`
        return lambda: select.select([descriptor], [], [], 0)[0]
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return functools.partial(poll.poll, 0)
