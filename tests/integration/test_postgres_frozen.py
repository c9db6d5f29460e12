"""A PostgreSQL, or a pooler before it, that is suspended: each call ends in time.

A suspended server's kernel still acknowledges, and the server's own timeouts stand still. So the
store gives up by its own clock.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from random import Random
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest

from deviceflow import Client
from deviceflow.audit.events import render
from deviceflow.core import queries
from deviceflow.core.actions import PLAIN_HTTP
from deviceflow.core.encryption import generate_key
from deviceflow.core.flow import Flow
from deviceflow.core.ports import Origin, StoreEvent
from deviceflow.errors import StoreError
from deviceflow.stores.postgres import PostgresStore
from tests.crash.checks import wrong_with_history
from tests.crash.fixtures import zygote  # noqa: F401  # a fixture
from tests.crash.stage import Stage
from tests.integration.command import COMMAND
from tests.integration.places import CODE, GRANTED, OAUTH, PENDING, UNKNOWN_CODE, new
from tests.integration.places import postgres as place_of
from tests.pgbouncer import PgBouncer
from tests.postgres import PostgresServer
from tests.stored import delete_ended, get
from tests.stored import flows as all_flows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from deviceflow import Token
    from deviceflow.core.wire import Request, Response
    from tests.crash.zygote import Zygote

    Freeze = Callable[[], AbstractContextManager[None]]

TIMEOUT: Final = 2.0  # seconds
SLACK: Final = 20.0  # seconds; what is frozen never answers, so a call in time is one that ends
LOGINS: Final = 4
MOST_SUSPENSIONS: Final = 200
KEYS: Final = [generate_key()]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Start a server that tests may suspend."""
    with PostgresServer() as started:
        yield started


@pytest.fixture(scope="module")
def bouncer(server: PostgresServer) -> Iterator[PgBouncer]:
    with PgBouncer(server) as started:
        yield started


class Route:
    """How a database is reached, and what on the way is suspended."""

    def __init__(self, url: str, freeze: Freeze) -> None:
        self.url = url
        self.freeze = freeze

    def open(self, **how: Any) -> PostgresStore:
        options: dict[str, Any] = {"keys": KEYS, "timeout": TIMEOUT}
        return PostgresStore(self.url, **(options | how))


@pytest.fixture(params=["tcp", "unix", "behind a pooler", "the pooler"])
def route(request: pytest.FixtureRequest, server: PostgresServer) -> Iterator[Route]:
    url = server.database()
    if request.param == "tcp":
        yield Route(url, server.frozen)
    elif request.param == "unix":
        yield Route(server.by_socket(url), server.frozen)
    else:
        bouncer: PgBouncer = request.getfixturevalue("bouncer")
        freeze = server.frozen if request.param == "behind a pooler" else bouncer.frozen
        yield Route(bouncer.url(url), freeze)
    server.drop(url)


class Call(threading.Thread):
    """Calls something, and remembers what came of it and after how many seconds."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.error: BaseException | None = None
        self.seconds: float | None = None
        self.start()

    def run(self) -> None:
        begun = time.monotonic()
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001  # to be looked at
            self.error = error
        self.seconds = time.monotonic() - begun


def in_time(calls: dict[str, Call], seconds: float = TIMEOUT + SLACK) -> None:
    """Check that all have ended, with an error that says what to do."""
    until = time.monotonic() + seconds
    for call in calls.values():
        call.join(max(0.0, until - time.monotonic()))
    assert [name for name, call in calls.items() if call.seconds is None] == []
    for name, call in calls.items():
        assert isinstance(call.error, StoreError), (name, call.error)
        assert call.error.hint, name


def read_all(store: PostgresStore, query: str, *values: dict[str, Any]) -> None:
    with store.reading() as rows:
        list(rows(query, *values))


def methods(store: PostgresStore) -> dict[str, Callable[[], object]]:
    """Return each call that asks the database something."""
    flow = get(store, "f1")
    polled = get(store, "f1")
    event = render(polled, polled.poll(1e9, 10.0), Origin("w1"))
    return {
        "now": lambda: store.now(0.0),
        "add": lambda: store.add(new("f2")),
        "get": lambda: get(store, flow.id),
        "flows": lambda: list(all_flows(store)),
        "claim": lambda: store.claim(flow.id, "w1", 0.0, 20.0),
        "commit": lambda: store.commit(polled, event),
        "release": lambda: store.release(flow.id, "w1"),
        "snooze": lambda: store.put_off(Flow, flow.id, 0.0, "w1"),
        "reschedule": lambda: store.release(flow.id, "w1", due=flow),
        "wake_after_clock_change": lambda: store.wake_after_clock_change(0.0),
        "restart_lease": lambda: store.restart_lease(flow.id, 0.0, 0.0),
        "foreign_leases": lambda: store.select(queries.foreign_leases(), 0.0),
        "record_store_event": lambda: store.append(StoreEvent(PLAIN_HTTP, 0.0, "f1", Origin("w1"))),
        "ids_with_secrets": lambda: store.select(queries.with_secrets("token", 0.0), 0.0),
        "delete_ended": lambda: delete_ended(store, 0.0),
        "history": lambda: store.events(flow.id),
        "prune": lambda: store.prune(["gone"]),
        "reseal": store.reseal,
        "bounds": lambda: store.bounds(4),
        "reading": lambda: read_all(store, "events_all"),
    }


@pytest.mark.parametrize("warm", [True, False])
def test_each_call_ends_in_time_and_the_store_works_again(route: Route, warm: bool) -> None:
    with route.open(pool_size=20, reading_timeout=TIMEOUT) as store:
        flow = new("f1")
        store.add(flow)
        store.commit(flow, render(flow, flow.receive(CODE, 1e9), Origin("w1")))
        calls = methods(store)
        if warm:  # have connections open
            warming = [Call(lambda: get(store, "f1")) for _ in calls]
            for one in warming:
                one.join()
                assert one.error is None
        else:
            store.close()
        with route.freeze():
            in_time({name: Call(work) for name, work in calls.items()})
            in_time({"open": Call(route.open)})
            closing = Call(store.close)
            closing.join(SLACK)
            assert (closing.seconds is not None, closing.error) == (True, None)

        assert get(store, "f1").seq >= 1
        assert store.add(new("f3")).id == "f3"
        read_all(store, "events_all")


def test_connection_that_others_use_is_waited_for_no_longer(server: PostgresServer) -> None:
    with PostgresStore(server.database(), keys=KEYS, pool_size=1, timeout=TIMEOUT) as store:
        with server.frozen():
            in_time({str(number): Call(lambda: store.now(0.0)) for number in range(4)})
        assert store.now(0.0) > 1e9


@pytest.mark.parametrize("at", ["BEGIN", "UPDATE", "INSERT", "COMMIT"])
def test_commit_that_is_not_answered_is_done_once(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """The server is suspended as a statement of the grant's transaction leaves, and goes on."""
    place = place_of(server, server.database())
    place.store.close()
    place.store = place.open(timeout=TIMEOUT)
    driver = place.client(CODE, GRANTED)
    name = driver.start(OAUTH).id
    place.clock.advance(driver.step(name).wait_seconds)
    execute: Any = psycopg.Connection.execute
    commits: list[str] = []

    def freezing(connection: Any, query: Any, *args: Any, **how: Any) -> Any:
        words = str(query).replace(";", "").split()
        if words[0] == "COMMIT":
            commits.append(at)
        # The first transaction is that of the poll, the second that of the grant.
        if words[0] == at and len(commits) == (2 if at == "COMMIT" else 1) and thaw:
            server.freeze()
            thaw.pop().start()
        return execute(connection, query, *args, **how)

    thaw = [threading.Timer(TIMEOUT + 1.0, server.thaw)]
    monkeypatch.setattr(psycopg.Connection, "execute", freezing)

    step = driver.step(name)  # it tries again to keep the token while the store fails

    assert thaw == []
    assert step.state.ended
    monkeypatch.undo()
    actions = [event["action"] for event in place.sql.events(name)]
    assert actions == ["issue_code", "poll", "issue_token"]
    assert driver.collect_token(name).access_token.reveal() == "TOKEN-CANARY"
    place.close()


class OnceApproved:
    """A server that issues a token for the third poll, and none for a code that was used."""

    def __init__(self) -> None:
        self._polls = 0

    def send(self, request: Request, timeout: float) -> Response:
        if request.purpose == "code":
            return CODE
        self._polls += 1
        return PENDING if self._polls < 3 else GRANTED if self._polls == 3 else UNKNOWN_CODE

    def close(self) -> None:
        """Do nothing."""


def test_logins_go_on_whenever_the_server_is_suspended(server: PostgresServer) -> None:
    seed = time.time_ns()
    random = Random(seed)
    place = place_of(server, server.database())
    store = place.open(timeout=0.5)
    failures: list[StoreError] = []
    taken: list[str] = []

    def tried(work: Callable[[], Any]) -> Any:
        """Do it again and again until the store does not fail."""
        while True:
            try:
                return work()
            except StoreError as failed:
                failures.append(failed)

    def log_in(number: int) -> str:
        driver = Client(store, transport=OnceApproved(), clock=place.clock)
        flow = tried(lambda: driver.start(OAUTH, name=f"login-{number}"))
        while not (step := tried(lambda: driver.step(flow.id))).state.ended:
            place.clock.advance(step.wait_seconds)
        assert tried(lambda: driver.start(OAUTH, name=f"login-{number}")).id == flow.id
        token: Token = tried(lambda: driver.collect_token(flow.id))
        tried(lambda: driver.acknowledge(flow.id))
        return token.access_token.reveal()

    logins = Call(lambda: taken.extend(log_in(number) for number in range(LOGINS)))
    suspended = 0
    while logins.is_alive():
        time.sleep(random.uniform(0.0, 0.05))
        with server.frozen():
            time.sleep(random.uniform(0.3, 1.5))
        suspended += 1
        assert suspended < MOST_SUSPENSIONS, f"seed {seed}"

    assert logins.error is None, f"seed {seed}"
    assert taken == ["TOKEN-CANARY"] * LOGINS
    assert failures
    flows = list(all_flows(place.sql))
    assert len(flows) == LOGINS
    for flow in flows:
        history = place.sql.events(flow.id)
        assert list(wrong_with_history(flow, history)) == []
        actions = [event["action"] for event in history]
        assert (actions.count("issue_token"), actions.count("acknowledge")) == (1, 1), (
            f"seed {seed}"
        )
        assert not {"late_token", "orphan_token"} & {*actions}
    place.close()


def test_interrupted_it_waits_no_longer(route: Route) -> None:
    with route.open(timeout=30.0) as store:
        store.now(0.0)
        with route.freeze():
            begun = time.monotonic()
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
            with pytest.raises(KeyboardInterrupt):
                store.now(0.0)
            assert time.monotonic() - begun < SLACK
        assert store.now(0.0) > 1e9


def test_command_ends_in_time(server: PostgresServer) -> None:
    url = server.database()
    PostgresStore(url, keys=KEYS).close()
    environment = {"DEVICEFLOW_STORE": url, "DEVICEFLOW_KEYS": KEYS[0].reveal()}
    with server.frozen():
        done = subprocess.run(
            [*COMMAND, "list"],
            capture_output=True,
            check=False,
            env=os.environ | environment,
            text=True,
            timeout=60,
        )

    assert done.returncode == 74
    assert "try again" in done.stderr


def test_worker_that_is_suspended_in_its_transaction_does_not_hold_up_the_others(
    zygote: Zygote,  # noqa: F811
    server: PostgresServer,
    tmp_path: Path,
) -> None:
    """The database ends its session, and what it had locked is free."""
    with Stage(zygote, tmp_path, server) as stage:
        stage.start()
        suspended = stage.fork("suspended", ("inside claim: poll", 1, signal.SIGSTOP))
        suspended.wait_until_stopped()

        assert stage.fork("other").wait() == 0
        suspended.send(signal.SIGCONT)
        assert suspended.wait() == 0

        flow, history = stage.stored()
        assert list(wrong_with_history(flow, history)) == []
        assert stage.told("other", "delivered") == stage.issued()
        assert stage.told("suspended", "delivered") is None
