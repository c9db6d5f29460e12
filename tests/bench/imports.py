"""Importing `deviceflow.auth`, and asking the command for help, against importing `requests`."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tests.bench.size import size
from tests.bench.table import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = size(25, 2)
COMMAND = str(Path(sys.executable).with_name("deviceflow"))


@contextmanager
def compiled() -> Iterator[dict[str, str]]:
    """Give an environment in which all modules are kept as bytecode, as pip installs them."""
    with TemporaryDirectory() as cache:
        environ = os.environ | {"PYTHONPYCACHEPREFIX": cache}
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        yield environ


def _seconds_inside(module: str, environ: dict[str, str]) -> float:
    """Return what the import takes in a fresh interpreter that has done nothing else."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    return float(subprocess.check_output([sys.executable, "-c", code], env=environ))


def wall(environ: dict[str, str], *args: str) -> float:
    """Return what a whole process takes, the interpreter's own start included."""
    begun = time.perf_counter()
    subprocess.run(args, env=environ, stdout=subprocess.DEVNULL, check=False)
    return time.perf_counter() - begun


def rows() -> Iterator[Row]:
    with compiled() as environ:
        rounds = [
            (
                _seconds_inside("deviceflow.auth", environ),
                _seconds_inside("requests", environ),
                wall(environ, sys.executable, COMMAND, "--help"),
                wall(environ, sys.executable, "-c", "import requests"),
                wall(environ, sys.executable, "-c", "pass"),
            )
            for _ in range(1 + ROUNDS)  # the first one keeps the bytecode
        ]
    ms = [1000 * statistics.median(times) for times in zip(*rounds[1:], strict=True)]
    rich = "with" if find_spec("rich") else "WITHOUT"
    yield Row(f"import deviceflow.auth / import requests ({rich} rich)", ms[0], ms[1], 0.10, "ms")
    yield Row("deviceflow --help / python -c 'import requests'", ms[2], ms[3], 0.30, "ms")
    yield Row(
        "  the same, less the interpreter's own start", ms[2] - ms[4], ms[3] - ms[4], 0.30, "ms"
    )
