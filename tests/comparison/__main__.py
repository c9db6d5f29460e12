"""Run the comparison, and print it as Markdown: `python -m tests.comparison [--write PAGE]`.

Everything happens in real time, each login in a process of its own, many at once.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tests.comparison.outcome import Outcome
from tests.comparison.scenarios import SCENARIOS, Scenario
from tests.comparison.server import Certificates, ScriptedServer
from tests.comparison.table import LIBRARIES, Measured, Results, put, render

LIMIT: Final = 40.0
"""Seconds after which a login counts as one that does not end."""

AT_ONCE: Final = 15
"""How many logins go on at the same time, unless the command line says otherwise."""


def measure(scenario: Scenario, library: str, certificates: Certificates) -> Measured:
    """Let one library log in at one server."""
    environment = os.environ | {"REQUESTS_CA_BUNDLE": str(certificates.authority)}
    with ScriptedServer(scenario, certificates) as server:
        command = [sys.executable, "-m", "tests.comparison.drive", library, *server.endpoints]
        try:
            done = subprocess.run(
                command,
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
                timeout=LIMIT,
                check=True,
            )
        except subprocess.TimeoutExpired:
            return Measured(None, server.record)
    return Measured(Outcome.read(done.stdout.splitlines()[-1]), server.record)


def measure_all(at_once: int = AT_ONCE) -> Results:
    """Let every library log in at every server."""
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(at_once) as pool:
        certificates = Certificates(Path(directory))
        # First the one with the shortest life: who ignores that runs into the limit.
        ordered = sorted(SCENARIOS, key=lambda one: one.lifetime)
        pairs = [(one, library) for one in ordered for library in LIBRARIES]
        measured = pool.map(lambda pair: measure(pair[0], pair[1], certificates), pairs)
        return {
            (one.name, library): done for (one, library), done in zip(pairs, measured, strict=True)
        }


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(prog="python -m tests.comparison", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put it into the page")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="less for a busy machine")
    asked = parser.parse_args()
    page: Path | None = asked.write
    text = render(SCENARIOS, measure_all(asked.at_once), LIMIT)
    if page is None:
        print(text)
    else:
        put(page, text)


if __name__ == "__main__":
    main()
