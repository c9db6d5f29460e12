"""Convert an event from a database to its types. A value of the wrong type becomes text or null."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

from deviceflow.audit.events import FIELDS, LISTS, NUMBERS

if TYPE_CHECKING:
    from collections.abc import Mapping

_TEXTS: Final = tuple({*FIELDS} - NUMBERS - LISTS - {"in_doubt"})


def readable(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the event with each field in its type, or null if the value is not usable."""
    # SQLite accepts any type in any column, so somebody may have written anything there.
    read = dict(event)
    for name in _TEXTS:
        value = read[name]
        if type(value) is not str and value is not None:
            read[name] = _text_of(value)
    for name in NUMBERS:
        value = read[name]
        if value is not None and not (type(value) in (int, float) and math.isfinite(value)):
            read[name] = None
    for name in LISTS:
        if read[name] is not None:
            read[name] = _list_of(read[name])
    read["in_doubt"] = bool(read["in_doubt"])
    return read


def _text_of(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _list_of(value: Any) -> list[str]:
    if isinstance(value, str | bytes):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = [_text_of(value)]
    return [_text_of(item) for item in (value if isinstance(value, list) else [value])]
