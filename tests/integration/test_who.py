"""Who requested, who approved, from where, and what used it: as the audit commands tell it."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import origin
from deviceflow.core.encryption import generate_key
from deviceflow.server import LocalServer, Settings
from deviceflow.server.oauth_server import response
from tests.integration.paged import Job, worker
from tests.integration.test_need_pages import CODE, Person, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.command import Command

SUBJECT: Final = "248289761001"
ADDRESS: Final = "203.0.113.7"
TASK: Final = {"engine": "celery", "task": "sales.report"}


def id_token(server: LocalServer) -> str:
    claims = {"iss": server.url, "aud": "report-bot", "sub": SUBJECT, "exp": time.time() + 600}
    encoded = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{encoded}.x"


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[LocalServer, dict[str, str]]]:
    """Give a server, and what its token answers have besides the usual."""
    more: dict[str, str] = {}
    answer = "deviceflow.server.device_grant.response"
    monkeypatch.setattr(answer, lambda issued: response(issued) | more)
    with LocalServer(Settings(control=True, interval=1)) as server:
        yield server, more


@pytest.mark.parametrize("identifies", [True, False])
def test_who_had_which_part_in_a_grant(
    identifies: bool,
    deviceflow: Command,
    servers: tuple[LocalServer, dict[str, str]],
) -> None:
    server, more = servers
    if identifies:
        more["id_token"] = id_token(server)
    key = generate_key()
    store = f"sqlite:///{deviceflow.home}/flows.db"
    environment: dict[str, Any] = {
        "DEVICEFLOW_KEYS": key.reveal(),
        "DEVICEFLOW_STORE": store,
        "DEVICEFLOW_ACTOR": "web",
    }
    with worker(deviceflow, **environment) as pages:
        job = Job(store, key, server, pages.public_url)
        with origin(**TASK, task_id="run-1", actor="deploy"):
            link = job.ask()
        person = Person()
        proxied = {"X-Forwarded-For": f"198.51.100.1, {ADDRESS}"}
        where = person.press(link, **proxied).headers["Location"]
        [code] = CODE.findall(person.open(f"{link}{where}").text)
        job.decide("approve", code)
        eventually(lambda: job.client.grant("nightly").generation == 1)
        with origin(**TASK, task_id="run-2", actor="deploy"):
            job.client.get_token("nightly")
        login_id = job.client.grant("nightly").login_id
        job.close()
        backup = Job(store, key, server, pages.public_url)
        with origin(engine="cron", task="backup", actor="root"):
            backup.client.get_token("nightly")
        backup.close()
    approver = SUBJECT if identifies else "not known: no id token"

    shown = deviceflow("audit", "show", "nightly", **environment).out

    def of(part: str) -> list[str]:
        return [line.partition(": ")[2] for line in shown.splitlines() if line.startswith(part)]

    assert shown.startswith("nightly  ")
    assert of("needed by")[0].startswith("celery sales.report, run run-1, as deploy on ")
    assert of("requested by")[0].startswith("web on ")
    assert f", by the need's page from {ADDRESS}, 20" in of("requested by")[0]
    assert f"on the need's page, from {ADDRESS}: need " in shown
    assert of("approved by")[0].startswith(f"{approver}, 20")
    assert [used.partition(", as ")[0] for used in of("used by")] == [
        "cron backup",
        "celery sales.report, run run-2",
    ]
    said = json.loads(deviceflow("audit", "show", "nightly", "--json", **environment).out)
    listed = [
        json.loads(line)
        for line in deviceflow("audit", "list", "--json", **environment).out.splitlines()
    ]
    assert {one["name"] for one in listed} == {"nightly"}
    for one in (said, *listed):
        assert one["requested_by"]["address"] == ADDRESS
        assert one["requested_by"]["actor"] == "web"
        assert one["approved_by"]["subject"] == (SUBJECT if identifies else None)
    assert said["needed_by"]["task"] == "sales.report"
    assert [use["task_id"] for use in said["used_by"]] == [None, "run-2"]
    of_login = deviceflow("audit", "show", str(login_id), **environment).out
    assert f"approved by: {approver}, 20" in of_login

    made = deviceflow("audit", "report", "-o", "report.html", **environment)
    assert made.code == 0, made.err
    page = (deviceflow.home / "report.html").read_text()
    for text in (ADDRESS, "celery sales.report, run run-2", "cron backup", approver):
        assert f"{text}" in page
    assert "<bdi>nightly</bdi></a>" in page
