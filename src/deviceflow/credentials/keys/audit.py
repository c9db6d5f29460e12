"""The keys that authenticate events: `DEVICEFLOW_AUDIT_KEY`, or a store's own.

The variable has one key or several, separated by commas or white space. The first is the one in
use; the others count for the events that they have authenticated. `store:` stands for the store's
own key, which is in the store, sealed.
"""

from __future__ import annotations

import os
import re
from typing import Final

from deviceflow.core.secret import Secret

VARIABLE: Final = "DEVICEFLOW_AUDIT_KEY"
"""Has the key that authenticates events, where it is not to be the store's own; or several."""

_OWN: Final = "store:"


def names_own() -> bool:
    """Tell whether `DEVICEFLOW_AUDIT_KEY` means the store's own key as well."""
    return _OWN in re.split(r"[\s,]+", os.environ.get(VARIABLE, ""))


def configured(own: Secret | None = None) -> list[Secret]:
    """Return the keys in `DEVICEFLOW_AUDIT_KEY`, of which the first is the one in use.

    Args:
        own: The store's own, which `store:` stands for, and which is the one where none is named.
    """
    keys = re.split(r"[\s,]+", os.environ.get(VARIABLE, ""))
    found = [own if key == _OWN else Secret(key) for key in keys if key]
    return [key for key in found or [own] if key is not None]
