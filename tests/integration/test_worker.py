"""`deviceflow worker` as a process: it drives, shares, stops, dies and is taken over from."""

from __future__ import annotations

import json
import signal
import socket
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import Client, State
from deviceflow.cli import exits
from deviceflow.core.ports import Claim
from deviceflow.core.states import Reason
from deviceflow.providers.oauth import OAuth
from tests.crash.checks import unfolded, wrong_with_history, wrong_with_polls
from tests.crash.gate import Rule, WatchedServer
from tests.crash.places import KINDS, time_and_place
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from deviceflow.core.login import Login
    from deviceflow.stores.sql import SQLStore
    from tests.crash.places import Place
    from tests.integration.command import Command, Running
    from tests.postgres import PostgresServer

PATIENCE: Final = 60.0  # seconds, for what takes a fraction of one
LOOK: Final = 0.02
SECRET: Final = "robot-secret-0123456789"


def until(so: Callable[[], object]) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not so():
        assert time.monotonic() < deadline, "it does not come to be so"
        time.sleep(LOOK)


class Stage:
    """A store, a server that decides by rules, and any number of workers."""

    def __init__(
        self, command: Command, place: Place, store: SQLStore, server: WatchedServer
    ) -> None:
        self._command = command
        self._place = place
        self.store = store
        self.server = server
        self.client = Client(store)
        keys = {"DEVICEFLOW_KEYS": ",".join(place.keys)} if place.keys else {}
        self.environment = {"DEVICEFLOW_STORE": place.url} | keys

    def start(self, name: str, rule: Rule | None = None, **more: Any) -> Login:
        """Start a login in this process, which does nothing more about it."""
        self.server.gate.rules[name] = rule or Rule()
        server = f"{self.server.url}/oauth"
        provider = OAuth(
            client_id=name,
            device_authorization_endpoint=f"{server}/device_authorization",
            token_endpoint=f"{server}/token",
            **more,
        )
        return self.client.start(provider, name=name)

    @contextmanager
    def worker(self, *args: str, **environment: str) -> Iterator[Running]:
        with self._command.running(
            "worker", "--json", *args, environment=self.environment | environment
        ) as running:
            yield running

    def state(self, login: Login) -> State:
        return get(self.store, login.id).state

    def polls(self, name: str) -> int:
        return sum(len(login["requests"]) for login in self.server.log(name))

    def is_free(self, login: Login) -> bool:
        """Tell whether nobody holds the lease, and nobody has left it behind."""
        claim = self.store.claim(login.id, "looking", time.time(), 1.0)
        if not isinstance(claim, Claim):
            return False
        self.store.release(login.id, "looking")
        return claim.previous_owner is None

    def wrong(self, *logins: Login) -> list[str]:
        """Return what is wrong with the polls and the histories of logins that are over."""
        found: list[str] = []
        for login in logins:
            [entry] = self.server.log(str(login.name))
            history = unfolded(self.store.events(login.id))
            found += wrong_with_polls(entry, history)
            found += wrong_with_history(get(self.store, login.id), history)
        return found


on_both = pytest.mark.parametrize("stage", KINDS, indirect=True)


@pytest.fixture
def stage(deviceflow: Command, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Set a stage with a SQLite file; for a test that is marked `on_both`, with PostgreSQL too."""
    postgres: PostgresServer | None = None
    if getattr(request, "param", "sqlite") == "postgresql":
        postgres = request.getfixturevalue("postgres_server")
    (tmp_path / "place").mkdir()
    secrets = dict.fromkeys(("trusted", "stuck"), SECRET)
    with ExitStack() as stack:
        clock, place = stack.enter_context(time_and_place(tmp_path / "place", postgres))
        server = stack.enter_context(
            WatchedServer(clock, interval=1.0, expires_in=60, client_secrets=secrets)
        )
        yield Stage(deviceflow, place, stack.enter_context(place.open()), server)


def events(running: Running) -> list[dict[str, Any]]:
    """Wait for the end, and return what a worker said on stdout."""
    done = running.end()
    assert done.code == 0, done.out + done.err
    return [json.loads(line) for line in done.out.splitlines()]


def next_event(running: Running, name: str) -> dict[str, Any]:
    assert running.process.stdout is not None
    for line in running.process.stdout:
        event: dict[str, Any] = json.loads(line)
        if event["event"] == name:
            return event
    raise AssertionError(running.end().err)


@on_both
def test_logins_that_are_started_elsewhere_are_driven_to_their_ends(stage: Stage) -> None:
    with stage.worker() as worker:
        next_event(worker, "started")
        logins = [
            stage.start("now", Rule("approve")),
            stage.start("later", Rule("approve", after=1.5)),
            stage.start("never", Rule("deny")),
            stage.start("slow", Rule("approve", after=0.5, spoil={1: "503"})),
        ]
        until(lambda: all(stage.state(login).ended for login in logins))
        worker.process.send_signal(signal.SIGTERM)
        said = events(worker)

    assert [stage.state(login) for login in logins] == [
        State.AUTHORIZED,
        State.AUTHORIZED,
        State.FAILED,
        State.AUTHORIZED,
    ]
    ended = {event["flow_id"]: event["state"] for event in said if event["event"] == "ended"}
    assert ended == {login.id: stage.state(login) for login in logins}
    assert [event["event"] for event in said[-2:]] == ["stopping", "stopped"]
    assert stage.wrong(*logins) == []
    assert all(map(stage.is_free, logins))


@on_both
def test_two_workers_share_the_logins_of_a_store(stage: Stage) -> None:
    with stage.worker("--until-idle") as one, stage.worker("--until-idle") as other:
        logins = [stage.start(f"robot-{n}", Rule("approve", after=1.5)) for n in range(10)]
        said = events(one) + events(other)

    ended = [event["flow_id"] for event in said if event["event"] == "ended"]
    assert sorted(ended) == sorted(login.id for login in logins)
    assert stage.wrong(*logins) == []
    assert not [event for event in said if event["event"] == "problem"]


@on_both
def test_sigterm_lets_the_request_in_flight_end_and_sends_no_other(stage: Stage) -> None:
    login = stage.start("robot", Rule("approve", hold="issued"))
    with stage.worker() as worker:
        assert stage.server.gate.held.wait(PATIENCE)
        other = stage.start("other")
        worker.process.send_signal(signal.SIGTERM)
        next_event(worker, "stopping")
        until(lambda: is_due(stage, other))
        assert worker.process.poll() is None
        stage.server.gate.let_go.set()
        said = events(worker)

    assert [event["event"] for event in said] == ["ended", "stopped"]
    assert stage.client.collect_token(login.id).access_token.reveal().startswith("canary-")
    assert stage.polls("other") == 0
    assert stage.is_free(login)
    assert stage.is_free(other)


def is_due(stage: Stage, login: Login) -> bool:
    return stage.client.get(login.id).wait_seconds == 0


def test_a_second_signal_interrupts_the_request_and_stores_that(stage: Stage) -> None:
    login = stage.start("robot", Rule("approve", hold="issued"))
    with stage.worker() as worker:
        assert stage.server.gate.held.wait(PATIENCE)
        worker.process.send_signal(signal.SIGTERM)
        next_event(worker, "stopping")
        worker.process.send_signal(signal.SIGTERM)
        said = events(worker)
    stage.server.gate.let_go.set()

    assert [event["event"] for event in said] == ["stopped"]
    flow = get(stage.store, login.id)
    assert (flow.state, flow.in_doubt) == (State.AWAITING_USER, True)
    assert stage.is_free(login)
    # The server has issued the token to nobody. Whoever goes on must not say 'denied' or 'expired'.
    with stage.worker("--until-idle") as worker:
        events(worker)
    assert get(stage.store, login.id).reason is Reason.OUTCOME_UNKNOWN


@on_both
def test_a_worker_that_is_killed_is_taken_over_from(stage: Stage) -> None:
    logins = [stage.start(f"robot-{n}", Rule(None)) for n in range(3)]
    with stage.worker(DEVICEFLOW_TRAIL="each") as worker:
        until(lambda: all(get(stage.store, login.id).seq >= 3 for login in logins))
        worker.process.kill()
        worker.process.wait(PATIENCE)
        for login in logins:  # not before, or the token might be on its way when the worker dies
            stage.server.gate.rules[str(login.name)] = Rule("approve")
        with stage.worker("--until-idle") as heir:
            events(heir)

    assert {stage.state(login) for login in logins} == {State.AUTHORIZED}
    assert stage.wrong(*logins) == []


def test_a_job_ends_when_no_login_is_pending(stage: Stage) -> None:
    with stage.worker("--until-idle") as worker:
        assert [event["event"] for event in events(worker)] == ["started", "stopped"]
    login = stage.start("robot", Rule("approve", after=1.5))
    created = stage.client.create(login.provider.with_request(scopes="x"), name="created")
    with stage.worker("--until-idle") as worker:
        said = events(worker)

    assert [event["event"] for event in said] == ["started", "ended", "stopped"]
    assert stage.state(created) is State.INIT


def test_a_login_that_cannot_be_stepped_harms_no_other(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBOT_SECRET", SECRET)  # in this process only
    stuck = stage.start("stuck", client_secret="env:ROBOT_SECRET")
    login = stage.start("robot")
    with stage.worker("--until-idle") as worker:
        said = events(worker)

    [problem] = [event for event in said if event["event"] == "problem"]
    assert problem["flow_id"] == stuck.id
    assert "env:ROBOT_SECRET" in problem["error"]
    assert stage.state(login) is State.AUTHORIZED
    assert stage.is_free(stuck)


def test_sighup_reads_the_configuration_again(
    stage: Stage,
    deviceflow: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ROBOT_SECRET", SECRET)
    with stage.worker(ROBOT_SECRET=SECRET) as worker:
        next_event(worker, "started")
        deviceflow.configure("this is not TOML")
        worker.process.send_signal(signal.SIGHUP)
        assert "cannot be read" in next_event(worker, "problem")["error"]
        deviceflow.configure('[profiles.work]\nclient_secret = "env:ROBOT_SECRET"\n')
        worker.process.send_signal(signal.SIGHUP)
        next_event(worker, "reloaded")
        # Only a process that is configured to read a secret sends it for a stored login.
        login = stage.start("trusted", client_secret="env:ROBOT_SECRET")
        assert next_event(worker, "ended")["flow_id"] == login.id
        worker.process.send_signal(signal.SIGTERM)
        events(worker)

    assert stage.state(login) is State.AUTHORIZED


class Systemd:
    """Listens where a service says how it is doing."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)

    def next(self, seconds: float = PATIENCE) -> str | None:
        """Return the next message; None if none comes for so long."""
        self._socket.settimeout(seconds)
        try:
            return self._socket.recv(4096).decode()
        except TimeoutError:
            return None

    def wait_for(self, start: str) -> None:
        while not str(message := self.next()).startswith(start):
            assert message is not None, f"{start} does not come"

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    listener = Systemd(tmp_path / "notify")
    yield listener
    listener.close()


def test_systemd_is_told_and_the_watchdog_is_fed_by_progress_only(
    stage: Stage, systemd: Systemd
) -> None:
    watched = {"NOTIFY_SOCKET": systemd.path, "WATCHDOG_USEC": "200000"}
    with stage.worker("--concurrency", "1", **watched) as worker:
        assert systemd.next() == "READY=1"
        for _ in range(3):
            systemd.wait_for("WATCHDOG=1")  # there is nothing to do, and it has looked
        worker.process.send_signal(signal.SIGHUP)
        systemd.wait_for("RELOADING=1\nMONOTONIC_USEC=")
        systemd.wait_for("READY=1")

        stage.start("held", Rule("approve", hold="issued"))
        other = stage.start("other")
        assert stage.server.gate.held.wait(PATIENCE)
        until(lambda: is_due(stage, other))
        while systemd.next(0.3):  # what was sent before
            pass
        # A request is in flight, a login is due, and nothing gets on: as if the worker was stuck.
        assert systemd.next(1.0) is None
        stage.server.gate.let_go.set()
        systemd.wait_for("WATCHDOG=1")
        worker.process.send_signal(signal.SIGTERM)
        systemd.wait_for("STOPPING=1")
        events(worker)


def test_probes_read_the_health_file(stage: Stage, deviceflow: Command, tmp_path: Path) -> None:
    path = tmp_path / "health"
    assert deviceflow("worker", "--check", str(path)).code == exits.FAILED
    with stage.worker("--health-file", str(path)) as worker:
        until(path.exists)
        checked = deviceflow("worker", "--check", str(path), "--json")
        assert checked.code == 0
        assert checked.said["pid"] == worker.process.pid
        assert checked.said["store_failed"] is False
        assert deviceflow("worker", "--check", str(path), "--max-age", "0").code == exits.FAILED
        worker.process.send_signal(signal.SIGTERM)
        events(worker)
    assert not path.exists()


def test_a_store_that_cannot_be_used_is_an_error_at_once(
    deviceflow: Command, tmp_path: Path
) -> None:
    missing = f"sqlite:///{tmp_path}/none/flows.db"
    for args, code in ((["--store", missing], exits.STORE), (["--store", "memory:"], exits.USAGE)):
        done = deviceflow("worker", *args)
        assert done.code == code
        assert done.err.startswith("deviceflow: ")
