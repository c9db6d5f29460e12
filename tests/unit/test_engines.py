"""What is cheap to check of `python -m tests.engines`, and of the how-tos that it runs."""

from __future__ import annotations

import ast
import base64
import pickle
import re
from pathlib import Path
from typing import Final

import pytest

from deviceflow.errors import LoginPending
from tests.engines.__main__ import ENGINES
from tests.engines.trial import with_decoded

HOW_TO: Final = Path(__file__).parents[2] / "docs/how-to"
NAMES: Final = sorted({engine.name for engine in ENGINES.values()})
FILES: Final = [
    pytest.param(path, id=f"{engine}-{path.name}")
    for engine in NAMES
    for path in sorted((HOW_TO / engine).glob("*.py"))
]


@pytest.mark.parametrize("path", FILES)
def test_a_recipe_is_short_and_on_its_page(path: Path) -> None:
    tree = ast.parse(path.read_text())
    told = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node)
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    code = [
        line
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if line.strip() and number not in told and not re.match(r" *(from|import) ", line)
    ]
    page = path.parent.with_suffix(".md").read_text()

    assert len(code) <= 15
    assert f"{{literalinclude}} {path.parent.name}/{path.name}" in page


@pytest.mark.parametrize("engine", NAMES)
def test_a_page_names_each_file_that_it_shows(engine: str) -> None:
    page = (HOW_TO / f"{engine}.md").read_text()
    shown = re.findall(r"^\[`(\S+\.\w+)`\].*:\n\n```\{literalinclude\} (\S+)$", page, re.MULTILINE)

    assert {f"{engine}/{name}" for name, _ in shown} == {file for _, file in shown}
    assert {file for _, file in shown} == {
        f"{engine}/{path.name}" for path in (HOW_TO / engine).glob("*.*")
    }


@pytest.mark.parametrize("before", [b"", b"a", b"ab", b"abc"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_the_search_finds_what_is_in_base64(before: bytes, encode: type) -> None:
    pending = pickle.dumps(LoginPending("Ask ?> for WXYZ-1234."))

    assert b"WXYZ-1234" in with_decoded(b'"data": ' + before + encode(pending) + b'"')
