"""Dagster: its daemon, which launches a process for each run."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from tests.engines.trial import Engine
from tests.integration.celery_brokers import wait_until

if TYPE_CHECKING:
    from tests.engines.trial import Trial

_JOB: Final = "__ASSET_JOB"


class Dagster(Engine):
    """The asset asks for a retry later. Only the process of the run is killed.

    The code server notices that, and the daemon launches the run again.
    """

    name = "dagster"
    package = "dagster"
    requirements = ("dagster>=1.10,<2",)

    def settings(self, trial: Trial) -> dict[str, str]:
        return {"DAGSTER_DISABLE_TELEMETRY": "yes", "DAGSTER_HOME": str(trial.folder)}

    def prepare(self, trial: Trial) -> None:
        trial.launch("daemon", "dagster-daemon", "run", "-f", "report.py")
        wait_until(lambda: "daemons" in trial.log("daemon"), "the daemon runs")

    def start(self, trial: Trial) -> None:
        """Do nothing: the daemon starts what works."""

    def kill(self, trial: Trial) -> None:
        runs = [one for one, command in trial.processes("daemon") if b"spawn_main" in command]
        assert runs, "no run is at work"
        for pid in runs:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def submit(self, trial: Trial, number: int) -> None:
        trial.do("dagster", "job", "launch", "-f", "report.py", "-j", _JOB)

    def raise_it(self, trial: Trial) -> None:
        select = ("--select", "raising")
        trial.do("dagster", "asset", "materialize", "-f", "raising.py", *select, fails=True)


class DagsterSensor(Dagster):
    """A sensor asks for the token first, and then for the run. All of Dagster is killed."""

    title = "dagster-sensor"

    def prepare(self, trial: Trial) -> None:
        """Do nothing: the daemon is started anew after each kill."""

    def start(self, trial: Trial) -> None:
        trial.launch("daemon", "dagster-daemon", "run", "-f", "nightly.py")

    def kill(self, trial: Trial) -> None:
        trial.kill("daemon")

    def submit(self, trial: Trial, number: int) -> None:
        if number > 1:  # the sensor asks for the first run
            trial.do("dagster", "job", "launch", "-f", "nightly.py", "-j", _JOB)
