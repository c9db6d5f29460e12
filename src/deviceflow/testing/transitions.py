"""What the library has logged, for a test to compare with what it expects."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from deviceflow.audit import log

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Event = Mapping[str, Any]


class Transitions:
    """The transitions that were logged, in order, as events of `deviceflow.audit/1`.

    It sees what this process logs, whichever pipeline the program has configured.

    Attributes:
        events: The events.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []

    @property
    def actions(self) -> Column:
        """The actions, such as `["issue_code", "poll", …]`."""
        return self._column("action")

    @property
    def states(self) -> Column:
        """The state after each transition."""
        return self._column("to")

    @property
    def outcomes(self) -> Column:
        """The outcome of each, such as `pending`."""
        return self._column("outcome")

    def of(self, flow_id: str) -> Transitions:
        """Return the transitions of one login or grant.

        Args:
            flow_id: Its id.
        """
        found = Transitions()
        found.events = [event for event in self.events if event["flow_id"] == flow_id]
        return found

    def clear(self) -> None:
        """Forget what was logged so far."""
        self.events.clear()

    def __len__(self) -> int:
        return len(self.events)

    def __getitem__(self, number: int) -> Event:
        return self.events[number]

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __repr__(self) -> str:
        return f"<Transitions {', '.join(self.actions)}>"

    def _column(self, name: str) -> Column:
        return Column(name, list(self.events))


class Column(list[str]):
    """One field of each transition. It knows the rest, to explain why it is not as expected."""

    def __init__(self, name: str, events: list[Event]) -> None:
        super().__init__(str(event[name]) for event in events)
        self.name = name
        self.events = events


@contextmanager
def watching() -> Iterator[Transitions]:
    """Keep what is logged until the end of the block."""
    seen = Transitions()
    emit = log.emit

    def watch(name: str, fields: Event, *level: int) -> None:
        if name == log.TRANSITION:
            seen.events.append(dict(fields))
        emit(name, fields, *level)

    log.emit = watch  # type: ignore[assignment]  # it takes the same arguments
    try:
        yield seen
    finally:
        log.emit = emit


def explain(came: Column, expected: list[str]) -> list[str]:
    """Say where a column differs from what was expected: one line, then both in full.

    Args:
        came: What was logged.
        expected: What the test expected.
    """
    rows = list(zip_longest(came, expected, came.events))
    number = next((n for n, (one, other, _) in enumerate(rows) if one != other), len(rows))
    what, wanted = came[number : number + 1], expected[number : number + 1]
    first = (
        f"{came.name} {number + 1}: expected {_quoted(wanted, 'no more')},"
        f" and {_quoted(what, 'none')} came"
    )
    lines = [first, "", "   expected             came"]
    for place, (one, other, event) in enumerate(rows):
        mark = ">" if place == number else " "
        shown = "-" if one is None else _described(one, event)
        lines.append(f"{mark}  {other or '-':<20} {shown}")
    return lines


def _quoted(values: list[str], nothing: str) -> str:
    return repr(values[0]) if values else nothing


def _described(value: str, event: Event) -> str:
    facts = [f"{event['from']} → {event['to']}"] if event.get("from") else []
    facts += [str(event[name]) for name in ("reason", "detail") if event.get(name)]
    facts += [f"status {event['http_status']}"] if event.get("http_status") else []
    facts += [f"wait {event['wait']:g} s"] if event.get("wait") else []
    return f"{value:<20} {', '.join(facts)}".rstrip()
