"""Convert a stored event to its types. A value of the wrong type becomes text or null."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any, Final

from deviceflow.audit.chain import DAMAGED, STORED, decode, parse
from deviceflow.audit.events import FIELDS, LISTS, NUMBERS, WHOLE
from deviceflow.core.omitted import Omitted
from deviceflow.core.sanitize import storable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FIELDS: Final = frozenset(FIELDS)
_GREATEST: Final = 2**63  # the greatest that databases have
_NO_ESCAPE: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\x")
_PROOF: Final = (str, type(None))
_SECONDS: Final = NUMBERS - WHOLE
_TEXTS: Final = tuple({*FIELDS} - NUMBERS - LISTS - {"in_doubt", "omitted"})


_HASH, _MAC, _TEXT = (STORED.index(name) for name in ("hash", "mac", "text"))


def event_of(row: Sequence[Any]) -> dict[str, Any]:
    """Return the event in a row, a tuple in the order of `STORED`, with each field in its type.

    The event is parsed from the row's text. If the text is not an event, all fields are null except
    those that the row has in columns.
    """
    proof = {"hash": row[_HASH], "mac": row[_MAC]}
    try:
        event = parse(row[_TEXT])
    except DAMAGED:
        return readable(dict.fromkeys(FIELDS) | _claimed_by(row) | proof)
    if type(row[_HASH]) is str and type(row[_MAC]) in _PROOF:
        event |= proof
        return _with_seconds({name: event[name] for name in FIELDS})
    return readable({name: (event | proof)[name] for name in FIELDS})


def _claimed_by(row: Sequence[Any]) -> dict[str, Any]:
    text = row[_TEXT]
    if isinstance(text, str):
        # A store returns invalid UTF-8 as `\\xff`, and JSON has no such escape.
        text = _NO_ESCAPE.sub(r"\1\\\\x", text).encode(errors="replace")
    try:
        fields = decode(text)
    except DAMAGED:
        fields = None
    if not isinstance(fields, dict):
        return {name: row[STORED.index(name)] for name in ("flow_id", "seq", "time")}
    return {name: value for name, value in fields.items() if name in _FIELDS}


def readable(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the event with each field in its type, or null if the value is not usable."""
    read = dict(event)
    for name in _TEXTS:
        value = read[name]
        if value is not None:
            read[name] = _text_of(value)
    for name in NUMBERS:
        value = read[name]
        if not _is_number(value):
            read[name] = None
    for name in LISTS:
        if read[name] is not None:
            read[name] = _list_of(read[name])
    read["in_doubt"] = bool(read["in_doubt"])
    try:
        Omitted.of(read["omitted"])
    except (TypeError, ValueError):
        read["omitted"] = None
    return _with_seconds(read)


def _with_seconds(event: dict[str, Any]) -> dict[str, Any]:
    # The canonical form writes 5.0 as 5. The event was logged with a float.
    for name in _SECONDS:
        if type(event[name]) is int:
            event[name] = float(event[name])
    return event


def _is_number(value: Any) -> bool:
    if type(value) is int:
        return -_GREATEST <= value < _GREATEST
    return type(value) is float and math.isfinite(value)


def _text_of(value: Any) -> str:
    try:
        text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    except (RecursionError, ValueError):  # lists in lists, or a number of too many digits
        text = ""
    return storable(text)


def _list_of(value: Any) -> list[str]:
    if isinstance(value, str | bytes):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = [_text_of(value)]
    return [_text_of(item) for item in (value if isinstance(value, list) else [value])]
