"""A DAG that knows nothing of logins: it reads a connection, in the ways in which DAGs do."""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.providers.http.operators.http import HttpOperator
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

CONNECTION = "report_api"

with DAG(
    "existing",
    schedule=None,
):
    by_hook = HttpOperator(
        task_id="by_hook",
        http_conn_id=CONNECTION,
        method="GET",
        endpoint="oauth/resource",
        retries=30,
        retry_delay=timedelta(seconds=2),
    )
    stay = BashOperator(task_id="stay", bash_command=f"sleep {float(os.environ['LIFETIME']) + 1}")
    by_template = HttpOperator(
        task_id="by_template",
        http_conn_id="other",  # which the environment defines
        method="GET",
        endpoint="oauth/resource",
        headers={"Authorization": f"Bearer {{{{ conn.{CONNECTION}.password }}}}"},
    )
    by_shell = BashOperator(
        task_id="by_shell",
        bash_command='test -n "$TOKEN"',
        env={"TOKEN": f"{{{{ conn.{CONNECTION}.password }}}}"},
    )
    by_hook >> stay >> by_template >> by_shell
