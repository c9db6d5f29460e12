"""Grants where a clock is set while a refresh is in flight, and lifetimes that are none."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar, Final

import pytest

from deviceflow import Client, OAuth
from deviceflow.client import grant_end, recorder
from deviceflow.client.lease import GRANT_MARGIN
from deviceflow.core.grant import Grant
from deviceflow.core.ports import GrantLease, Moment
from deviceflow.core.provider import Token
from deviceflow.core.secret import Secret
from deviceflow.core.states import GrantState
from deviceflow.core.wire import Failure
from deviceflow.stores.memory import MemoryStore
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import VirtualClock, answer
from tests.stored import get_grant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from deviceflow.core.wire import Request, Response

LIFE: Final = 1000.0
DEADLINE: Final = 10.0
LEASE: Final = DEADLINE + GRANT_MARGIN
PROVIDER: Final = OAuth(
    client_id="robot",
    device_authorization_endpoint="https://as.example.com/device",
    token_endpoint="https://as.example.com/token",
)


class Server:
    """A server that issues the next token each time, and has something happen before the first.

    Attributes:
        asked: When requests came, by the monotonic clock.
        meanwhile: What happens before the first answer, and what it is instead, if anything.
        fields: What else the answers have.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.meanwhile: Callable[[], Response | Failure | None] = lambda: None
        self.asked: list[float] = []
        self.fields: dict[str, Any] = {"expires_in": LIFE}

    def send(self, request: Request, timeout: float) -> Response | Failure:
        self.asked.append(self._clock.monotonic())
        number = len(self.asked) + 1
        if number == 2 and (spoilt := self.meanwhile()) is not None:
            return spoilt
        issued = {"access_token": f"ACCESS-{number}", "refresh_token": f"REFRESH-{number}"}
        return answer(200, issued | self.fields)

    def close(self) -> None:
        pass


class World:
    """A store with a grant, a clock, and a server."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.clock = VirtualClock()
        self.ahead = 0.0
        self.server = Server(self.clock)
        now = self.clock.time()
        grant = Grant("g1", "nightly", PROVIDER, now)
        token = Token(Secret("ACCESS-1"), expires_at=now + LIFE, refresh_token=Secret("REFRESH-1"))
        given = grant.log_in(token, PROVIDER, now, flow_id="f1")
        event = recorder.render_grant(self.client()._context, grant, given, "w0")
        assert store.commit(grant, event)

    def client(self) -> Client:
        """Return the client of another process, which knows no earlier time."""
        clock = Ahead(self.clock, self.ahead)
        return Client(self.store, clock=clock, transport=self.server, deadline=DEADLINE)

    def refuse(self) -> None:
        """Record that a server refused the token, and get no other one yet."""
        client = self.client()
        client._run(grant_end.refuse, "nightly", Secret("ACCESS-1"))

    def waited(self) -> list[float]:
        """Return the times of the requests, from the first one on."""
        return [time - self.server.asked[0] for time in self.server.asked]


@pytest.fixture(params=["memory", "sqlite"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    store: Any = MemoryStore()
    if request.param == "sqlite":
        store = SQLiteStore(tmp_path / "grants.db", plaintext=True)
    with closing(store):
        yield World(store)


@pytest.mark.parametrize("ahead", [-90 * 86400.0, -3600.0, -20.0, -2.0, 0.0])
def test_refresh_is_not_sent_again_within_its_lease_though_the_clock_is_set_back(
    world: World, ahead: float
) -> None:
    """Nothing is left to use, and the one who sends it is suspended."""
    world.refuse()

    def meanwhile() -> None:
        world.clock.set_wall(ahead)
        assert world.client().get_token("nightly").access_token.reveal() == "ACCESS-3"

    world.server.meanwhile = meanwhile

    world.client().get_token("nightly")

    # The client that goes on by its own time may find what the other one stored expired.
    second = world.waited()[1]
    assert LEASE <= second <= LEASE + 1.0
    assert world.client().grant("nightly").state is GrantState.ACTIVE


def test_refresh_is_not_sent_again_by_who_waits_when_the_clock_is_set_forward(
    world: World,
) -> None:
    world.refuse()
    waits = world.client()
    sleep, slept = world.clock.sleep, list[float]()

    def sleep_and_set(seconds: float) -> None:
        sleep(seconds)
        slept.append(seconds)
        if len(slept) == 3:
            world.clock.set_wall(3600)

    world.clock.sleep = sleep_and_set  # type: ignore[method-assign]
    world.server.meanwhile = lambda: (waits.get_token("nightly"), None)[1]

    world.client().get_token("nightly")

    _, second, *_ = world.waited()  # by this clock, what the second one brought has ended
    assert LEASE <= second <= LEASE + 1.0


@pytest.mark.parametrize("ahead", [-90 * 86400.0, -3600.0, -20.0, -2.0, 0.0])
def test_lease_that_stays_after_a_timeout_ends_though_the_clock_is_set_back(
    world: World, ahead: float
) -> None:
    """The server may still be at work on it."""
    world.refuse()

    def meanwhile() -> Failure:
        world.clock.set_wall(ahead)
        return Failure("timeout", sent=True)

    world.server.meanwhile = meanwhile

    token = world.client().get_token("nightly")

    assert token.access_token.reveal() == "ACCESS-3"
    _, second = world.waited()
    assert LEASE <= second <= LEASE + 1.0
    assert len(world.clock.slept) < 100


class Ahead:
    """The clocks of a process whose wall clock is some seconds ahead of the others'."""

    def __init__(self, clock: VirtualClock, ahead: float) -> None:
        self._clock, self._ahead = clock, ahead
        self.monotonic, self.sleep, self.boot = clock.monotonic, clock.sleep, clock.boot

    def time(self) -> float:
        return self._clock.time() + self._ahead


AHEAD: Final = [20.0, 3600.0, 10 * 365 * 86400.0, -30.0, -3600.0]


@pytest.mark.parametrize("ahead", AHEAD)
@pytest.mark.parametrize("by", ["get_token", "sweep_grants"])
def test_process_whose_clock_differs_does_not_send_a_refresh_under_way_again(
    world: World, by: str, ahead: float
) -> None:
    """Not a process that has just started either: it has seen nothing yet."""
    world.refuse()
    world.store.use("g1", world.clock.time() + max(ahead, 0), ())
    world.ahead = ahead

    def meanwhile() -> None:
        for _ in range(5):
            other = world.client()
            assert by == "get_token" or other.sweep_grants().problems == []
            world.clock.advance(1)
        if by == "get_token":
            world.client().get_token("nightly")

    world.server.meanwhile = meanwhile

    Client(world.store, clock=world.clock, transport=world.server).get_token("nightly")

    waited = world.waited()
    assert len(waited) == (2 if by == "get_token" else 1)
    assert LEASE <= waited[-1] <= LEASE + 1.0 or len(waited) == 1


@pytest.mark.parametrize("ahead", AHEAD)
def test_process_whose_clock_differs_takes_over_as_soon_as_another_one_would(
    world: World, ahead: float
) -> None:
    leave_refreshing(world)
    world.ahead = ahead
    world.clock.advance(LEASE)

    world.client().get_token("nightly")

    assert sum(world.clock.slept) == 0
    assert len(world.server.asked) == 1


def leave_refreshing(world: World) -> None:
    """Leave the grant as a process does that is killed right before it sends a refresh."""
    client, now = world.client(), world.clock
    client._run(grant_end.refuse, "nightly", Secret("ACCESS-1"))
    moment = Moment(now.time(), now.monotonic(), now.boot()[0])
    grant = get_grant(world.store, "nightly", moment)
    begun = grant.refresh(now.time(), *now.boot())
    event = recorder.render_grant(client._context, grant, begun, "w0")
    assert world.store.commit(grant, event, lease=GrantLease("w0", LEASE, moment))


@pytest.mark.parametrize("by", ["get_token", "sweep_grants"])
@pytest.mark.parametrize("steady", [10.0, 1e6])
@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
def test_lease_of_another_start_of_the_machine_is_waited_out_once(
    world: World, by: str, steady: float
) -> None:
    """Each process has just started: what the first one saw, it leaves to the next ones."""
    leave_refreshing(world)
    world.store.use("g1", world.clock.time(), ())
    started = VirtualClock(wall=world.clock.time() + LIFE / 4)
    started.set_wall(started.monotonic() - steady)
    started.advance(steady - started.monotonic())
    started.boot = lambda: ("another start", started.monotonic())  # type: ignore[method-assign]
    world.clock, world.server._clock = started, started

    if by == "get_token":
        world.client().get_token("nightly")
    else:
        while not world.server.asked:
            assert started.monotonic() < steady + 60
            assert world.client().sweep_grants().problems == []
            started.advance(1)

    (sent,) = world.server.asked
    assert LEASE <= sent - steady <= LEASE + 1.0


def test_lease_lasts_as_long_as_the_request_though_the_machine_sleeps(world: World) -> None:
    """A request's hard deadline is by the monotonic clock, which stands still meanwhile."""
    world.refuse()

    def meanwhile() -> None:
        world.clock.suspend(3600)
        world.client().get_token("nightly")

    world.server.meanwhile = meanwhile

    world.client().get_token("nightly")

    assert LEASE <= world.waited()[1] <= LEASE + 1.0


@pytest.mark.parametrize("ahead", AHEAD)
def test_processes_whose_clocks_differ_do_not_refresh_each_others_tokens(
    world: World, ahead: float
) -> None:
    def ask(by: float) -> None:
        world.ahead = by
        world.client().get_token("nightly")
        world.store.use("g1", world.clock.time() + by, ())
        world.client().sweep_grants()

    world.clock.advance(LIFE)
    for turn in range(40):
        ask(ahead if turn % 2 else 0.0)
        world.clock.advance(LIFE / 20)

    # Once at the beginning, and then when the tokens end, as for one process.
    assert len(world.server.asked) <= 4


def test_grant_goes_on_at_once_after_the_clock_was_set_back(world: World) -> None:
    """What was noted by the clock that was ahead keeps nobody waiting."""
    world.clock.set_wall(3600)
    world.client().get_token("nightly", min_ttl=LIFE)
    world.clock.set_wall(-3600)

    for _ in range(3):
        world.clock.advance(LIFE * 0.6)
        world.client().get_token("nightly", min_ttl=LIFE)

    assert len(world.waited()) == 4
    assert max(world.clock.slept, default=0.0) == 0.0


def test_processes_agree_on_the_time_though_one_has_seen_the_clock_set_back(world: World) -> None:
    """Else each would find the other's tokens expired, or issued in the future, time after time."""
    old = world.client()
    world.clock.set_wall(-10 * LIFE)
    young = world.client()
    world.clock.advance(LIFE)

    for _ in range(10):
        world.clock.advance(LIFE / 20)
        assert old.get_token("nightly") == young.get_token("nightly")

    assert len(world.server.asked) == 1


_ASK: Final = """
import sys, time
from deviceflow import Client
from deviceflow.client.clock import SystemClock
from deviceflow.stores.sqlite import SQLiteStore

class Shifted(SystemClock):
    def time(self):
        return time.time() + float(sys.argv[2])

client = Client(SQLiteStore(sys.argv[1], plaintext=True), clock=Shifted())
print("asks", flush=True)
print(client.get_token("nightly").access_token.reveal())
"""


class Endpoint(BaseHTTPRequestHandler):
    """A token endpoint that answers late, and counts."""

    sent: ClassVar[list[str]] = []
    asked, answers = threading.Event(), threading.Event()

    def do_POST(self) -> None:
        self.sent.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.asked.set()
        self.answers.wait(60)
        body = json.dumps({"access_token": "ACCESS-2", "refresh_token": "R-2", "expires_in": LIFE})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None: ...


def test_real_processes_of_shifted_wall_clocks_send_one_refresh(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    path = tmp_path / "grants.db"
    url = f"http://127.0.0.1:{server.server_port}"
    provider = OAuth(
        client_id="robot",
        device_authorization_endpoint=f"{url}/device",
        token_endpoint=f"{url}/token",
    )
    now = time.time()
    with closing(SQLiteStore(path, plaintext=True)) as store:
        grant = Grant("g1", "nightly", provider, now)
        token = Token(Secret("ACCESS-1"), expires_at=now + LIFE, refresh_token=Secret("R-1"))
        client = Client(store)
        given = grant.log_in(token, provider, now, flow_id="f1")
        assert store.commit(grant, recorder.render_grant(client._context, grant, given, "w0"))
        client._run(grant_end.refuse, "nightly", Secret("ACCESS-1"))

    def ask(shift: float) -> subprocess.Popen[str]:
        arguments = [sys.executable, "-c", _ASK, str(path), str(shift)]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)

    processes = [ask(0)]
    try:
        assert Endpoint.asked.wait(60)
        processes += [ask(shift) for shift in (30, 1e8, -3600)]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "asks\n"
        time.sleep(1)  # they are to look at the grant meanwhile
        Endpoint.answers.set()
        said = [process.communicate(timeout=60)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
        server.shutdown()
        server.server_close()

    assert said == ["ACCESS-2\n"] * 4
    assert len(Endpoint.sent) == 1


# Machines that sleep.


@pytest.mark.parametrize("stands_still", [True, False])
def test_token_that_ended_while_the_machine_slept_is_not_given(
    world: World, stands_still: bool
) -> None:
    """On Linux the monotonic clock stands still meanwhile; on others it goes on."""
    client = world.client()
    assert client.get_token("nightly").access_token.reveal() == "ACCESS-1"

    if stands_still:
        world.clock.suspend(LIFE)
    else:
        world.clock.advance(LIFE)

    assert client.get_token("nightly").access_token.reveal() == "ACCESS-2"
    assert len(world.server.asked) == 1


def test_answer_that_came_when_the_machine_slept_counts_from_before(world: World) -> None:
    """The token's life began when the request was sent, for all that is known."""
    world.refuse()

    def sleeps() -> None:
        world.clock.suspend(LIFE - 100)

    world.server.meanwhile = sleeps

    token = world.client().get_token("nightly")

    assert token.access_token.reveal() in ("ACCESS-2", "ACCESS-3")
    assert world.client().grant("nightly").expires_at is not None
    world.clock.advance(101)
    again = world.client().get_token("nightly")
    assert (again.access_token == token.access_token) is (token.generation > 2)


# Lifetimes that are none.


@pytest.mark.parametrize(
    "said",
    [None, 0, -1, -1e300, "", "soon", "-5", "nan", True, [], {}, [3600], {"seconds": 3600}],
)
def test_token_of_unknown_lifetime_serves_until_it_is_refused(world: World, said: object) -> None:
    world.server.fields = {} if said is None else {"expires_in": said}
    world.clock.advance(LIFE)

    token = world.client().get_token("nightly")
    world.clock.advance(365 * 86400.0)

    assert world.client().get_token("nightly").access_token == token.access_token
    assert (token.generation, token.expires_at) == (2, None)
    assert len(world.server.asked) == 1
    assert world.client().sweep_grants().names == []
    assert world.client().invalidate("nightly", token)
    assert world.client().get_token("nightly").generation == 3


@pytest.mark.parametrize(
    ("said", "lives"), [(3600, 3600), ("3600", 3600), (3600.5, 3600.5), ("7.2e3", 7200)]
)
def test_lifetime_may_be_a_text(world: World, said: object, lives: float) -> None:
    world.server.fields = {"expires_in": said}
    world.clock.advance(LIFE)

    token = world.client().get_token("nightly")

    assert token.expires_at == pytest.approx(world.clock.time() + lives)


@pytest.mark.parametrize("said", [10**10, 1e300, "inf", "9" * 400, 10**400, 2**63])
def test_lifetime_beyond_all_measure_ends_nowhere_near(world: World, said: object) -> None:
    world.server.fields = {"expires_in": said}
    world.clock.advance(LIFE)

    token = world.client().get_token("nightly")
    world.clock.advance(10 * 365 * 86400.0)

    assert world.client().get_token("nightly").access_token == token.access_token
    assert len(world.server.asked) == 1


def test_lifetime_shorter_than_the_answer_takes_costs_a_few_requests(world: World) -> None:
    world.server.fields = {"expires_in": 1}
    world.clock.advance(LIFE)
    send = world.server.send

    def slow(request: Request, timeout: float) -> Response | Failure:
        world.clock.advance(2)
        return send(request, timeout)

    world.server.send = slow  # type: ignore[method-assign]

    token = world.client().get_token("nightly")

    assert token.generation == len(world.server.asked) + 1 == 4
