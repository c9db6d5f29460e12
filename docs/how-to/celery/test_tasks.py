"""A test of the task: it waits for a person, and goes on once somebody has logged in."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import tasks
from celery.contrib.testing.worker import start_worker

from deviceflow.integrations.celery import get_client

if TYPE_CHECKING:
    from pathlib import Path

    from deviceflow.testing.device_server import DeviceServer


@pytest.mark.deviceflow(interval=0)
def test_the_report_waits_for_a_person(
    device_server: DeviceServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = f'[profiles.report]\nissuer = "{device_server.url}"\nclient_id = "robot"\n'
    (tmp_path / "profiles.toml").write_text(profile)
    monkeypatch.setattr(tasks, "API", f"{device_server.url}/oauth/resource")
    tasks.app.conf.update(
        broker_url="memory://",
        broker_transport_options={"polling_interval": 0.1},
        result_backend="cache+memory://",
        deviceflow_config=str(tmp_path / "profiles.toml"),
        deviceflow_database_url="memory:",
        deviceflow_longest_wait=1,
    )
    with start_worker(tasks.app, perform_ping_check=False):
        sent = tasks.report.delay()
        while sent.state != "RETRY":
            time.sleep(0.1)

        client = get_client(tasks.app)
        client.start(client.grant("report").provider, name="report")
        device_server.approve()

        assert sent.get(timeout=30) == "done with the token of generation 1"
