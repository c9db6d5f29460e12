"""The audit keys: `DEVICEFLOW_AUDIT_KEY`, or the store's own key.

The variable contains one or more keys, separated by commas or white space. The first key
authenticates new events. The others verify older events. `store:` stands for the store's own key,
which is sealed in the store.
"""

from __future__ import annotations

import os
import re
from typing import Final

from deviceflow.core.secret import Secret

VARIABLE: Final = "DEVICEFLOW_AUDIT_KEY"
"""The variable with the audit keys, if the store's own key is not used."""

_OWN: Final = "store:"


def names_own() -> bool:
    """Tell whether `DEVICEFLOW_AUDIT_KEY` includes the store's own key."""
    return _OWN in re.split(r"[\s,]+", os.environ.get(VARIABLE, ""))


def configured(own: Secret | None = None) -> list[Secret]:
    """Return the keys in `DEVICEFLOW_AUDIT_KEY`. The first one authenticates new events.

    Args:
        own: The store's own key, for `store:`. It is used alone if the variable is not set.
    """
    keys = re.split(r"[\s,]+", os.environ.get(VARIABLE, ""))
    found = [own if key == _OWN else Secret(key) for key in keys if key]
    return [key for key in found or [own] if key is not None]
