"""The nightly report."""

from __future__ import annotations

import os

import requests
from airflow.sdk import dag, task

from deviceflow.integrations.airflow import DeviceLoginOperator, get_token

API = os.environ.get("REPORT_API", "http://127.0.0.1:8628/oauth/resource")


@dag(schedule="0 3 * * *")
def nightly() -> None:
    @task(retries=3)
    def report() -> str:
        with get_token("report") as token:  # a 401 in here has the token replaced
            bearer = {"Authorization": f"Bearer {token.access_token.reveal()}"}
            requests.get(API, headers=bearer, timeout=30).raise_for_status()
        return f"done with the token of generation {token.generation}"

    DeviceLoginOperator(task_id="log_in", grant="report", retries=3) >> report()


nightly()
