"""The answers to what people mistype are those that a person has read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.mistakes import answered, commands, read

if TYPE_CHECKING:
    from pathlib import Path

MISTAKES = 120


def test_answers_to_mistakes_are_those_of_the_table(tmp_path: Path) -> None:
    lines = read()

    assert len({*commands(lines)}) >= MISTAKES
    assert answered(tmp_path) == lines, (
        "To write them anew, and read them: python -m tests.mistakes"
    )


def test_no_answer_is_a_traceback_or_in_pythons_spelling() -> None:
    for line in read():
        if not line.startswith("$ "):
            assert "Traceback" not in line
            assert "='" not in line
