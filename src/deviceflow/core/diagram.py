"""The machine's table, drawn: for the documentation, and checked there to be current."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deviceflow.core.machine import ENDS, INIT, TABLE, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BEGIN: Final = "<!-- state diagram: begin -->"
END: Final = "<!-- state diagram: end -->"


def _arrows() -> Iterator[tuple[State, State, str]]:
    """Yield each pair of states with the triggers between them, in the table's order."""
    labels: dict[tuple[State, State], list[str]] = {}
    for row in TABLE:
        for source in row.sources:
            labels.setdefault((source, row.dest), []).append(row.trigger)
    for (source, dest), triggers in labels.items():
        yield source, dest, ", ".join(triggers)


def mermaid() -> str:
    """Return the diagram as Mermaid text."""
    # Mermaid takes no dash in a state's id.
    ids = {state: state.name.lower() for state in State}
    lines = ["stateDiagram-v2", "    direction LR"]
    lines += [f"    {ids[state]}: {state}" for state in State]
    lines += [f"    [*] --> {ids[INIT]}"]
    lines += [f"    {ids[a]} --> {ids[b]}: {label}" for a, b, label in _arrows()]
    lines += [f"    {ids[state]} --> [*]" for state in State if state in ENDS]
    return "\n".join(lines)


def dot() -> str:
    """Return the diagram as Graphviz text."""
    lines = ["digraph deviceflow {", "    rankdir=LR; node [shape=box, style=rounded];"]
    lines += [f'    "{state}" [peripheries=2];' for state in State if state in ENDS]
    lines += [f'    "{a}" -> "{b}" [label="{label}"];' for a, b, label in _arrows()]
    return "\n".join([*lines, "}"])


FORMATS: Final[dict[str, Callable[[], str]]] = {"mermaid": mermaid, "dot": dot}


def within(page: str) -> str | None:
    """Return `page`, a Markdown text, with the current diagram between its marks.

    Returns:
        None where the page has no such marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        return None
    return f"{before}{BEGIN}\n```mermaid\n{mermaid()}\n```\n{END}{after}"
