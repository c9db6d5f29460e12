"""The app that the tests' workers run. Its settings come from the environment, as JSON."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
from celery import Celery
from celery.exceptions import Reject

from deviceflow.integrations.celery import get_client, get_token, retried

if TYPE_CHECKING:
    from celery import Task

    from deviceflow.core.notice import LoginNeed

SETTINGS = json.loads(os.environ.get("CELERY_TEST_SETTINGS", "{}"))
PLACE = Path(SETTINGS.pop("place", "."))
RESOURCE = SETTINGS.pop("resource", "")

app = Celery("reports")
app.config_from_object(SETTINGS)


def note(file: str, *words: object) -> None:
    """Append a line to a file, which is whole, however many processes do so."""
    with (PLACE / file).open("a") as lines:
        lines.write(" ".join(map(str, words)) + "\n")


def write_mail(need: LoginNeed) -> None:
    note("mails", need.id, need.kind, need.name)


@app.task(bind=True, acks_late=True, max_retries=None)
def report(self: Task[Any, Any], grant: str = "report") -> int:
    with get_token(self, grant, profile="report") as token:
        bearer = {"Authorization": f"Bearer {token.access_token.reveal()}"}
        requests.get(RESOURCE, headers=bearer, timeout=60).raise_for_status()
    note("done", self.request.id, grant, os.getpid(), id(get_client()))
    return token.generation


@app.task(bind=True, acks_late=True, max_retries=None)
def keep_on(self: Task[Any, Any], grant: str, until: float, pause: float) -> None:
    """Use a token again and again until a time."""
    token = get_token(self, grant, profile="report")
    bearer = {"Authorization": f"Bearer {token.access_token.reveal()}"}
    answer = requests.get(RESOURCE, headers=bearer, timeout=60)
    if answer.status_code == 401:  # it ended on its way there
        token.invalidate()
    note("uses", self.request.id, grant, answer.status_code)
    if time.time() >= until:
        note("done", self.request.id, grant)
        return
    try:
        raise self.retry(countdown=pause)
    except Reject:  # the broker is away
        raise Reject("The broker does not take the next message.", requeue=True) from None


@app.task(bind=True, max_retries=None)
def show_code(self: Task[Any, Any]) -> None:
    with retried(self) as client:
        client.get_token("report", mint="now")


if SETTINGS.get("deviceflow_database_url"):
    # The process that forks has used its own client: each child must make another one.
    note("mains", os.getpid(), id(get_client(app)), len(list(get_client(app).grants())))
