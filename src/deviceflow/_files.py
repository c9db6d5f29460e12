"""What this user may do with a file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

EFFECTIVE: Final = os.access in os.supports_effective_ids


def may_read(path: Path) -> bool:
    """Tell whether this user may read a file."""
    return os.access(path, os.R_OK, effective_ids=EFFECTIVE)


def may_write(path: Path) -> bool:
    """Tell whether this user may write a SQLite file, and make files beside it."""
    return all(os.access(place, os.W_OK, effective_ids=EFFECTIVE) for place in (path, path.parent))
