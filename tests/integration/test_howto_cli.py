"""The tool of the how-to, by the tests that the how-to has for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pytest

pytest_plugins = ("pytester",)

TOOL: Final = Path(__file__).parents[2] / "docs/how-to/cli"


def test_the_how_tos_tests_pass(pytester: pytest.Pytester) -> None:
    for file in TOOL.glob("*.py"):
        pytester.path.joinpath(file.name).write_text(file.read_text())

    result = pytester.runpytest_inprocess(
        *("-p", "no:deviceflow", "-p", "deviceflow.testing.plugin", "-p", "no:randomly")
    )

    result.assert_outcomes(passed=4)
