"""Whether a trail stores each event, or leaves out those that only say that a login is pending."""

from __future__ import annotations

import os
from typing import Final, Literal, get_args

from deviceflow.errors import UsageError

VARIABLE: Final = "DEVICEFLOW_TRAIL"

TrailMode = Literal["each", "summary"]
MODES: Final[tuple[TrailMode, ...]] = get_args(TrailMode)
"""`each` stores every event; `summary` stores the number of pending polls: see `core.omitted`."""


def is_summarized(mode: TrailMode | None, default: TrailMode) -> bool:
    """Tell whether a trail leaves pending polls out.

    Args:
        mode: The mode that the program chose; None for the one in `DEVICEFLOW_TRAIL`.
        default: The mode if nobody chose one.

    Raises:
        UsageError: There is no such mode.
    """
    chosen = mode or os.environ.get(VARIABLE) or default
    if chosen not in MODES:
        raise UsageError(
            f"A trail has no mode {chosen!r}.",
            hint=f"The mode is each or summary. It is the argument `trail`, or {VARIABLE}.",
        )
    return chosen == "summary"
