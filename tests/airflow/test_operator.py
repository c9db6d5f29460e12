"""The operator and its trigger: what they wait for, and what Airflow gets to see of it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import greenback
import pytest
import requests
from airflow.exceptions import TaskDeferred
from airflow.sdk import BaseNotifier
from blockbuster import blockbuster_ctx

from deviceflow import LoginPending
from deviceflow.errors import StoreError, UnreachableError, UsageError, WaitTimeoutError
from deviceflow.integrations.airflow import (
    DeviceLoginOperator,
    DeviceLoginTrigger,
    _clients,
    get_token,
    triggers,
)
from deviceflow.integrations.airflow.operators import AuthorizationServerLink
from deviceflow.notify import NotifyError
from deviceflow.stores.url import open_async_store
from tests.airflow.conftest import HOME, PAGES
from tests.stored import load_grant

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.airflow.conftest import Place
    from tests.postgres import PostgresServer

HOW_TO: Final = Path(__file__).parents[2] / "docs/how-to/airflow"
SOON: Final = 30.0
APPENDS: Final = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + '\\n')"
TASK: Final = SimpleNamespace(dag_id="nightly", run_id="one", task_id="log_in", map_index=-1)

on_sqlite = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
on_postgres = pytest.mark.parametrize("store_url", ["postgres"], indirect=True)
quick = pytest.mark.deviceflow(interval=1)


class Chat(BaseNotifier):
    template_fields = ("text",)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.told: list[str] = []

    def notify(self, context: Any) -> None:
        self.told.append(self.text)


@pytest.fixture(autouse=True)
def _ask_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "ASK_EACH", 0.1)
    monkeypatch.setattr(triggers, "SHORTEST_WAIT", 0.1)


def deferred(operator: DeviceLoginOperator, context: Any = None) -> TaskDeferred:
    """Run the operator until it defers."""
    with pytest.raises(TaskDeferred) as stop:
        operator.execute(context or {})
    return stop.value


def again(trigger: DeviceLoginTrigger) -> DeviceLoginTrigger:
    """Make the trigger as a triggerer does, of what Airflow has kept of it."""
    path, kept = trigger.serialize()
    assert path == "deviceflow.integrations.airflow.triggers.DeviceLoginTrigger"
    made = DeviceLoginTrigger(**json.loads(json.dumps(kept)))
    made.task_instance = TASK
    return made


async def events_of(trigger: DeviceLoginTrigger) -> list[Any]:
    """Run a trigger to its end, as a triggerer does, where nothing may block the event loop."""
    await greenback.ensure_portal()
    with blockbuster_ctx("deviceflow"):
        async with asyncio.timeout(SOON):
            found = [event.payload async for event in trigger.run()]
    assert asyncio.get_running_loop() not in _clients._of_loop
    return found


def run(trigger: DeviceLoginTrigger) -> list[Any]:
    return asyncio.run(events_of(trigger))


def beside(work: Callable[[], object], trigger: DeviceLoginTrigger) -> list[Any]:
    """Run a trigger, and do something meanwhile."""
    with ThreadPoolExecutor() as pool:
        running = pool.submit(run, trigger)
        time.sleep(0.5)
        assert not running.done()
        work()
        return running.result(SOON)


@quick
def test_a_task_waits_until_somebody_has_logged_in(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    operator = DeviceLoginOperator(task_id="log_in", grant="report")
    stop = deferred(operator)
    assert stop.method_name == "resume"
    need = place.client.grant("report")
    assert stop.trigger.serialize()[1] == {
        "grant": "report",
        "profile": None,
        "until": None,
        "need_id": need.need_id,
        "show_link": True,
        "purpose": None,
    }
    link = place.link()
    (event,) = beside(place.log_in, again(stop.trigger))
    assert event == {"grant": "report", "until": None, "timed_out": False}
    assert operator.resume({}, event) == "report"
    hidden = place.token().access_token.reveal()
    logged = capsys.readouterr().out
    assert f"To log in: {link}" in logged
    assert hidden not in logged + repr(stop.trigger) + repr(vars(operator))


@quick
def test_a_grant_that_the_server_has_revoked_is_no_success(place: Place) -> None:
    place.log_in()
    kept: Any = load_grant(place.client._store, "report", 0.0)
    body = {"token": kept.record.token.refresh_token.reveal(), "client_id": "robot"}
    requests.post(f"{place.server.url}/oauth/revoke", data=body, timeout=60).raise_for_status()

    deferred(DeviceLoginOperator(task_id="log_in", grant="report"))


def test_the_trigger_drives_a_login_that_others_have_left(place: Place) -> None:
    login = place.begin()
    trigger = again(deferred(DeviceLoginOperator(task_id="log_in", grant="report")).trigger)
    (event,) = beside(lambda: place.server.approve(login.user_code), trigger)
    assert not event["timed_out"]
    issued = [one for one in place.events(login.id) if one["action"] == "issue_token"]
    assert [(one["engine"], one["task_id"]) for one in issued] == [
        ("airflow", "nightly/one/log_in")
    ]


@quick
def test_triggers_of_several_triggerers_never_poll_at_once(place: Place) -> None:
    login = place.begin()
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(run, again(DeviceLoginTrigger("report"))) for _ in range(3)]
        time.sleep(2.5)
        place.server.approve(login.user_code)
        ended = [one.result(SOON) for one in running]
    assert [event["timed_out"] for (event,) in ended] == [False] * 3
    polls = [seen for seen in place.server.requests if seen.kind == "poll"]
    assert "slow_down" not in {poll.error for poll in polls}
    assert all(late.at - early.at >= 0.99 for early, late in pairwise(polls))


@quick
def test_many_triggers_of_one_triggerer_share_a_store(place: Place) -> None:
    async def all_of_them() -> list[list[Any]]:
        waiting = [
            asyncio.create_task(events_of_one(again(DeviceLoginTrigger("report"))))
            for _ in range(50)
        ]
        await asyncio.sleep(0.5)
        (shared,) = _clients._of_loop.values()
        assert (shared.users, len(shared._made)) == (50, 1)
        waiting[0].cancel()
        await asyncio.to_thread(place.log_in)
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(ended[0], asyncio.CancelledError)
        assert not _clients._of_loop
        return ended[1:]  # type: ignore[return-value]

    async def events_of_one(trigger: DeviceLoginTrigger) -> list[Any]:
        return [event.payload async for event in trigger.run()]

    with pytest.raises(LoginPending):
        get_token("report")
    for ended in asyncio.run(all_of_them()):
        assert [event["timed_out"] for event in ended] == [False]


@on_sqlite
def test_a_trigger_that_is_cancelled_at_once_leaves_no_store_open(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, closed = threading.Event(), threading.Event(), list[bool]()

    def open_late() -> Any:
        begun.set()
        assert go_on.wait(SOON)
        store = open_async_store()
        close = store.close

        async def closes() -> None:
            await close()
            closed.append(True)

        monkeypatch.setattr(store, "close", closes)
        return store

    async def cancelled() -> None:
        waiting = asyncio.create_task(events_of(DeviceLoginTrigger("report")))
        await asyncio.to_thread(begun.wait, SOON)
        waiting.cancel()
        asyncio.get_running_loop().call_later(0.05, go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await waiting

    monkeypatch.setattr(_clients, "open_async_store", open_late)
    asyncio.run(cancelled())
    assert closed == [True]
    assert not _clients._of_loop


def test_a_task_that_is_cleared_goes_on_with_the_same_need(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notify = shlex.join([sys.executable, "-c", APPENDS, str(tmp_path / "told")])
    monkeypatch.setenv("DEVICEFLOW_NOTIFY", notify)
    operator = DeviceLoginOperator(task_id="log_in", grant="report")
    first, second = (deferred(operator).trigger.serialize() for _ in range(2))
    assert first == second
    (told,) = (tmp_path / "told").read_text().splitlines()
    assert json.loads(told)["link"] == place.link()


@on_sqlite
@quick
def test_a_wait_that_is_too_long_ends(place: Place) -> None:
    operator = DeviceLoginOperator(task_id="log_in", grant="report", timeout=timedelta(seconds=0.5))
    (event,) = run(again(deferred(operator).trigger))
    assert event["timed_out"]
    with pytest.raises(WaitTimeoutError, match="'report'"):
        operator.resume({}, event)
    place.log_in()
    assert operator.resume({}, event) == "report"


@on_sqlite
@pytest.mark.deviceflow(interval=1, expires_in=4)
def test_a_code_is_waited_for_as_long_as_it_lives(place: Place) -> None:
    ends = place.begin().expires_at
    assert ends is not None
    operator = DeviceLoginOperator(task_id="log_in", grant="report", timeout=timedelta())
    (event,) = run(again(deferred(operator).trigger))
    assert event["timed_out"]
    assert time.time() >= ends


@on_sqlite
@quick
def test_another_need_has_its_link_in_the_log(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    trigger = again(deferred(DeviceLoginOperator(task_id="log_in", grant="report")).trigger)
    first = place.link()
    place.client.log_out("report")
    beside(place.log_in, trigger)
    links = re.findall(rf"{PAGES}/need/\S+", capsys.readouterr().out)
    assert len(links) == 2
    assert links[0] == first != links[1]


@on_sqlite
@quick
def test_another_need_has_the_purpose_of_the_operator(place: Place) -> None:
    operator = DeviceLoginOperator(task_id="log_in", grant="report", purpose="the audit")
    trigger = again(deferred(operator).trigger)
    place.client.log_out("report")
    beside(place.log_in, trigger)
    assert place.client.grant("report").purpose == "the audit"


@on_postgres
@quick
def test_a_wait_outlives_a_restart_of_the_database(place: Place, postgres: PostgresServer) -> None:
    trigger = again(deferred(DeviceLoginOperator(task_id="log_in", grant="report")).trigger)

    def restart() -> None:
        postgres.stop()
        time.sleep(1)
        postgres.start()
        place.log_in()

    (event,) = beside(restart, trigger)
    assert not event["timed_out"]


@on_postgres
def test_a_store_that_fails_for_long_ends_the_wait(
    place: Place, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trigger = again(deferred(DeviceLoginOperator(task_id="log_in", grant="report")).trigger)
    monkeypatch.setattr(triggers, "PATIENCE", 0.5)
    postgres.stop()
    try:
        with pytest.raises(StoreError):
            run(trigger)
    finally:
        postgres.start()


@on_sqlite
@pytest.mark.deviceflow(interval=1, access_token_lifetime=2)
def test_a_server_that_is_down_is_waited_for(place: Place) -> None:
    place.log_in()
    time.sleep(2)
    place.server.fail_next(status=503, times=2, of=["refresh"])
    stop = deferred(DeviceLoginOperator(task_id="log_in", grant="report"))
    (event,) = run(again(stop.trigger))
    assert not event["timed_out"]


@on_sqlite
@pytest.mark.deviceflow(interval=1, access_token_lifetime=2)
def test_a_wait_that_ends_while_the_server_is_down_says_so(place: Place) -> None:
    place.log_in()
    time.sleep(2)
    place.server.fail_next(status=503, times=2, of=["refresh"])
    operator = DeviceLoginOperator(task_id="log_in", grant="report")
    with pytest.raises(UnreachableError, match="could not be refreshed"):
        operator.resume({}, {"grant": "report", "until": 0.0, "timed_out": True})


@on_sqlite
@quick
def test_a_profile_that_is_not_there_fails_the_task(place: Place) -> None:
    with pytest.raises(UsageError, match="'other'"):
        DeviceLoginOperator(task_id="log_in", grant="other").execute({})
    with pytest.raises(UsageError, match="'other'"):
        run(DeviceLoginTrigger("other"))
    operator = DeviceLoginOperator(task_id="log_in", grant="other")
    assert AuthorizationServerLink().get_link(operator, ti_key=TASK) == ""


@on_sqlite
@quick
def test_the_link_can_be_kept_out_of_the_log(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    operator = DeviceLoginOperator(task_id="log_in", grant="report", show_link=False)
    trigger = again(deferred(operator).trigger)
    place.client.log_out("report")
    beside(place.log_in, trigger)
    logged = capsys.readouterr().out
    assert logged.count("To log in: deviceflow login report") == 2
    assert PAGES not in logged


@on_sqlite
@quick
def test_notifiers_of_airflow_get_the_link(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = Chat("{{ run_id }} {{ pending.how_to_log_in() }}")
    operator = DeviceLoginOperator(
        task_id="log_in", grant="report", notifiers=[chat], show_link=False
    )
    stop = deferred(operator, {"run_id": "one"})
    assert chat.told == [f"one {place.link()}"]
    assert place.link() not in capsys.readouterr().out + repr(stop.trigger)


@on_sqlite
@quick
def test_notifiers_of_airflow_get_the_command_where_no_link_is_known(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DEVICEFLOW_PUBLIC_URL")
    chat = Chat("{{ pending.how_to_log_in() }}")
    deferred(DeviceLoginOperator(task_id="log_in", grant="report", notifiers=[chat]))
    assert chat.told == ["deviceflow login report"]


@on_sqlite
@quick
def test_a_notifier_that_fails_fails_the_task_and_keeps_the_link(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(context: Any) -> None:
        raise RuntimeError(f"cannot send {context['pending'].how_to_log_in()} to the chat")

    chat = Chat("{{ pending.how_to_log_in() }}")
    operator = DeviceLoginOperator(
        task_id="log_in", grant="report", notifiers=[fails, chat], show_link=False
    )
    with pytest.raises(NotifyError) as failed:
        operator.execute({})
    assert chat.told == [place.link()]
    assert "fails: RuntimeError: cannot send <secret> to the chat" in str(failed.value)
    shown = "".join(traceback.format_exception(failed.value)) + capsys.readouterr().out
    assert place.link().rpartition("/")[2] not in shown


@on_sqlite
@quick
def test_the_button_leads_to_the_server(place: Place) -> None:
    operator = DeviceLoginOperator(task_id="log_in", grant="report")
    assert AuthorizationServerLink().get_link(operator, ti_key=TASK) == place.server.url


@on_sqlite
@quick
def test_get_token_says_how_to_log_in(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(LoginPending) as stop:
        get_token("report")
    assert f"To log in: {place.link()}" in caplog.text
    assert stop.value.link is None
    place.log_in()
    assert get_token("report").access_token == place.token().access_token


@on_sqlite
@quick
def test_the_dag_of_the_documentation(place: Place) -> None:
    environment = os.environ | {
        "AIRFLOW__CORE__DAGS_FOLDER": str(HOW_TO),
        "REPORT_API": f"{place.server.url}/oauth/resource",
    }
    airflow = [sys.executable, "-m", "airflow"]
    subprocess.run([*airflow, "db", "migrate"], env=environment, check=True, capture_output=True)
    ran = subprocess.Popen(
        [*airflow, "dags", "test", "nightly"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def person() -> None:
        while not [*place.client.grants()]:
            time.sleep(0.1)
        place.log_in()

    threading.Thread(target=person, daemon=True).start()
    said, _ = ran.communicate(timeout=120)
    assert ran.returncode == 0, said
    assert "done with the token of generation 1" in said
    with sqlite3.connect(f"file:{HOME}/airflow.db?mode=ro", uri=True) as database:
        xcoms = dict(database.execute("SELECT key, value FROM xcom WHERE task_id = 'log_in'"))
        dump = "\n".join(database.iterdump())
    assert xcoms == {
        "return_value": '"report"',
        "_link_AuthorizationServerLink": json.dumps(place.server.url),
    }
    link = re.search(rf"To log in: ({PAGES}/need/\S+)", said)
    assert link is not None
    secrets = {
        value
        for seen in place.server.requests
        for name, value in seen.fields.items()
        if name in ("device_code", "refresh_token")
    }
    hidden = {place.token().access_token.reveal(), *place.server.user_codes, *secrets}
    assert not [one for one in hidden if one in said + dump]
    assert link[1] not in dump
