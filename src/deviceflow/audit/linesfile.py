"""Reading trails in files, of JSON lines: what `JSONLinesAudit` writes, or `audit export`."""

from __future__ import annotations

import json
import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from deviceflow.audit.chain import STORED, encode
from deviceflow.audit.events import FIELDS, LISTS, SCHEMA
from deviceflow.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_list_text = json.JSONEncoder(separators=(",", ":")).encode
_MAX_SEQ = 2**63 - 1
_INSERT = "INSERT INTO line VALUES (?, ?, ?)"
_BEGIN = b'{"schema":'  # which no text can have in it: its quotes would be escaped


class Lines(NamedTuple):
    """What files hold.

    Attributes:
        events: The events, by flow and number, as tuples in the order of `STORED`.
        strange: What to say of each line that is no event.
    """

    events: Iterator[tuple[Any, ...]]
    strange: Sequence[str]


@contextmanager
def read_lines(paths: Sequence[str]) -> Iterator[Lines]:
    """Give the events in files, which are read as one trail. They are put in order on disk.

    Raises:
        StoreError: A file cannot be read.
    """
    database = sqlite3.connect("", isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("CREATE TABLE line (flow TEXT, seq INTEGER, text TEXT)")
        strange = [said for path in paths for said in _take(database, Path(path))]
        rows = database.execute("SELECT text FROM line ORDER BY flow, seq, rowid")
        yield Lines((_row(json.loads(text)) for (text,) in rows), strange)
    finally:
        database.close()


def _take(database: sqlite3.Connection, path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if key := _key(line):
                    database.execute(_INSERT, (*key, line.decode()))
                elif line.strip():
                    yield f"line {number} of {path.name} is no event"
                    # Half a line is all that a full disk took, perhaps, and another is behind it.
                    whole = line[max(0, line.rfind(_BEGIN)) :]
                    if key := _key(whole):
                        database.execute(_INSERT, (*key, whole.decode()))
    except OSError as error:
        why = error.strerror
    else:
        return
    raise StoreError(f"{path} cannot be read: {why}.")


def _key(line: bytes) -> tuple[str, int] | None:
    try:
        event = json.loads(line)
        if event.keys() != {*FIELDS} or event["schema"] != SCHEMA:
            return None
        flow_id, seq = event["flow_id"], event["seq"]
        encode(event)  # which nobody can do with half a character
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    plain = not any(isinstance(event[name], list | dict) for name in FIELDS if name not in LISTS)
    sound = plain and type(flow_id) is str and type(seq) is int and 0 <= seq <= _MAX_SEQ
    return (flow_id, seq) if sound else None


def _row(event: dict[str, Any]) -> tuple[Any, ...]:
    # As a database has it, in which lists are texts.
    for name in LISTS:
        if event[name] is not None:
            event[name] = _list_text(event[name])
    return tuple(event[name] for name in STORED)
