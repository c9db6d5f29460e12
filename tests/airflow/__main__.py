"""The integration with Airflow, in a real Airflow on PostgreSQL.

python -m tests.airflow
python -m tests.airflow --part run --environments /srv/engines

Airflow has an environment of its own, which the first run makes. First come the tests that run
inside that environment, then a run with real processes of Airflow, some of which are killed.
"""

# ruff: noqa: T201  # printing is its work

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from tests.airflow import environment
from tests.airflow.engine import PARTS, Airflow
from tests.airflow.place import Place
from tests.airflow.results import Results, until
from tests.airflow.scenarios import Scenarios
from tests.engines import environments
from tests.postgres import PostgresServer

_DAGS = {"existing", "login_cleared", "login_nightly"}


def main() -> int:
    """Do as the command line says; return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.airflow")
    parser.add_argument("--environments", type=Path, default=environments.default())
    parser.add_argument("--keep", metavar="FOLDER", help="copy all files there at the end")
    parser.add_argument("--part", choices=("tests", "run"), help="by default both")
    asked = parser.parse_args()
    results = Results()
    programs = environment.prepare(asked.environments)
    version = environments.version_of("apache-airflow", programs)
    results.say(f"the environment is there, with Airflow {version}")
    if asked.part != "run":
        passed = environment.run_tests(programs)
        results.check("tests", "those inside the environment pass", passed)
    if asked.part != "tests":
        _run(programs, asked.keep, results)
    print(results.table())
    return int(results.failed)


def _run(programs: Path, keep: str | None, results: Results) -> None:
    with tempfile.TemporaryDirectory(prefix="airflow-") as folder:
        try:
            _play(programs, Path(folder), results)
        except (TimeoutError, RuntimeError, AssertionError) as trouble:
            results.check("run", "it goes through", False, trouble)
        finally:
            if keep:
                shutil.copytree(folder, keep, dirs_exist_ok=True)


def _play(programs: Path, folder: Path, results: Results) -> None:
    home = folder / "home"
    home.mkdir()
    with PostgresServer() as postgres:
        databases = {"database of Airflow": postgres.database(), "store": postgres.database()}
        place = Place(folder, databases["store"], "nightly", "cleared", "existing")
        try:
            with Airflow(
                programs,
                home,
                databases["database of Airflow"],
                Path(__file__).with_name("dags"),
                place.environment | {"AIRFLOW_CONN_OTHER": place.gate.url},
                _backend(place.gate.url),
            ) as airflow:
                parts = {name: airflow.start(name) for name in PARTS}
                airflow.wait_until_healthy()
                until(lambda: airflow.api.dags() >= _DAGS or airflow.api.import_errors(), "DAGs")
                for error in airflow.api.import_errors():
                    raise RuntimeError(error)
                results.say("Airflow runs, and knows the DAGs")
                Scenarios(airflow, parts, place, results, databases).run()
        finally:
            place.close()


def _backend(url: str) -> dict[str, str]:
    """Return Airflow's settings for the connections of deviceflow."""
    connections = {"report_api": {"grant": "existing", "host": url}}
    return {
        "workers.secrets_backend": "deviceflow.integrations.airflow.DeviceFlowBackend",
        "workers.secrets_backend_kwargs": json.dumps({"connections": connections}),
    }


if __name__ == "__main__":
    sys.exit(main())
