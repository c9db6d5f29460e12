"""The how-tos of Prefect, Dagster, DBOS and Temporal, run by the engines themselves.

python -m tests.engines
python -m tests.engines prefect dagster --environments /srv/engines

Each engine has an environment of its own, which pip makes at the first run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Final

from deviceflow.core.encryption import generate_key
from deviceflow.server import LocalServer, Settings
from tests.engines import environments
from tests.engines.dagster import Dagster, DagsterSensor
from tests.engines.dbos import Dbos
from tests.engines.prefect import Prefect
from tests.engines.temporal import Temporal
from tests.engines.trial import LIFETIME, Engine, Trial

_ALL: Final = (Dagster, DagsterSensor, Dbos, Prefect, Temporal)
ENGINES: Final[dict[str, type[Engine]]] = {one.title or one.name: one for one in _ALL}


def main() -> int:
    """Do as the command line says; return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.engines")
    parser.add_argument("engines", nargs="*", choices=[[], *ENGINES], metavar="ENGINE")
    parser.add_argument("--environments", type=Path, default=environments.default())
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="copy all files there")
    asked = parser.parse_args()
    wrong = [problem for name in asked.engines or ENGINES for problem in _tried(name, asked)]
    for problem in wrong:
        print(problem, file=sys.stderr)
    return int(bool(wrong))


def _tried(name: str, asked: argparse.Namespace) -> list[str]:
    engine = ENGINES[name]()
    programs = environments.programs_of(engine.name, engine.requirements, asked.environments)
    print(f"{name}: {environments.version_of(engine.package, programs)}", flush=True)
    os.environ["DEVICEFLOW_KEYS"] = generate_key().reveal()
    begun = time.monotonic()
    settings = Settings(control=True, interval=1, access_token_lifetime=LIFETIME)
    with tempfile.TemporaryDirectory(prefix="engines-") as folder, LocalServer(settings) as server:
        trial = Trial(engine, Path(folder), server, programs)
        try:
            trial.run()
        except Exception:  # noqa: BLE001  # the other engines are tried too
            traceback.print_exc()
            trial.problems.append("it did not come to its end")
        finally:
            trial.close()
            if asked.keep:
                shutil.copytree(folder, asked.keep / name, dirs_exist_ok=True)
    print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)
    return [f"{name}: {problem}" for problem in trial.problems]


if __name__ == "__main__":
    sys.exit(main())
