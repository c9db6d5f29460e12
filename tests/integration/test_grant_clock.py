"""Grants where a clock is set while a refresh is in flight, and lifetimes that are none."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import Client, OAuth
from deviceflow.client import grant_end
from deviceflow.client.lease import GRANT_MARGIN
from deviceflow.core.grant import Grant
from deviceflow.core.provider import Token
from deviceflow.core.secret import Secret
from deviceflow.core.states import GrantState
from deviceflow.core.wire import Failure
from deviceflow.stores.memory import MemoryStore
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import VirtualClock, answer

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
        self.server = Server(self.clock)
        now = self.clock.time()
        grant = Grant("g1", "nightly", PROVIDER, now)
        token = Token(Secret("ACCESS-1"), expires_at=now + LIFE, refresh_token=Secret("REFRESH-1"))
        given = grant.log_in(token, PROVIDER, now, flow_id="f1")
        event = self.client()._context.recorder.render_grant(grant, given, "w0")
        assert store.commit_grant(grant, event)

    def client(self) -> Client:
        """Return the client of another process, which knows no earlier time."""
        return Client(self.store, clock=self.clock, transport=self.server, deadline=DEADLINE)

    def refuse(self) -> None:
        """Record that a server refused the token, and get no other one yet."""
        client = self.client()
        client._run(grant_end.refuse(client._context, "nightly", Secret("ACCESS-1")))

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

    _, second = world.waited()
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


# Machines that sleep.


@pytest.mark.parametrize("stands_still", [True, False])
def test_token_that_ended_while_the_machine_slept_is_not_given(
    world: World, stands_still: bool
) -> None:
    """On Linux the monotonic clock stands still meanwhile; on others it goes on."""
    client = world.client()
    assert client.get_token("nightly").access_token.reveal() == "ACCESS-1"

    if stands_still:
        world.clock.set_wall(LIFE)
    else:
        world.clock.advance(LIFE)

    assert client.get_token("nightly").access_token.reveal() == "ACCESS-2"
    assert len(world.server.asked) == 1


def test_answer_that_came_when_the_machine_slept_counts_from_before(world: World) -> None:
    """The token's life began when the request was sent, for all that is known."""
    world.refuse()

    def sleeps() -> None:
        world.clock.set_wall(LIFE - 100)

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
