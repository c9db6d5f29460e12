"""The machines, drawn from the table of actions: for the documentation, and checked there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from deviceflow.core.actions import GRANT_TRIGGERS, HANDOVER_TRIGGERS, LOGIN_TRIGGERS
from deviceflow.core.states import ACKNOWLEDGED, ENDS, INIT, NONE, PURGED, WANTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from collections.abc import Set as AbstractSet
    from enum import StrEnum


class Drawing(NamedTuple):
    """What is drawn of a machine.

    Attributes:
        name: The machine's name.
        begin: The state that it begins in.
        ends: The states that are drawn as ends.
        moves: Each action, the state that it leads from, and that which it leads to.
    """

    name: str
    begin: StrEnum
    ends: AbstractSet[StrEnum]
    moves: tuple[tuple[str, StrEnum, StrEnum], ...]

    def arrows(self) -> Iterator[tuple[StrEnum, StrEnum, str]]:
        """Yield each pair of states with the actions between them, in the table's order."""
        labels: dict[tuple[StrEnum, StrEnum], list[str]] = {}
        for action, source, dest in self.moves:
            labels.setdefault((source, dest), []).append(action)
        for (source, dest), actions in labels.items():
            yield source, dest, ", ".join(actions)

    @property
    def states(self) -> list[StrEnum]:
        """The machine's states, in their order."""
        return [*type(self.begin)]

    @property
    def marks(self) -> tuple[str, str]:
        """The lines of a Markdown page between which the diagram belongs."""
        return f"<!-- {self.name} diagram: begin -->", f"<!-- {self.name} diagram: end -->"


LOGIN: Final = Drawing(
    "login",
    INIT,
    ENDS,
    tuple((name, *move) for name in LOGIN_TRIGGERS for move in name.login.items()),
)
HANDOVER: Final = Drawing(
    "hand-over",
    NONE,
    frozenset({ACKNOWLEDGED, PURGED}),
    tuple((name, *move) for name in HANDOVER_TRIGGERS for move in name.handover.items()),
)
GRANT: Final = Drawing(
    "grant",
    WANTED,
    frozenset(),
    tuple((name, *move) for name in GRANT_TRIGGERS for move in name.grant.items()),
)
DRAWINGS: Final = {drawing.name: drawing for drawing in (LOGIN, HANDOVER, GRANT)}


def mermaid(drawing: Drawing = LOGIN) -> str:
    """Return the diagram as Mermaid text."""
    # Mermaid takes no dash in a state's id.
    ids = {state: state.name.lower() for state in drawing.states}
    lines = ["stateDiagram-v2", "    direction LR"]
    lines += [f"    {ids[state]}: {state}" for state in drawing.states]
    lines += [f"    [*] --> {ids[drawing.begin]}"]
    lines += [f"    {ids[a]} --> {ids[b]}: {label}" for a, b, label in drawing.arrows()]
    lines += [f"    {ids[state]} --> [*]" for state in drawing.states if state in drawing.ends]
    return "\n".join(lines)


def dot(drawing: Drawing = LOGIN) -> str:
    """Return the diagram as Graphviz text."""
    lines = [f'digraph "{drawing.name}" {{', "    rankdir=LR; node [shape=box, style=rounded];"]
    ends = [state for state in drawing.states if state in drawing.ends]
    lines += [f'    "{state}" [peripheries=2];' for state in ends]
    lines += [f'    "{a}" -> "{b}" [label="{label}"];' for a, b, label in drawing.arrows()]
    return "\n".join([*lines, "}"])


FORMATS: Final[dict[str, Callable[[Drawing], str]]] = {"mermaid": mermaid, "dot": dot}


def within(page: str) -> str | None:
    """Return `page`, a Markdown text, with the current diagrams between their marks.

    Returns:
        None where the page has no such marks.
    """
    found = False
    for drawing in DRAWINGS.values():
        begin, end = drawing.marks
        before, begun, rest = page.partition(begin)
        _, ended, after = rest.partition(end)
        if begun and ended:
            page = f"{before}{begin}\n```mermaid\n{mermaid(drawing)}\n```\n{end}{after}"
            found = True
    return page if found else None
