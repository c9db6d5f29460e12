"""Columns of values as PostgreSQL's arrays, in their binary format.

psycopg can write lists as well, and takes twenty times as long for it.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from psycopg.adapt import Dumper
from psycopg.pq import Format

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg import AsyncConnection

_HEAD = Struct("!iiIii").pack  # dimensions, whether there are NULLs, the type, its length, a base
_LENGTH = Struct("!i").pack
_INTEGER = Struct("!iq").pack
_NUMBER = Struct("!id").pack
_NULL = _LENGTH(-1)


class _Dumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: bytes) -> bytes:
        """Return what is in the format already."""
        return obj


def _kind(oid: int) -> type[bytes]:
    """Return a class of arrays that are sent as of a type of PostgreSQL's."""
    kind = type("Array", (bytes,), {"__slots__": ()})
    _DUMPERS[kind] = type("ArrayDumper", (_Dumper,), {"oid": oid})
    return kind


_DUMPERS: Final[dict[type[bytes], type[_Dumper]]] = {}
_TEXTS: Final = _kind(1009)
_INTEGERS: Final = _kind(1016)
_NUMBERS: Final = _kind(1022)


class Arrays:
    """Makes arrays for one connection.

    Args:
        connection: The connection.
    """

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        for kind, dumper in _DUMPERS.items():
            connection.adapters.register_dumper(kind, dumper)
        encoding = connection.info.encoding
        self._encoding = "utf-8" if encoding == "ascii" else encoding  # as psycopg does

    def of(self, kind: str, values: Sequence[Any]) -> bytes:
        """Return an array of a type: `bigint`, `double precision` or `text`."""
        if kind == "bigint":
            return _INTEGERS(_joined(20, [_NULL if v is None else _INTEGER(8, v) for v in values]))
        if kind == "double precision":
            return _NUMBERS(_joined(701, [_NULL if v is None else _NUMBER(8, v) for v in values]))
        encoding = self._encoding
        parts = list[bytes]()
        for value in values:
            if value is None:
                parts += (_NULL, b"")
            else:
                encoded = value.encode(encoding)
                parts += (_LENGTH(len(encoded)), encoded)
        return _TEXTS(_HEAD(1, 1, 25, len(values), 1) + b"".join(parts))


def _joined(kind: int, values: Sequence[bytes]) -> bytes:
    return _HEAD(1, 1, kind, len(values), 1) + b"".join(values)
