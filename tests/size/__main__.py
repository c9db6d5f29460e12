"""Count the lines of code of each package, and check them against a budget: `python -m tests.size`.

Blank lines, comments and docstrings do not count.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path
from typing import Final

import deviceflow

PACKAGE: Final = Path(deviceflow.__file__).parent
MIDDLE: Final = ("client", "core", "stores", "worker", "transports")
"""The packages between the faces and the files, which may not grow."""

BUDGET: Final = 14_060
"""The most lines that these have together."""

_NO_CODE: Final = {
    *(tokenize.COMMENT, tokenize.DEDENT, tokenize.ENDMARKER),
    *(tokenize.INDENT, tokenize.NEWLINE, tokenize.NL),
}


def lines_of(path: Path) -> int:
    """Return how many lines of a file have code."""
    text = path.read_text()
    code = set[int]()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _NO_CODE:
            code.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            continue
        if isinstance(node.value.value, str):
            code.difference_update(range(node.lineno, (node.end_lineno or 0) + 1))
    return len(code)


def main() -> int:
    """Print the sizes; return 1 if the budget is exceeded."""
    sizes = dict[str, int]()
    for path in PACKAGE.rglob("*.py"):
        package = path.relative_to(PACKAGE).parts[0]
        sizes[package] = sizes.get(package, 0) + lines_of(path)
    for package, size in sorted(sizes.items(), key=lambda item: -item[1]):
        print(f"{size:7,}  {package}")
    middle = sum(sizes[package] for package in MIDDLE)
    print(f"{sum(sizes.values()):7,}  in all")
    print(f"{middle:7,}  of {BUDGET:,}: {', '.join(MIDDLE)}")
    return int(middle > BUDGET)


if __name__ == "__main__":
    sys.exit(main())
