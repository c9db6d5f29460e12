"""The nightly report."""

from __future__ import annotations

import os
from typing import Any

import requests
from celery import Celery

from deviceflow.integrations.celery import get_token

API = os.environ.get("REPORT_API", "http://127.0.0.1:8628/oauth/resource")

app = Celery("tasks", config_source="celeryconfig")


@app.task(bind=True, acks_late=True, max_retries=None)
def report(self: Any) -> str:
    """Fetch what the report is about."""
    with get_token(self, "report") as token:  # a 401 in here has the token replaced
        bearer = {"Authorization": f"Bearer {token.access_token.reveal()}"}
        requests.get(API, headers=bearer, timeout=30).raise_for_status()
    return f"done with the token of generation {token.generation}"
