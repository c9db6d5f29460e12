"""Celery's tasks on real brokers, whose workers and brokers are killed."""

from __future__ import annotations

import re
import subprocess
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow.core.encryption import generate_key
from deviceflow.core.states import GrantState
from deviceflow.server import LocalServer, Settings
from tests.integration.celery_brokers import RabbitMQ, Redis
from tests.integration.celery_place import CELERY, Place, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Made = Callable[..., Place]

VISIBILITY: Final = 3.0
"""Seconds after which Redis hands out what a killed worker has not acknowledged."""


@pytest.fixture
def redis() -> Iterator[Redis]:
    with Redis() as server:
        yield server


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Made]:
    """Make a place, by the settings of the app and of the server."""
    made: list[Place] = []

    def make(settings: dict[str, Any], **how: Any) -> Place:
        asked: dict[str, Any] = {"control": True, "interval": 1, "access_token_lifetime": 3600}
        server = LocalServer(Settings(**(asked | how)))
        made.append(Place(tmp_path, server, settings))
        return made[-1]

    yield make
    for one in made:
        one.close()
        one.server.close()


def on_redis(redis: Redis, **settings: Any) -> dict[str, Any]:
    transport = {
        "visibility_timeout": VISIBILITY,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    }
    return {
        "broker_url": redis.url,
        "result_backend": redis.url,
        "broker_transport_options": transport,
    } | settings


def wait_for_need(here: Place) -> None:
    here.wait_until(lambda: here.lines("mails"), "somebody is told of the need")


@pytest.mark.usefixtures("each_event")  # one of them names the task that polled
def test_redis_loses_what_it_had_and_workers_die_while_they_poll_and_while_they_refresh(
    place: Made, redis: Redis
) -> None:
    here = place(on_redis(redis), access_token_lifetime=4)
    here.start()
    sent = {here.send(f"task-{n}").id for n in range(3)}
    here.send("task-0")  # the same message once more
    wait_for_need(here)
    need = here.client.grant("report").need_id

    # Redis loses all messages. The next night's tasks find the need that there is.
    lost = redis.files()
    redis.kill()
    redis.forget()
    redis.start()
    sent |= {here.send(f"again-{n}").id for n in range(2)}

    # All workers die while one of them polls, and Redis as well; its messages are persistent.
    polling = here.gate.hold("device_code")
    login = here.log_in()
    here.wait_until(polling.is_set, "a worker polls")
    for worker in here.workers:
        worker.kill()
    redis.kill()
    redis.start()
    assert not here.done()
    here.approve(login)
    here.start()
    # Messages that a worker was just about to get may be lost. The one of the poll is not.
    polled = here.events_of(login)[-1]["task_id"]
    here.wait_until(lambda: polled in here.done(), "the task of the killed worker is done")

    # The children die while one of them refreshes: Celery hands their tasks out at once.
    refreshing = here.gate.hold("refresh_token")
    here.wait_until(lambda: left(here) < 0.5, "the token's life is over")
    here.send("last")
    here.wait_until(refreshing.is_set, "a worker refreshes")
    for worker in here.workers[2:]:
        worker.kill_children()
    here.wait_until(lambda: "last" in here.done(), "the task of the killed process is done")

    assert len(here.needs()) == 1
    assert [words[0] for words in here.lines("mails") if words[1] == "needed"] == [need]
    assert here.gate.overlaps == 0
    assert [grant["state"] for grant in here.grants()] == ["active"]
    assert here.client.grant("report").state is GrantState.ACTIVE
    assert {event["engine"] for event in here.events()} == {"celery"}
    assert {event["task_id"] for event in here.events()} <= {*sent, "last"}
    mains = here.lines("mains")
    for _, _, pid, client in here.lines("done"):  # each process has a client of its own
        assert pid not in {words[0] for words in mains}
        assert client not in {words[1] for words in mains}
    assert here.findings() == []
    assert here.leaks(lost, redis.keys(), redis.files(), here.logs()) == []


def test_rabbitmq_redelivers_at_once_what_killed_workers_had(place: Made) -> None:
    with RabbitMQ() as rabbit:
        settings = {"broker_url": rabbit.url, "result_backend": "rpc://"}
        here = place(settings, access_token_lifetime=4)
        first, second = here.start()
        sent = {here.send(f"task-{n}").id for n in range(2)}
        here.send("task-0")  # the same message once more
        wait_for_need(here)
        polling = here.gate.hold("device_code")
        login = here.log_in()
        here.wait_until(polling.is_set, "a worker polls")
        first.kill()
        second.kill_children()
        here.approve(login)
        here.wait_until(lambda: sent <= received(second), "the other worker gets all tasks")
        here.wait_until(lambda: sent <= here.done(), "the tasks are done")

        refreshing = here.gate.hold("refresh_token")
        here.wait_until(lambda: left(here) < 0.5, "the token's life is over")
        here.send("last")
        here.wait_until(refreshing.is_set, "a worker refreshes")
        second.kill()
        [third] = here.start(number=1)
        here.wait_until(lambda: "last" in here.done(), "the last task is done")

        here.send("seen")
        third.kill()
        assert len(here.needs()) == 1
        assert here.gate.overlaps == 0
        assert [grant["state"] for grant in here.grants()] == ["active"]
        assert here.findings() == []
        assert here.leaks(rabbit.files(), here.logs()) == []


def received(worker: Worker) -> set[str]:
    """Return the ids of the tasks whose messages a worker got."""
    return set(re.findall(r"Task \S+\[(\S+)\] received", worker.log.read_text()))


def left(here: Place) -> float:
    """Return how many seconds are left of the access token."""
    expires_at = here.client.grant("report").expires_at
    assert expires_at is not None
    return expires_at - time.time()


@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_a_pool_of_threads_or_greenlets_does_the_same(
    pool: str, place: Made, redis: Redis, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEVICEFLOW_KEYS", generate_key().reveal())
    here = place(on_redis(redis, deviceflow_database_url=postgres_url))
    here.start("-P", pool, "-c", "8", number=1)
    sent = {here.send(f"task-{n}").id for n in range(6)}
    wait_for_need(here)
    here.send("seen", "show_code")
    here.wait_until(lambda: b"show_code[seen] retry" in here.logs(), "a task has seen a code")
    here.approve(here.log_in())
    here.wait_until(lambda: sent <= here.done(), "the tasks are done")

    assert len(here.needs()) == 1
    assert here.gate.overlaps == 0
    assert {event["task_id"] for event in here.events()} <= {*sent, "seen"}
    assert here.findings() == []
    assert here.leaks(redis.keys(), redis.files(), here.logs()) == []


def test_a_broker_in_a_database_does_without_kills(place: Made, tmp_path: Path) -> None:
    here = place({"broker_url": f"sqla+sqlite:///{tmp_path}/broker.db"})
    here.start("-P", "solo", number=1)
    for _ in range(2):
        command = [*CELERY, "call", "tests.integration.celery_app.report"]
        subprocess.run(command, cwd=tmp_path, env=here.environment, check=True, timeout=60)
    wait_for_need(here)
    here.approve(here.log_in())
    here.wait_until(lambda: len(here.done()) == 2, "the tasks are done")

    assert len(here.needs()) == 1
    assert here.leaks((tmp_path / "broker.db").read_bytes(), here.logs()) == []
