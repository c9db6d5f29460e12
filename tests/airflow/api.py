"""What the tests ask of Airflow's REST API."""

from __future__ import annotations

import functools
from typing import Any

import requests


class Api:
    """The API of one Airflow where everybody is an administrator."""

    def __init__(self, url: str) -> None:
        self.url = url

    def is_healthy(self) -> bool:
        """Return whether each part has a fresh heartbeat. False while the API does not answer."""
        try:
            found = requests.get(f"{self.url}/api/v2/monitor/health", timeout=10).json()
        except (requests.ConnectionError, ValueError):
            return False
        return all(part["status"] == "healthy" for part in found.values())

    def dags(self) -> set[str]:
        """Return the ids of the DAGs that it knows."""
        return {dag["dag_id"] for dag in self._call("GET", "dags")["dags"]}

    def import_errors(self) -> list[str]:
        """Return why files of DAGs cannot be imported."""
        found = self._call("GET", "importErrors")["import_errors"]
        return [error["stack_trace"] for error in found]

    def run(self, dag: str) -> str:
        """Run a DAG, and return the id of the run."""
        run: str = self._call("POST", f"dags/{dag}/dagRuns", {"logical_date": None})["dag_run_id"]
        return run

    def run_state(self, dag: str, run: str) -> str:
        """Return the state of a run."""
        state: str = self._call("GET", f"dags/{dag}/dagRuns/{run}")["state"]
        return state

    def tasks(self, dag: str, run: str) -> dict[str, dict[str, Any]]:
        """Return what Airflow says of each task of a run."""
        found = self._call("GET", f"dags/{dag}/dagRuns/{run}/taskInstances")["task_instances"]
        return {task["task_id"]: task for task in found}

    def clear(self, dag: str, run: str, task: str) -> None:
        """Clear a task and those behind it, whatever their states: they run again."""
        asked = {
            "dry_run": False,
            "dag_run_id": run,
            "task_ids": [task],
            "only_failed": False,
            "include_downstream": True,
            "reset_dag_runs": True,
        }
        self._call("POST", f"dags/{dag}/clearTaskInstances", asked)

    def log(self, dag: str, run: str, task: str, number: int) -> str:
        """Return the log of a try of a task, as the page of the task shows it."""
        path = f"dags/{dag}/dagRuns/{run}/taskInstances/{task}/logs/{number}?full_content=true"
        found = self._call("GET", path)["content"]
        return "\n".join(line if isinstance(line, str) else str(line["event"]) for line in found)

    def returned(self, dag: str, run: str, task: str) -> Any:
        """Return what a task returned, which Airflow keeps as an XCom."""
        path = f"dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value"
        return self._call("GET", path)["value"]

    @functools.cached_property
    def _headers(self) -> dict[str, str]:
        answer = requests.get(f"{self.url}/auth/token", timeout=60)
        answer.raise_for_status()
        return {"Authorization": f"Bearer {answer.json()['access_token']}"}

    def _call(self, method: str, path: str, body: object = None) -> Any:
        url = f"{self.url}/api/v2/{path}"
        answer = requests.request(method, url, json=body, headers=self._headers, timeout=60)
        if not answer.ok:
            raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer.json()
