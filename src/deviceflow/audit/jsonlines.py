"""Encode any fields as one line of JSON, with the fastest encoder installed."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_ascii: Final = json.JSONEncoder(separators=(",", ":"), default=str, allow_nan=False).encode


def line_slowly(fields: Mapping[str, Any]) -> str:
    """Return `fields` as JSON, with the standard library."""
    try:
        return _ascii(fields)
    except Exception:  # noqa: BLE001  # str() of a value may raise anything
        # A key that is not a string, NaN or infinity, a value that contains itself, …
        return _ascii({str(name): _plain(value) for name, value in fields.items()})


line: Callable[[Mapping[str, Any]], str]
"""Returns fields as one line of JSON in ASCII, without control characters. Never raises.

Values without a JSON type become their `str()`. NaN and infinity become null.
"""
try:
    from orjson import OPT_PASSTHROUGH_DATACLASS, OPT_PASSTHROUGH_DATETIME
    from orjson import dumps as _dumps
except ImportError:
    line = line_slowly
else:
    # Write these types as strings, as the standard library's encoder does.
    _OPTIONS: Final = OPT_PASSTHROUGH_DATACLASS | OPT_PASSTHROUGH_DATETIME

    def line_quickly(fields: Mapping[str, Any]) -> str:
        """Return `fields` as JSON, with orjson if the result is ASCII."""
        try:
            written = _dumps(fields, str, _OPTIONS)
        except (TypeError, ValueError, RecursionError):  # orjson's own error is a TypeError
            return line_slowly(fields)
        return written.decode("ascii") if written.isascii() else line_slowly(fields)

    line = line_quickly


def _plain(value: object) -> str | int | float | bool | None:
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    try:
        return str(value)
    except Exception:  # noqa: BLE001  # the text of whatever a program logs
        return f"<{type(value).__name__}>"
