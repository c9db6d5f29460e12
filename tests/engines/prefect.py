"""Prefect: its own server, and a process that serves the flow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import requests

from tests.engines.trial import Engine
from tests.integration.celery_brokers import wait_until
from tests.postgres import free_port

if TYPE_CHECKING:
    from tests.engines.trial import Trial


class Prefect(Engine):
    """The flow asks for a run of its deployment later."""

    name = "prefect"
    package = "prefect"
    requirements = ("prefect>=3.4,<4",)
    runs_again = False

    def __init__(self) -> None:
        self._port = free_port()
        self._url = f"http://127.0.0.1:{self._port}/api"

    def settings(self, trial: Trial) -> dict[str, str]:
        return {
            "DO_NOT_TRACK": "1",
            "PREFECT_API_URL": self._url,
            "PREFECT_HOME": str(trial.folder / "prefect"),
            "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
            "PREFECT_RUNNER_POLL_FREQUENCY": "2",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }

    def prepare(self, trial: Trial) -> None:
        trial.launch("server", "prefect", "server", "start", "--port", str(self._port), "--no-ui")
        wait_until(self._answers, "Prefect's server answers", 180)

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self._url}/health", timeout=5).ok
        except requests.ConnectionError:
            return False

    def start(self, trial: Trial) -> None:
        served = trial.log().count("polling for scheduled runs")
        trial.launch("worker", "prefect", "flow", "serve", "report.py:report", "--name", "nightly")
        wait_until(
            lambda: trial.log().count("polling for scheduled runs") > served,
            "the flow is served",
            180,
        )

    def submit(self, trial: Trial, number: int) -> None:
        trial.do("prefect", "deployment", "run", "report/nightly")

    def raise_it(self, trial: Trial) -> None:
        trial.do("python", "raising.py", fails=True)
