"""The secrets backend: connections with a fresh token, for operators that know nothing of us."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from airflow.exceptions import AirflowNotFoundException
from airflow.providers.http.operators.http import HttpOperator
from airflow.sdk import Connection
from airflow.sdk._shared.secrets_masker import redact
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.context import set_current_context

from deviceflow.integrations.airflow import DeviceFlowBackend
from deviceflow.integrations.airflow._clients import clients
from tests.airflow.conftest import PAGES
from tests.airflow.test_operator import TASK, on_sqlite, quick

if TYPE_CHECKING:
    from tests.airflow.conftest import Place

pytestmark = [on_sqlite, quick]


@pytest.fixture(autouse=True)
def _configured(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    kwargs = {
        "connections": {
            "report_api": {"grant": "report", "host": place.server.url},
            "report_hub": {
                "grant": "report",
                "conn_type": "hub",
                "login": "robot",
                "extra": {"auth": {"access_token": "{token}"}, "any": ["{token}"], "retries": 3},
            },
            "broken": {"grant": "other"},
            "bare": "report",
            "mistyped": {"grant": "report", "hots": "https://api.example.com"},
            "misplaced": {"grant": "report", "extra": "{token}"},
            "plain": {"grant": "report", "host": "http://api.example.com"},
            "short": {"grant": "report", "host": "api.example.com"},
        }
    }
    backend = "deviceflow.integrations.airflow.DeviceFlowBackend"
    monkeypatch.setenv("AIRFLOW__WORKERS__SECRETS_BACKEND", backend)
    monkeypatch.setenv("AIRFLOW__WORKERS__SECRETS_BACKEND_KWARGS", json.dumps(kwargs))


def test_an_operator_that_knows_nothing_of_logins_sends_the_token(place: Place) -> None:
    place.log_in()
    http = HttpOperator(
        task_id="http",
        http_conn_id="report_api",
        endpoint="/oauth/resource",
        method="GET",
        response_filter=lambda answer: answer.status_code,
    )
    assert http.execute({}) == 200


def test_a_connection_has_the_token_and_its_log_masks_it(place: Place) -> None:
    place.log_in()
    token = place.token().access_token.reveal()
    found = Connection.get("deviceflow_report")
    assert (found.conn_type, found.password, found.host) == ("http", token, None)
    assert found.extra_dejson == {"Authorization": f"Bearer {token}"}
    assert redact(f"it sent {token}") == "it sent ***"


def test_the_token_goes_where_the_settings_say(place: Place) -> None:
    place.log_in()
    token = place.token().access_token.reveal()
    found = Connection.get("report_hub")
    assert (found.conn_type, found.login, found.password) == ("hub", "robot", token)
    extra = {"auth": {"access_token": token}, "any": [token], "retries": 3}
    assert found.extra_dejson == extra


def test_a_connection_has_a_fresh_token_each_time(place: Place) -> None:
    place.log_in()
    first = Connection.get("deviceflow_report").password
    clients.of("report").invalidate("report", first)
    assert Connection.get("deviceflow_report").password not in (None, first)


def test_without_a_token_the_need_is_on_record_and_the_link_in_the_tasks_log(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    context: Any = {"ti": TASK}
    with set_current_context(context), pytest.raises(AirflowNotFoundException):
        Connection.get("report_api")
    grant = place.client.grant("report")
    assert grant.need_id is not None
    assert f"To log in: {place.link()}" in caplog.text
    (needed,) = [one for one in place.events(grant.id) if one["action"] == "need"]
    assert (needed["engine"], needed["task_id"]) == ("airflow", "nightly/one/log_in")


def test_no_link_is_in_the_logs_of_airflows_own_processes(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(AirflowNotFoundException):
        Connection.get("report_api")
    assert "To log in: deviceflow login report" in caplog.text
    assert PAGES not in caplog.text


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("broken", "has no profile 'other'"),
        ("mistyped", "unknown setting 'hots'. Did you mean host?"),
        ("misplaced", "extra has the type str"),
        ("bare", "settings have the type str"),
    ],
)
def test_a_connection_that_cannot_be_served_says_why(
    place: Place, caplog: pytest.LogCaptureFixture, name: str, why: str
) -> None:
    with pytest.raises(AirflowNotFoundException):
        Connection.get(name)
    assert f"There is no connection {name}: " in caplog.text
    assert why in caplog.text


def test_no_token_is_sent_in_clear(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.log_in()
    with pytest.raises(AirflowNotFoundException):
        Connection.get("plain")
    assert "There is no connection plain" in caplog.text
    assert Connection.get("short").schema == "https"


def test_what_is_not_of_a_grant_is_left_to_others(place: Place) -> None:
    backend = DeviceFlowBackend()
    assert backend.get_connection("postgres_default") is None
    assert DeviceFlowBackend(prefix=None).get_connection("deviceflow_report") is None
    assert backend.get_variable("deviceflow_report") is None
    assert not [*place.client.grants()]


def test_a_task_gets_a_connection_of_the_task_sdk(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.log_in()
    backend = DeviceFlowBackend()
    assert not isinstance(backend.get_connection("deviceflow_report"), Connection)
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", None, raising=False)
    found = backend.get_connection("deviceflow_report")
    assert isinstance(found, Connection)
    assert found.password == place.token().access_token.reveal()
