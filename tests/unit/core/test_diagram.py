"""The diagrams are the table, drawn."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from deviceflow.core.diagram import DRAWINGS, FORMATS, GRANT, HANDOVER, LOGIN, dot, mermaid, within

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deviceflow.core.diagram import Drawing

DRAWN = pytest.mark.parametrize("drawing", DRAWINGS.values(), ids=[*DRAWINGS])


@pytest.fixture
def arrows(
    drawing: Drawing,
    design: Mapping[str, Mapping[str, str]],
    handover_design: Mapping[str, Mapping[str, str]],
    grant_design: Mapping[str, Mapping[str, str]],
) -> set[tuple[str, str, str]]:
    machines = {LOGIN: design, HANDOVER: handover_design, GRANT: grant_design}
    machine = machines[drawing]
    return {
        (source, dest, action)
        for action, leads in machine.items()
        for source, dest in leads.items()
    }


@DRAWN
def test_mermaid_draws_each_transition(drawing: Drawing, arrows: set[tuple[str, str, str]]) -> None:
    ids = {state.name.lower(): state for state in drawing.states}
    drawn = {
        (ids[source], ids[dest], action)
        for source, dest, actions in re.findall(
            r"^    (\w+) --> (\w+): (.+)$", mermaid(drawing), re.MULTILINE
        )
        for action in actions.split(", ")
    }

    assert drawn == arrows


@DRAWN
def test_mermaid_draws_each_pair_of_states_once(drawing: Drawing) -> None:
    pairs = re.findall(r"^    (\w+ --> \w+):", mermaid(drawing), re.MULTILINE)

    assert pairs
    assert len(pairs) == len(set(pairs))


@pytest.mark.parametrize(
    ("drawing", "begin", "ends"),
    [
        (LOGIN, "init", ["authorized", "expired", "failed"]),
        (HANDOVER, "none", ["acknowledged", "purged"]),
        (GRANT, "wanted", []),
    ],
)
def test_mermaid_names_each_state_and_its_beginnings_and_ends(
    drawing: Drawing, begin: str, ends: list[str]
) -> None:
    lines = mermaid(drawing).splitlines()

    assert lines[0] == "stateDiagram-v2"
    assert [line for line in lines if "[*]" in line] == [
        f"    [*] --> {begin}",
        *(f"    {end} --> [*]" for end in ends),
    ]
    for state in drawing.states:
        assert f"    {state.name.lower()}: {state}" in lines


@DRAWN
def test_dot_draws_each_transition(drawing: Drawing, arrows: set[tuple[str, str, str]]) -> None:
    found = re.findall(r'^    "(.+)" -> "(.+)" \[label="(.+)"\];$', dot(drawing), re.MULTILINE)
    drawn = {(a, b, action) for a, b, actions in found for action in actions.split(", ")}

    assert drawn == arrows


@DRAWN
def test_dot_frames_the_ends_twice(drawing: Drawing) -> None:
    framed = re.findall(r'^    "(.+)" \[peripheries=2\];$', dot(drawing), re.MULTILINE)

    assert {*framed} == drawing.ends
    assert dot(drawing).startswith(f'digraph "{drawing.name}" {{\n')
    assert dot(drawing).endswith("\n}")


def test_formats_are_named() -> None:
    assert {"mermaid": mermaid, "dot": dot} == FORMATS


def test_each_diagram_is_put_between_its_own_marks() -> None:
    (begin, end), (begin_too, end_too) = LOGIN.marks, HANDOVER.marks
    page = f"before\n{begin}\nold\n{end}\nbetween\n{begin_too}{end_too}\nafter\n"

    current = (
        f"before\n{begin}\n```mermaid\n{mermaid(LOGIN)}\n```\n{end}\nbetween\n"
        f"{begin_too}\n```mermaid\n{mermaid(HANDOVER)}\n```\n{end_too}\nafter\n"
    )
    assert within(page) == current
    assert within(current) == current


@DRAWN
def test_page_may_have_the_marks_of_one_diagram_only(drawing: Drawing) -> None:
    begin, end = drawing.marks

    drawn = within(f"{begin}{end}")

    assert drawn == f"{begin}\n```mermaid\n{mermaid(drawing)}\n```\n{end}"


@DRAWN
def test_page_without_marks_is_no_place_for_it(drawing: Drawing) -> None:
    begin, end = drawing.marks
    assert within("a page") is None
    assert within(f"begun {begin} and not ended") is None
    assert within(f"ended {end} and not begun") is None
