"""Celery's tasks in one process: their settings, what they put into messages, and their tests."""

from __future__ import annotations

import logging
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
import requests
from celery import Celery, Signature, signals
from celery.contrib.testing.worker import start_worker
from kombu.exceptions import EncodeError

from deviceflow import Client
from deviceflow.client.sweep import Swept
from deviceflow.errors import LoginPending, StoreError, UnreachableError, UsageError
from deviceflow.integrations import celery as integration
from deviceflow.integrations.celery import get_client, get_token, retried
from deviceflow.server import LocalServer, Settings
from tests.integration.celery_brokers import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from celery import Task

    from deviceflow.core.notice import LoginNeed
    from deviceflow.core.secret import Secret

_PROFILES: Final = """
[profiles.report]
device_authorization_endpoint = "{url}/oauth/device_authorization"
token_endpoint = "{url}/oauth/token"
client_id = "robot"
scopes = "read offline_access"
purpose = "the nightly report"
"""
MAILS: Final[list[LoginNeed]] = []


class Shop:
    """An app with a task, whose worker runs in a thread of the test.

    Attributes:
        tokens: The tokens that the task got.
    """

    def __init__(self, folder: Path, server: LocalServer, **settings: Any) -> None:
        self.server = server
        self.tokens: list[Secret] = []
        config = folder / "profiles.toml"
        config.write_text(_PROFILES.format(url=server.url))
        self.app = Celery("shop", set_as_current=False)
        self.app.config_from_object(
            {
                "broker_url": "memory://",
                "broker_transport_options": {"polling_interval": 0.05},
                "task_default_queue": secrets.token_hex(8),
                "result_backend": "cache+memory://",
                "deviceflow_database_url": "memory:",
                "deviceflow_config": str(config),
                "deviceflow_longest_wait": 1,
                "deviceflow_notify": MAILS.append,
                "result_extended": True,
                "worker_hijack_root_logger": False,
            }
            | settings
        )
        shop_ = self
        task: Any = self.app.task(  # not shared with the apps of other tests
            bind=True, acks_late=True, max_retries=None, shared=False
        )

        @task  # type: ignore[untyped-decorator]
        def report(self: Task[Any, Any]) -> str:
            token = get_token(self, "report")
            shop_.tokens.append(token.access_token)
            return "done"

        @task  # type: ignore[untyped-decorator]
        def leak(self: Task[Any, Any]) -> object:
            return get_token(self, "report")

        @task  # type: ignore[untyped-decorator]
        def show(self: Task[Any, Any]) -> None:
            with retried(self) as client:
                client.get_token("report", mint="now")

        @task  # type: ignore[untyped-decorator]
        def use(self: Task[Any, Any]) -> int:
            with get_token(self, "report") as token:
                bearer = {"Authorization": f"Bearer {token.access_token.reveal()}"}
                url = f"{server.url}/oauth/resource"
                requests.get(url, headers=bearer, timeout=60).raise_for_status()
            return token.generation

        self.report, self.leak, self.show, self.use = report, leak, show, use

    def approve(self, name: str = "report") -> None:
        client = get_client(self.app)
        login = client.start(client.grant(name).provider, name=name)
        url = f"{self.server.url}/control/approve"
        requests.post(url, json={"user_code": login.user_code}, timeout=60).raise_for_status()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        # Celery sets up the root logger and leaves it so.
        root = logging.getLogger()
        level, handlers = root.level, list(root.handlers)
        try:
            with start_worker(self.app, perform_ping_check=False, pool="solo", loglevel="DEBUG"):
                yield
        finally:
            root.setLevel(level)
            root.handlers[:] = handlers


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Callable[..., Shop]]:
    made: list[Shop] = []

    def make(**settings: Any) -> Shop:
        made.append(Shop(tmp_path, server, **settings))
        return made[-1]

    MAILS.clear()
    with LocalServer(Settings(control=True, interval=0)) as server:
        yield make
        for one in made:
            one.app.close()
        integration._clients.close()


def test_a_task_waits_for_a_person_and_goes_on_with_the_token(shop: Callable[..., Shop]) -> None:
    here = shop()
    with here.at_work():
        sent = here.report.delay()
        wait_until(lambda: sent.state == "RETRY", "the task waits")
        here.approve()
        assert sent.get(timeout=60) == "done"

    need, end = MAILS
    assert (need.id, need.kind, end.kind) == (end.id, "needed", "ended")
    assert (need.name, need.purpose, need.server) == (
        "report",
        "the nightly report",
        here.server.url,
    )
    assert len(here.tokens) == 1


@pytest.mark.parametrize(
    ("ends", "then", "told"), [("invalidate", "SUCCESS", []), ("revoke", "RETRY", ["needed"])]
)
def test_a_refusal_in_a_task_has_the_token_replaced_or_a_person_told(
    shop: Callable[..., Shop], ends: str, then: str, told: list[str]
) -> None:
    here = shop()
    with here.at_work():
        waits = here.use.delay()
        wait_until(lambda: waits.state == "RETRY", "the task waits")
        here.approve()
        assert waits.get(timeout=60) == 1
        MAILS.clear()
        [grant] = requests.get(f"{here.server.url}/control/grants", timeout=60).json()["grants"]
        url = f"{here.server.url}/control/{ends}"
        requests.post(url, json={"user_code": grant["user_code"]}, timeout=60).raise_for_status()

        with pytest.raises(requests.HTTPError):
            here.use.delay().get(timeout=60)
        after = here.use.delay()
        wait_until(lambda: after.state == then, "the next task")

    assert [need.kind for need in MAILS] == told


def test_a_waiting_task_has_nothing_in_its_result_that_is_for_a_person(
    shop: Callable[..., Shop],
) -> None:
    here = shop(
        result_serializer="pickle", accept_content=["json"], result_accept_content=["pickle"]
    )
    with here.at_work():
        here.report.delay()
        wait_until(lambda: MAILS, "somebody is told")
        sent = here.show.delay()
        wait_until(lambda: sent.state == "RETRY", "the task waits")
        kept = sent.result

    [login] = get_client(here.app).logins()
    assert isinstance(kept, LoginPending)
    assert (kept.name, kept.login, kept.flow_id) == ("report", None, login.id)
    everything = repr(sent.backend._cache) + str(sent.traceback) + repr(vars(kept))
    assert login.user_code is not None
    assert login.user_code not in everything


def test_a_token_is_neither_a_result_nor_an_argument(shop: Callable[..., Shop]) -> None:
    here = shop()
    with here.at_work():
        sent = here.leak.delay()
        wait_until(lambda: sent.state == "RETRY", "the task waits")
        here.approve()
        wait_until(lambda: sent.state == "FAILURE", "the task fails")

    client = get_client(here.app)
    token = client.get_token("report").access_token
    assert token.reveal() not in f"{sent.result!r} {sent.traceback}"
    for serializer in ("json", "pickle", "yaml"):
        with pytest.raises((EncodeError, TypeError)) as caught:
            here.report.apply_async((token,), serializer=serializer)
        assert token.reveal() not in str(caught.value)


def test_a_task_that_cannot_be_retried_says_that_a_person_must_log_in(
    shop: Callable[..., Shop],
) -> None:
    here = shop(task_always_eager=True)

    with pytest.raises(LoginPending, match="deviceflow login report"):
        here.report()  # called as a function
    assert isinstance(here.report.delay().result, LoginPending)  # eager: a countdown is ignored


def test_a_server_that_does_not_answer_is_asked_again_later(
    shop: Callable[..., Shop], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = shop()
    stops = [UnreachableError("No answer.", wait_seconds=0.1), UnreachableError("No grant.")]
    monkeypatch.setattr(Client, "get_token", lambda *_, **__: raise_(stops.pop(0)))

    with here.at_work():
        sent = here.report.delay()
        wait_until(lambda: sent.state == "FAILURE", "the task fails")

    assert (
        str(sent.result) == "No grant. Check the URL and the network, then start the login again."
    )
    assert stops == []


def test_a_message_that_the_broker_does_not_take_is_not_the_last_one(
    shop: Callable[..., Shop], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = shop()
    send = Signature.apply_async
    refused: list[Signature[Any]] = []

    def refuse_once(self: Signature[Any], *arguments: Any, **how: Any) -> Any:
        if refused:
            return send(self, *arguments, **how)
        refused.append(self)
        raise OSError("The broker is away.")

    monkeypatch.setattr(Signature, "apply_async", refuse_once)
    with here.at_work():
        sent = here.report.delay()
        wait_until(lambda: sent.state == "RETRY", "the task waits")
        here.approve()
        assert sent.get(timeout=60) == "done"
    assert len(refused) == 1


def raise_(stop: Exception) -> None:
    raise stop


def test_a_sweep_goes_on_with_logins_and_refreshes_grants(
    shop: Callable[..., Shop], transitions: list[dict[str, Any]]
) -> None:
    here = shop()
    with pytest.raises(LoginPending):
        here.report()
    here.approve()
    client = get_client(here.app)

    def sweep() -> object:
        done = here.app.tasks["deviceflow.sweep"].apply(task_id="swept")
        assert done.result is None
        return next(client.logins()).has_token

    wait_until(sweep, "the sweep sees the approval")
    assert {(one["engine"], one["task_id"]) for one in transitions[-1:]} == {("celery", "swept")}
    here.report()
    assert len(here.tokens) == 1


def test_a_sweep_logs_what_it_passed_over(
    shop: Callable[..., Shop], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = shop()
    damaged = Swept([], [StoreError("This login is damaged.")])
    monkeypatch.setattr(Client, "sweep", lambda *_: damaged)

    here.app.tasks["deviceflow.sweep"].apply()

    assert "The sweep passed over this: This login is damaged." in caplog.text


def test_a_profile_that_is_not_there_is_an_error(shop: Callable[..., Shop]) -> None:
    here = shop()
    here.app.conf.deviceflow_config = None

    with pytest.raises(UsageError, match="has no profile 'report'"):
        here.report()


@pytest.mark.parametrize("path", ["no.such.module:mail", "json:mail"])
def test_a_function_that_is_not_there_is_an_error(shop: Callable[..., Shop], path: str) -> None:
    here = shop(deviceflow_notify=path)

    with pytest.raises(UsageError, match="deviceflow_notify names what cannot be imported"):
        here.report()


def test_what_celery_shows_of_its_settings_has_no_password(shop: Callable[..., Shop]) -> None:
    here = shop(deviceflow_database_url="postgresql://robot:CANARY@db.example.com/grants")

    assert "CANARY" not in str(here.app.conf.table(with_defaults=False, censored=True))
    assert "CANARY" not in here.app.bugreport()


def test_each_app_has_one_client_until_it_is_closed(shop: Callable[..., Shop]) -> None:
    one, other = shop(), shop()

    client = get_client(one.app)

    assert get_client(one.app) is client
    assert get_client(other.app) is not client
    signals.worker_process_shutdown.send(sender=None, pid=0, exitcode=0)
    assert get_client(one.app) is not client
