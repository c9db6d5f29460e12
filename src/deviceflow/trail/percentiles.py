"""Percentiles by the nearest-rank method: each is a value that occurred."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PERCENTILES: Final = (50, 90, 99)


def percentiles(ordered: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Yield the percentiles of values in order, by their names; None without values."""
    for percent in PERCENTILES:
        rank = math.ceil(len(ordered) * percent / 100)
        yield f"p{percent}", round(ordered[rank - 1], 3) if ordered else None
