"""The environment of Airflow, and the tests that run inside it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

from tests.engines import environments

# Airflow's own constraints come from another host than the registry. Pinned here are Airflow, and
# what it is built on, in the versions with which the tests last passed.
_REQUIREMENTS: Final = (
    "apache-airflow==3.3.2",
    "apache-airflow-providers-http==6.3.0",
    "apache-airflow-providers-standard==1.21.0",
    "alembic==1.20.1",
    "cadwyn==7.0.0",
    "fastapi==0.136.3",
    "pendulum==3.3.0",
    "pydantic==2.14.4",
    "sqlalchemy==2.1.9",
    "starlette==1.10.0",
    "structlog==26.1.0",
    # For Airflow's database
    "asyncpg",
    "psycopg2-binary",
    # For the tests inside the environment
    "blockbuster",
    "hypothesis",
    "jsonschema-rs",
    "pytest",
)
_HERE: Final = Path(__file__).parent
_TREE: Final = {"PYTHONPATH": str(environments.ROOT / "src")}


def prepare(folder: Path) -> Path:
    """Return the folder of Airflow's programs, in an environment that is made first if need be."""
    extras = "airflow,oauth,postgres,server"
    return environments.programs_of("airflow", _REQUIREMENTS, folder, extras)


def variables(programs: Path) -> dict[str, str]:
    """Return the environment variables for a program of Airflow, which uses what is in the tree."""
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    return os.environ | _TREE | {"PATH": path}


def run_tests(programs: Path) -> bool:
    """Run the tests that import Airflow; return whether they pass."""
    # Airflow warns of itself.
    options = ["-q", "-W", "default", "--disable-warnings", "-p", "no:cacheprovider", str(_HERE)]
    command = [str(programs / "python"), "-m", "pytest", *options]
    done = subprocess.run(command, cwd=environments.ROOT, env=variables(programs), check=False)
    return done.returncode == 0
