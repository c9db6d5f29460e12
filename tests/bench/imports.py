"""Importing `deviceflow.auth`, and asking the command for help, against importing `requests`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.size import size
from tests.bench.table import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = size(25, 2)
COMMAND = str(Path(sys.executable).with_name("deviceflow"))


def _seconds_inside(module: str) -> float:
    """Return what the import takes in a fresh interpreter that has done nothing else."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    return float(subprocess.check_output([sys.executable, "-c", code]))


def _wall(*args: str) -> float:
    """Return what a whole process takes, the interpreter's own start included."""
    begun = time.perf_counter()
    subprocess.run(args, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def rows() -> Iterator[Row]:
    ours, theirs, command, process, bare = [], [], [], [], []
    for _ in range(ROUNDS):
        ours.append(_seconds_inside("deviceflow.auth"))
        theirs.append(_seconds_inside("requests"))
        command.append(_wall(sys.executable, COMMAND, "--help"))
        process.append(_wall(sys.executable, "-c", "import requests"))
        bare.append(_wall(sys.executable, "-c", "pass"))
    ms = [1000 * statistics.median(times) for times in (ours, theirs, command, process, bare)]
    rich = "with" if find_spec("rich") else "WITHOUT"
    yield Row(f"import deviceflow.auth / import requests ({rich} rich)", ms[0], ms[1], 0.10, "ms")
    yield Row("deviceflow --help / python -c 'import requests'", ms[2], ms[3], 0.30, "ms")
    yield Row(
        "  the same, less the interpreter's own start", ms[2] - ms[4], ms[3] - ms[4], 0.30, "ms"
    )
