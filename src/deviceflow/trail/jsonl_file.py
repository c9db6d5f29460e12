"""Read trails in JSON Lines files, written by `JSONLinesAudit` or `audit export`."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from deviceflow.audit.chain import DAMAGED, HASHED, STORED, canonical, encode, row_of
from deviceflow.audit.events import FIELDS, LISTS, SCHEMA
from deviceflow.core.omitted import Omitted
from deviceflow.errors import StoreError
from deviceflow.trail.ledger import temporary_database

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MAX_SEQ = 2**63 - 1
_PLAIN: Final = frozenset({*FIELDS} - LISTS - {"omitted"})
# Duplicates within one file are kept, as a manipulation. Files may overlap.
_SORTED: Final = """
    SELECT text, MAX(times) FROM (
        SELECT flow, seq, text, file, COUNT(*) AS times FROM line GROUP BY flow, seq, text, file
    )
    GROUP BY flow, seq, text ORDER BY flow, seq, text
"""
_INSERT = "INSERT INTO line VALUES (?, ?, ?, ?)"
_BEGIN = b'{"schema":'  # cannot occur within a value, where quotes are escaped


class Lines(NamedTuple):
    """The content of files.

    Attributes:
        events: The events, sorted by flow and number, as tuples in the order of `STORED`.
        problems: A message for each line that is not an event.
    """

    events: Iterator[tuple[Any, ...]]
    problems: Sequence[str]


@contextmanager
def read_lines(paths: Sequence[str]) -> Iterator[Lines]:
    """Read files as one trail. The events are sorted on disk.

    Identical lines in two files count once, because exports may overlap.

    Raises:
        StoreError: A file cannot be read, or there is no disk space to sort the events.
    """
    with closing(sqlite3.connect("", isolation_level=None)) as database:
        with temporary_database():
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("CREATE TABLE line (flow TEXT, seq INTEGER, text TEXT, file INTEGER)")
            problems = [
                problem
                for number, path in enumerate(paths)
                for problem in _take(database, path, number)
            ]
        yield Lines(_events(database), problems)


def _events(database: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    for text, times in database.execute(_SORTED):
        for _ in range(times):
            yield _row(json.loads(text))


def _take(database: sqlite3.Connection, path: str, number: int) -> Iterator[str]:
    name = Path(path).name
    try:
        with Path(path).open("rb") as file:
            for place, line in enumerate(file, 1):
                if event := _event(line):
                    database.execute(_INSERT, (*event, number))
                elif line.strip():
                    yield f"line {place} of {name} is not an event"
                    # A full disk may have truncated a line, with another event appended to it.
                    if event := _event(line[max(0, line.rfind(_BEGIN)) :]):
                        database.execute(_INSERT, (*event, number))
    except OSError as error:
        why = error.strerror
    else:
        return
    raise StoreError(f"{path} cannot be read: {why}.")


def _event(line: bytes) -> tuple[str, int, str] | None:
    """Return the flow, the number and the text of an event; None if the line is not an event."""
    try:
        text = line.decode().strip()
        event = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
        if event.keys() != {*FIELDS} or event["schema"] != SCHEMA:
            return None
        flow_id, seq = event["flow_id"], event["seq"]
        encode(event)  # which nobody can do with half a character
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    plain = not any(isinstance(event[name], list | dict) for name in _PLAIN)
    try:
        Omitted.of(_sorted(event["omitted"]))
    except (TypeError, ValueError):
        return None
    # A chain accepts `true` for 1, but a reader would see another event.
    truths = [name for name in FIELDS if isinstance(event[name], bool)]
    # All other types are checked where the event is hashed, as those in a database are.
    sound = plain and truths == ["in_doubt"] and type(flow_id) is str and type(seq) is int
    sound = sound and isinstance(event["mac"], str | None)
    return (flow_id, seq, text) if sound and 0 <= seq <= _MAX_SEQ else None


def _sorted(value: Any) -> Any:
    return dict(sorted(value.items())) if isinstance(value, dict) else value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)  # NaN, Infinity: no JSON, and null where it is hashed


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    event = dict(pairs)
    if len(event) != len(pairs):
        raise ValueError  # one reader would see the first of two, and another one the last
    return event


def _row(event: dict[str, Any]) -> tuple[Any, ...]:
    # As a database has it. A line may have its fields in any order, with spaces between them.
    event["omitted"] = _sorted(event["omitted"])
    try:
        text = canonical(event)
    except DAMAGED:
        text = encode({name: event[name] for name in HASHED})
    row = row_of(event, text.decode())
    return tuple(row[name] for name in STORED)
