"""Moves of many flows as one SQLite statement.

The module `sqlite3` lets go of the interpreter's lock at each statement. A thread that runs one
after another beside a busy event loop must wait for the lock each time, for up to 5 ms. So the
moves of a group are rows that are inserted into a temporary view. A trigger moves the flow of each,
and adds the event. SQLite does all that in one statement, which is a transaction of its own.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from deviceflow.stores.sql.foreseen import EVENT, MOVES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from deviceflow.stores.sql.foreseen import Foreseen
    from deviceflow.stores.sql.statements import Statements

_FAILED: Final = "SELECT RAISE(ABORT, 'A move changed nothing.')"


class Moves:
    """Words the moves of many flows as one statement.

    Args:
        statements: The statements by which a flow is moved.
    """

    def __init__(self, statements: Statements) -> None:
        worded = [_worded(statements, name, "v") for name in MOVES]
        self._width = max(len(names) for _, names in worded)
        event, event_names = _worded(statements, EVENT, "e")
        into, _, added = event.partition(" VALUES ")
        event = f"{into} SELECT {added.strip('() ')} WHERE NEW.e0 IS NOT NULL"
        columns = ["move", *(f"v{n}" for n in range(self._width))]
        columns += [f"e{n}" for n in range(len(event_names))]
        nothing = ", ".join(["NULL"] * len(columns))
        self._setup = [f"CREATE TEMP VIEW moves ({', '.join(columns)}) AS SELECT {nothing}"]
        self._values_of: dict[str, tuple[int, Callable[[Any], Any], tuple[None, ...]]] = {}
        for number, (text, names) in enumerate(worded):
            self._setup.append(
                f"CREATE TEMP TRIGGER {MOVES[number]} INSTEAD OF INSERT ON moves"
                f" WHEN NEW.move = {number} BEGIN {text}; {_FAILED} WHERE changes() <> 1;"
                f" {event}; {_FAILED} WHERE changes() <> (NEW.e0 IS NOT NULL); END"
            )
            padding = (None,) * (self._width - len(names))
            self._values_of[MOVES[number]] = number, itemgetter(*names), padding
        self._event_of = itemgetter(*event_names)
        self._no_event = (None,) * len(event_names)
        self._row = f"({', '.join('?' * len(columns))})"
        self._no_row = (None,) * len(columns)
        self._texts: dict[int, str] = {}

    def set_up(self, connection: sqlite3.Connection) -> None:
        """Make a connection understand the statement."""
        for text in self._setup:
            connection.execute(text)

    def statement(self, moves: Sequence[Foreseen]) -> tuple[str, list[Any]]:
        """Return a statement that makes these moves in their order, or none, and its values.

        It raises `sqlite3.IntegrityError` if one of them does not change its row.
        """
        values: list[Any] = []
        for move in moves:
            values += self._values(move)
        # Of a few sizes only: SQLite compiles each of them once.
        size = 1 << (len(moves) - 1).bit_length()
        values += self._no_row * (size - len(moves))
        text = self._texts.get(size)
        if text is None:
            text = f"INSERT INTO moves VALUES {', '.join([self._row] * size)}"  # noqa: S608  # ours
            self._texts[size] = text
        return text, values

    def _values(self, move: Foreseen) -> tuple[Any, ...]:
        number, values_of, padding = self._values_of[move.move]
        event = self._no_event if move.event is None else self._event_of(move.event)
        return (number, *values_of(move.values), *padding, *event)


def _worded(statements: Statements, name: str, prefix: str) -> tuple[str, list[str]]:
    """Return a statement for a trigger, whose row has the values, and their names in its order."""
    places: dict[str, int] = {}

    def word(value: str) -> str:
        return f"NEW.{prefix}{places.setdefault(value, len(places))}"

    return statements.reworded(name, word), [*places]
