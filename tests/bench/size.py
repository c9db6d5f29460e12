"""How much is measured: all of it, or as little as shows that each benchmark still runs."""

from __future__ import annotations

import os
from typing import Final

SMOKE: Final = bool(os.environ.get("DEVICEFLOW_BENCH_SMOKE"))


def size(full: int, smoke: int = 1) -> int:
    """Return how many rounds or rows a benchmark takes."""
    return smoke if SMOKE else full
