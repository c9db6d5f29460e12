"""The diagram is the table, drawn."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from deviceflow.core.diagram import BEGIN, END, FORMATS, dot, mermaid, within
from deviceflow.core.machine import State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deviceflow.core.machine import Trigger


def arrows(design: Mapping[Trigger, Mapping[State, State]]) -> set[tuple[str, str, str]]:
    return {
        (source, dest, trigger)
        for trigger, leads in design.items()
        for source, dest in leads.items()
    }


def test_mermaid_draws_each_transition(
    design: Mapping[Trigger, Mapping[State, State]],
) -> None:
    ids = {state.name.lower(): state for state in State}
    drawn = {
        (ids[source], ids[dest], trigger)
        for source, dest, triggers in re.findall(
            r"^    (\w+) --> (\w+): (.+)$", mermaid(), re.MULTILINE
        )
        for trigger in triggers.split(", ")
    }

    assert drawn == arrows(design)


def test_mermaid_draws_each_pair_of_states_once() -> None:
    pairs = re.findall(r"^    (\w+ --> \w+):", mermaid(), re.MULTILINE)

    assert len(pairs) == len(set(pairs))


def test_mermaid_names_each_state_and_its_beginnings_and_ends() -> None:
    lines = mermaid().splitlines()

    assert lines[0] == "stateDiagram-v2"
    assert [line for line in lines if "[*]" in line] == [
        "    [*] --> init",
        "    authorized --> [*]",
        "    expired --> [*]",
        "    failed --> [*]",
    ]
    for state in State:
        assert f"    {state.name.lower()}: {state}" in lines


def test_dot_draws_each_transition(design: Mapping[Trigger, Mapping[State, State]]) -> None:
    found = re.findall(r'^    "(.+)" -> "(.+)" \[label="(.+)"\];$', dot(), re.MULTILINE)
    drawn = {(a, b, trigger) for a, b, triggers in found for trigger in triggers.split(", ")}

    assert drawn == arrows(design)


def test_dot_frames_the_ends_twice() -> None:
    assert re.findall(r'^    "(.+)" \[peripheries=2\];$', dot(), re.MULTILINE) == [
        "authorized",
        "expired",
        "failed",
    ]
    assert dot().startswith("digraph deviceflow {\n")
    assert dot().endswith("\n}")


def test_formats_are_named() -> None:
    assert {name: draw() for name, draw in FORMATS.items()} == {"mermaid": mermaid(), "dot": dot()}


def test_diagram_is_put_between_its_marks() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"

    current = f"before\n{BEGIN}\n```mermaid\n{mermaid()}\n```\n{END}\nafter\n"
    assert within(page) == current
    assert within(current) == current


def test_page_without_marks_is_no_place_for_it() -> None:
    assert within("a page") is None
    assert within(f"begun {BEGIN} and not ended") is None
    assert within(f"ended {END} and not begun") is None
