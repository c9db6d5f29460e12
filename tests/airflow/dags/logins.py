"""DAGs that log in, and then use the token beyond its life."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import requests
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG

from deviceflow.integrations.airflow import DeviceLoginOperator, get_token


def use(grant: str, seconds: float) -> int:
    """Use the token of a grant, and stay for some seconds. Return the token's generation."""
    token = get_token(grant)
    headers = {"Authorization": f"Bearer {token.access_token.reveal()}"}
    requests.get(os.environ["RESOURCE"], headers=headers, timeout=60).raise_for_status()
    time.sleep(seconds)
    return token.generation


PAUSE = timedelta(seconds=2)

beyond = float(os.environ["LIFETIME"]) + 1

for name in ("nightly", "cleared"):
    with DAG(f"login_{name}", schedule=None) as dag:
        # Airflow fails a deferred task that goes on before its scheduler has noted the deferral.
        log_in = DeviceLoginOperator(task_id="log_in", grant=name, retries=3, retry_delay=PAUSE)
        use_first = PythonOperator(task_id="use_first", python_callable=use, op_args=[name, beyond])
        use_again = PythonOperator(task_id="use_again", python_callable=use, op_args=[name, 0])
        log_in >> use_first >> use_again
    globals()[dag.dag_id] = dag
