"""The tasks of the how-tos for Dramatiq and Procrastinate, run by their own workers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, LiteralString

import psycopg
import pytest
import requests

from deviceflow import Client, OAuth
from deviceflow.core.encryption import generate_key
from deviceflow.server import LocalServer, Settings
from tests.integration.celery_brokers import PATIENCE, Redis, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

HOW_TO: Final = Path(__file__).parents[2] / "docs/how-to"
DONE: Final = "made with the token of generation 1"


class Place:
    """A folder with the engine's file of the page, and a worker that runs it."""

    def __init__(self, engine: str, folder: Path, server: LocalServer, **settings: str) -> None:
        shutil.copy(HOW_TO / engine / "tasks.py", folder)
        self.folder, self.server = folder, server
        self.environment = settings | {
            "DEVICEFLOW_KEYS": os.environ["DEVICEFLOW_KEYS"],
            "HOME": str(folder),
            "ISSUER": server.url,
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PYTHONUNBUFFERED": "1",
        }
        self.robot = OAuth(issuer=server.url, client_id="robot", scopes="read offline_access")

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def run(self, *command: str) -> None:
        """Run a module of Python to its end."""
        done = subprocess.run(
            [sys.executable, *command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    @contextmanager
    def worker(self, *command: str) -> Iterator[None]:
        with (self.folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE)

    def approve(self, code: str | None) -> None:
        url = f"{self.server.url}/control/approve"
        requests.post(url, json={"user_code": code}, timeout=PATIENCE).raise_for_status()


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with LocalServer(Settings(control=True, interval=1)) as server:
        yield server


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVICEFLOW_KEYS", generate_key().reveal())


def token_of(client: Client) -> str:
    return client.get_token("report").access_token.reveal()


def test_dramatiq_runs_the_actor_again_until_somebody_has_logged_in(
    tmp_path: Path, server: LocalServer
) -> None:
    store = f"sqlite:///{tmp_path / 'grants.db'}"
    with Redis() as redis, Client(store) as client:
        place = Place("dramatiq", tmp_path, server, DEVICEFLOW_STORE=store, REDIS_URL=redis.url)
        login = client.start(place.robot, name="report")
        place.run("-c", "import tasks; tasks.report.send()")
        with place.worker("dramatiq", "tasks", "--processes", "1", "--threads", "1"):
            wait_until(lambda: "Retrying message" in place.log(), "the actor waits")
            held = redis.keys()
            place.approve(login.user_code)
            wait_until(lambda: DONE in place.log(), "the report is made")

        assert "Traceback" not in place.log()
        for secret in (token_of(client), login.user_code or ""):
            for shown in (held, redis.files(), place.log().encode()):
                assert secret.encode() not in shown
        assert b'"actor_name":"report"' in held


def test_procrastinate_runs_the_task_again_until_somebody_has_logged_in(
    tmp_path: Path, server: LocalServer, postgres_url: str
) -> None:
    place = Place("procrastinate", tmp_path, server, DEVICEFLOW_STORE=postgres_url)

    def jobs(what: LiteralString = "status, attempts") -> list[tuple[Any, ...]]:
        with psycopg.connect(postgres_url) as connection:
            return connection.execute(f"SELECT {what} FROM procrastinate_jobs AS job").fetchall()

    with Client(postgres_url) as client:
        login = client.start(place.robot, name="report")
        command = ("procrastinate", "--app", "tasks.app")
        place.run("-m", *command, "schema", "--apply")
        place.run("-m", *command, "defer", "tasks.report")
        with place.worker(*command, "worker", "--fetch-job-polling-interval", "0.5"):
            wait_until(lambda: jobs()[0][1] > 0, "the task waits")
            assert jobs()[0][0] in ("todo", "doing")
            place.approve(login.user_code)
            wait_until(lambda: DONE in place.log(), "the report is made")
            wait_until(lambda: jobs()[0][0] == "succeeded", "the job is done")

        [(kept,)] = jobs("job::text")
        assert "tasks.report" in kept
        for secret in (token_of(client), login.user_code or ""):
            assert secret not in place.log() + kept
