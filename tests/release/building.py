"""Build the files twice, from the last commit, and see that they are the same bytes."""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path
from typing import Final

from tests.release import environments
from tests.release.running import FailedError, run

ROOT: Final = Path(__file__).parents[2]

PINNED: Final = ".github/requirements-build.txt"
"""What builds, by its hashes: here, in the workflow that publishes, and where somebody checks."""

LITTER: Final = (
    ".coverage",
    ".env",
    ".mypy_cache/3.11/cache.json",
    "artifacts/trace.json",
    "build/lib/deviceflow/old.py",
    "dist/deviceflow-0.0.1-py3-none-any.whl",
    "docs/_build/index.html",
    "src/deviceflow/__pycache__/auth.cpython-311.pyc",
    "tests/unit/__pycache__/test_auth.cpython-311.pyc",
)
"""What work leaves behind in a tree."""


def committed_at(commit: str) -> str:
    """Return the time of a commit, as `SOURCE_DATE_EPOCH` has it."""
    return run("git", "show", "--no-patch", "--format=%ct", commit, cwd=ROOT).strip()


def build(commit: str, folder: Path) -> tuple[Path, Path]:
    """Return an sdist and a wheel of a commit.

    The second build begins with a tree that work has littered, under another path, at another time,
    and makes the wheel of the tree instead of the sdist.

    Raises:
        FailedError: The builds differ.
    """
    made = []
    python = _pinned(commit, folder)
    for name, order, litter in (("one", (), ()), ("two", ("--sdist", "--wheel"), LITTER)):
        tree = folder / name / "tree"
        _export(commit, tree)
        for left in litter:
            file = tree / left
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("left behind\n")
        out = folder / name / "dist"
        epoch = committed_at(commit)
        command = (python, "-m", "build", "--no-isolation", "--outdir", out, *order, tree)
        run(*command, variables={"SOURCE_DATE_EPOCH": epoch})
        made.append(sorted(out.iterdir()))
    first, second = made
    if [file.name for file in first] != [file.name for file in second] or len(first) != 2:
        raise FailedError(f"The builds made other files: {first}, {second}.")
    for one, other in zip(first, second, strict=True):
        if one.read_bytes() != other.read_bytes():
            raise FailedError(f"The builds differ: {one}, {other}.")
    wheel, sdist = sorted(first, key=lambda file: file.suffix != ".whl")
    return sdist, wheel


def _pinned(commit: str, folder: Path) -> Path:
    """Return the Python of an environment that has what the commit pins."""
    pins = folder / "requirements.txt"
    pins.write_text(run("git", "show", f"{commit}:{PINNED}", cwd=ROOT))
    options = ("--require-hashes", "-r", pins)
    return environments.create(Path(sys.executable), folder / "builder", *options)


def _export(commit: str, tree: Path) -> None:
    packed = tree.with_suffix(".tar")
    tree.mkdir(parents=True)
    run("git", "archive", "--output", packed, commit, cwd=ROOT)
    with tarfile.open(packed) as archive:
        archive.extractall(tree, filter="data")
