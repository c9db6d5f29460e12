"""A test that is skipped says so on a developer's machine, and fails in CI."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SKIPPED = {
    "in the test": "import pytest\ndef test_it():\n    pytest.skip('no broker')",
    "by a mark": "import pytest\n@pytest.mark.skip(reason='no broker')\ndef test_it(): ...",
    "in a fixture": (
        "import pytest\n@pytest.fixture\ndef broker():\n    pytest.skip('no broker')\n"
        "def test_it(broker): ..."
    ),
    "the whole module": "import pytest\npytest.skip('no broker', allow_module_level=True)",
}


def run(folder: Path, code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(code)
    bare = {name: value for name, value in os.environ.items() if name != "CI"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"],
        cwd=folder,
        env={**bare, **variables, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
        text=True,
    )


@pytest.mark.parametrize("how", SKIPPED)
def test_a_skipped_test_fails_in_ci_only(how: str, tmp_path: Path) -> None:
    assert "1 skipped" in run(tmp_path, SKIPPED[how]).stdout

    in_ci = run(tmp_path, SKIPPED[how], CI="true")
    assert in_ci.returncode != 0
    assert "In CI, no test may be skipped" in in_ci.stdout
    assert "no broker" in in_ci.stdout


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    code = "import pytest\n@pytest.mark.xfail\ndef test_it():\n    assert False"

    done = run(tmp_path, code, CI="true")

    assert "1 xfailed" in done.stdout
    assert done.returncode == 0
