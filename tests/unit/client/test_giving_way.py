"""Each operation is given up at each of its effects in turn, and then the login is gone on with.

Nothing that the server issued may be lost: it is in the store, in the hands of the caller, revoked,
or, where the answer itself never arrived, on record as in doubt.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import parse_qs

import pytest
from deviceflow.client.effects import MUST_FINISH, Exchange, Send

from deviceflow import errors
from deviceflow.client import handover, lookup, purge, start, step, wait
from deviceflow.client import login as logins
from deviceflow.client._sync import Client
from deviceflow.core.states import Reason, State
from deviceflow.providers.oauth import OAuth
from deviceflow.stores.memory import MemoryStore
from deviceflow.testing import VirtualClock, answer
from tests.listed import sweep_each

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.client.effects import Op

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
        return next(iter(self.store.flows()), None)

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


def collect(world: World, flow_id: str) -> Op[Any]:
    context = world.client._context
    held = yield from handover.begin_collection(context, flow_id, 60)
    yield from handover.end_collection(context, held, acknowledged=False)


def nothing(_: World) -> str:
    return ""


CASES: Final[dict[str, tuple[Callable[[World], str], Callable[[World, str], Op[Any]]]]] = {
    "create": (nothing, lambda w, _: start.create(w.client._context, OAUTH, "nightly", None, {})),
    "start": (nothing, lambda w, _: start.start(w.client._context, OAUTH, "nightly", None, {})),
    "first poll": (World.started, lambda w, f: step.step(w.client._context, f)),
    "last poll": (World.due, lambda w, f: step.step(w.client._context, f)),
    "sweep": (World.due, lambda w, _: sweep_each(w.client._context, 100)),
    "wait": (World.started, lambda w, f: wait.wait(w.client._context, f, 60, lambda _: None)),
    "wait_for_token": (World.due, lambda w, f: wait.wait_for_token(w.client._context, f, None)),
    "login": (
        nothing,
        lambda w, _: logins.login(
            w.client._context,
            OAUTH,
            "nightly",
            None,
            {},
            open_browser=True,
            timeout=None,
            acknowledges=False,
        ),
    ),
    "get": (World.authorized, lambda _, f: lookup.get(f)),
    "collect_token": (World.authorized, lambda w, f: handover.collect_token(w.client._context, f)),
    "collect": (World.authorized, collect),
    "acknowledge": (World.collected, lambda w, f: handover.acknowledge(w.client._context, f)),
    "cancel": (World.due, lambda w, f: wait.cancel(w.client._context, f, "not wanted")),
    "purge": (World.authorized, lambda w, _: purge.purge(w.client._context, 0, 1e9)),
}


def give_up(client: Client, operation: Op[Any], number: int, how: How) -> tuple[bool, bool]:
    """Drive an operation, and give way at an effect, as a driver does that is told to stop.

    Returns:
        Whether the operation has come to its end before that; and whether the answer to a request
        was thrown away.
    """
    wakers: dict[str, Any] = {}
    count, lost = 0, False
    try:
        effect = operation.send(None)
        while True:
            count += 1
            if count >= number and type(effect) not in MUST_FINISH:
                break
            effect = operation.send(client._perform(effect, wakers))
    except StopIteration:
        return True, False
    performs = how.endswith("after")
    if performs:
        client._perform(effect, wakers)
        lost = isinstance(effect, Send)
    if how.startswith("close"):
        operation.close()
        return False, lost
    stop = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as raised:  # noqa: PT012  # it is one loop
        if isinstance(effect, Send):
            effect = operation.send(Exchange(stop, client._clock.monotonic()))
        else:
            effect = operation.throw(stop)
        while True:  # what the operation still has to do before it gives way
            effect = operation.send(client._perform(effect, wakers))
    assert raised.value is stop
    return False, lost


def check(world: World, number: int, how: How, name: str, *, crash: bool) -> bool:
    """Give an operation up at an effect, go on with the login, and see that nothing is lost."""
    prepare, operation = CASES[name]
    flow_id = prepare(world)
    ended, lost = give_up(world.client, operation(world, flow_id), number, how)
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
    left = world.store.get(flow.id)
    issued = set(world.server.issued) - set(world.server.revoked)
    assert not [secret for _, secret in left.to_revoke]
    if name == "acknowledge":
        assert outcome == "TokenGoneError"
        assert left.handover == "acknowledged"
    elif lost and left.reason is Reason.OUTCOME_UNKNOWN:
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
