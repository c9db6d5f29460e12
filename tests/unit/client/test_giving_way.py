"""Each operation is given up at each of its calls in turn, and then the login continues.

Nothing that the server issued may be lost: it is in the store, in the hands of the caller, revoked,
or, where the answer itself never arrived, on record as in doubt.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import parse_qs

import pytest

from deviceflow import errors
from deviceflow.client import handover, lookup, purge, start, step, wait
from deviceflow.client import login as logins
from deviceflow.client._sync import Client, _SyncWorld
from deviceflow.client.world import MUST_FINISH, Exchange
from deviceflow.client.world import World as Ports
from deviceflow.core.states import Reason, State
from deviceflow.providers.oauth import OAuth
from deviceflow.stores.memory import MemoryStore
from deviceflow.testing import VirtualClock, answer
from tests.listed import sweep_each
from tests.stored import flows, get
from tests.tapped import Tapped, suspend

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from deviceflow.core.flow import Flow
    from deviceflow.core.wire import Request, Response

    How = Literal["close before", "close after", "interrupt before", "interrupt after"]

OAUTH: Final = OAuth(
    client_id="robot",
    device_authorization_endpoint="https://as.example.com/device_authorization",
    token_endpoint="https://as.example.com/token",
    revocation_endpoint="https://as.example.com/revoke",
)
HOWS: Final = ("close before", "close after", "interrupt before", "interrupt after")


class Server:
    """Issues one token for each code, at the second poll."""

    def __init__(self) -> None:
        self.polls: dict[str, int] = {}
        self.issued: list[str] = []
        self.revoked: list[str] = []

    def send(self, request: Request, timeout: float) -> Response:
        fields = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        if request.purpose == "code":
            code = f"code {len(self.polls)}"
            self.polls[code] = 0
            page = {"user_code": "U", "verification_uri": "https://as.example.com/device"}
            return answer(200, {"device_code": code, "expires_in": 600} | page)
        if request.purpose == "revoke":
            self.revoked.append(fields["token"])
            return answer(200, "")
        code = fields["device_code"]
        self.polls[code] += 1
        if self.polls[code] < 2:
            return answer(400, {"error": "authorization_pending"})
        if self.polls[code] > 2:
            return answer(400, {"error": "invalid_grant"})
        self.issued.append(f"token of {code}")
        return answer(200, {"access_token": self.issued[-1], "token_type": "Bearer"})

    def close(self) -> None:
        pass


class DurableStore(MemoryStore):
    """Stands for a store that outlives the process."""

    durable = True


class World:
    """A client, its store, its clock, and the server."""

    def __init__(self) -> None:
        self.clock, self.store, self.server = VirtualClock(), DurableStore(), Server()
        self.client = self.another_client()

    def another_client(self) -> Client:
        return Client(
            self.store,
            clock=self.clock,
            transport=self.server,
            output=lambda _: None,
            browser=lambda _: True,
        )

    def flow(self) -> Flow | None:
        return next(iter(flows(self.store)), None)

    def started(self) -> str:
        return self.client.start(OAUTH, name="nightly").id

    def due(self) -> str:
        """Return a flow whose next poll brings the token."""
        flow_id = self.started()
        self.clock.advance(6)
        self.client.step(flow_id)
        self.clock.advance(6)
        return flow_id

    def authorized(self) -> str:
        flow_id = self.due()
        assert self.client.step(flow_id).state is State.AUTHORIZED
        return flow_id

    def collected(self) -> str:
        flow_id = self.authorized()
        self.client.collect_token(flow_id)
        return flow_id


async def collect(ports: Ports, flow_id: str) -> None:
    held = await handover.begin_collection(ports, flow_id, 60)
    await handover.end_collection(ports, held, acknowledged=False)


def nothing(_: World) -> str:
    return ""


CASES: Final[
    dict[str, tuple[Callable[[World], str], Callable[[Ports, str], Coroutine[Any, Any, Any]]]]
] = {
    "create": (nothing, lambda ports, _: start.create(ports, OAUTH, "nightly", None, {})),
    "start": (nothing, lambda ports, _: start.start(ports, OAUTH, "nightly", None, {})),
    "first poll": (World.started, step.step),
    "last poll": (World.due, step.step),
    "sweep": (World.due, lambda ports, _: sweep_each(ports, 100)),
    "wait": (World.started, lambda ports, f: wait.wait(ports, f, 60, lambda _: None)),
    "wait_for_token": (World.due, lambda ports, f: wait.wait_for_token(ports, f, None)),
    "login": (
        nothing,
        lambda ports, _: logins.login(
            ports,
            OAUTH,
            "nightly",
            None,
            {},
            open_browser=True,
            timeout=None,
            acknowledges=False,
        ),
    ),
    "get": (World.authorized, lookup.get),
    "collect_token": (World.authorized, handover.collect_token),
    "collect": (World.authorized, collect),
    "acknowledge": (World.collected, handover.acknowledge),
    "cancel": (World.due, lambda ports, f: wait.cancel(ports, f, "not wanted")),
    "purge": (World.authorized, lambda ports, _: purge.purge(ports, 0, 1e9)),
}


class GivingWay:
    """Gives way at one call of an operation, as a client that is told to stop.

    Args:
        clock: The clock.
        number: The number of the call; the next one that may be interrupted counts.
        how: Whether the operation is closed or interrupted, and whether the call is made.

    Attributes:
        given: Whether it has given way.
        lost: Whether the answer to a request was thrown away.
    """

    def __init__(self, clock: VirtualClock, number: int, how: How) -> None:
        self._clock, self._number, self._how = clock, number, how
        self._count = 0
        self.given = self.lost = False
        self.stop = KeyboardInterrupt()

    async def around(self, name: str, call: Any, *args: Any, **kwargs: Any) -> Any:
        self._count += 1
        if self.given or self._count < self._number or name in {*MUST_FINISH, "write_audit"}:
            return await call(*args, **kwargs)
        self.given = True
        if self._how.endswith("after"):
            await call(*args, **kwargs)
            self.lost = name == "send"
        if self._how.startswith("close"):
            await suspend()
        if name == "send":
            return Exchange(self.stop, self._clock.monotonic())
        raise self.stop


def give_up(
    client: Client, operation: Callable[[Ports], Coroutine[Any, Any, Any]], giving: GivingWay
) -> bool:
    """Run an operation until it gives way; return whether it came to its end before that."""
    world = _SyncWorld(client)
    ports: Any = Tapped(world, giving.around)
    coroutine = operation(ports)
    try:
        coroutine.send(None)
    except StopIteration:
        assert not giving.given
        return True
    except KeyboardInterrupt:
        return False
    finally:
        world.close()
        coroutine.close()
    return False


def check(world: World, number: int, how: How, name: str, *, crash: bool) -> bool:
    """Give an operation up at a call, continue the login, and see that nothing is lost."""
    prepare, operation = CASES[name]
    flow_id = prepare(world)
    giving = GivingWay(world.clock, number, how)
    ended = give_up(world.client, lambda ports: operation(ports, flow_id), giving)
    flow = world.flow()
    if flow is None:
        assert world.server.issued == []
        return ended
    client = world.another_client() if crash else world.client
    world.clock.advance(30)  # a lease that was left behind is over
    outcome: str | None = None
    try:
        token = client.wait_for_token(flow.id).access_token.reveal()
    except errors.DeviceFlowError as error:
        outcome = type(error).__name__
    else:
        assert token in world.server.issued
        return ended
    client.sweep()
    left = get(world.store, flow.id)
    issued = set(world.server.issued) - set(world.server.revoked)
    assert not [secret for _, secret in left.to_revoke]
    if name == "acknowledge":
        assert outcome == "TokenGoneError"
        assert left.handover == "acknowledged"
    elif giving.lost and left.reason is Reason.OUTCOME_UNKNOWN:
        assert len(issued) == 1  # the answer never arrived, and the record says so
    else:
        assert issued == set(), (number, how, outcome, json.dumps(sorted(issued)))
        assert outcome in ("LoginCancelledError", "TokenGoneError")
    return ended


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", CASES)
def test_nothing_issued_is_lost_wherever_an_operation_is_given_up(name: str, how: How) -> None:
    number = 1
    while not check(World(), number, how, name, crash=False):
        number += 1

    assert number > 1


@pytest.mark.parametrize("how", ["close before", "interrupt before"])
@pytest.mark.parametrize("name", CASES)
def test_answer_is_seen_through_to_its_commit(name: str, how: How) -> None:
    """Whoever goes on is another process: what the client held in memory is gone."""
    number = 1
    while not check(World(), number, how, name, crash=True):
        number += 1

    assert number > 1
