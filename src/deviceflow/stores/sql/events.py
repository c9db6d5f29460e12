"""An event as a row of the table `audit`, and the store's own events."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from deviceflow.audit.events import LISTS

if TYPE_CHECKING:
    from collections.abc import Mapping

_json: Final = json.JSONEncoder(separators=(",", ":")).encode  # made once: that takes its time


def columns(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event as its columns have it, in which a list is the text of one."""
    values = dict(event)
    for name in LISTS:
        texts = values[name]
        if texts is not None:
            values[name] = _text_of(tuple(texts))
    return values


@lru_cache(1024)
def _text_of(texts: tuple[str, ...]) -> str:
    return _json(texts)
