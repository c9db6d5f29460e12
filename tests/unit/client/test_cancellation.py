"""Each operation is cancelled at each turn of the loop, and then the login is gone on with.

As in `test_giving_way`, nothing that the server issued may be lost, and whoever goes on is another
process: what the client held in memory is gone. Moreover, whatever moved a login is logged, no
lease is left behind, no request is sent after a cancellation, and none is swallowed.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import parse_qs

import pytest

from deviceflow import errors
from deviceflow.audit import log
from deviceflow.client._async import AsyncClient
from deviceflow.core.encryption import generate_key
from deviceflow.core.flow import Flow
from deviceflow.core.provider import Token
from deviceflow.core.secret import Secret
from deviceflow.core.states import Reason, State
from deviceflow.testing import answer
from tests.awaited import Awaited, in_turn
from tests.stored import get
from tests.unit.client.test_giving_way import OAUTH, Server, World

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from deviceflow.core.wire import Request, Response

    How = Literal["once", "twice", "at every turn", "by the end of the loop", "by a timeout"]
    Operation = Callable[[AsyncClient, str], Coroutine[Any, Any, object]]

HOWS: Final = ("once", "twice", "at every turn", "by the end of the loop", "by a timeout")
KEY: Final = generate_key()
REFRESHABLE: Final = Token(Secret("old"), refresh_token=Secret("refresh"))


class Wire:
    """Brings requests to the server, and answers back, if nobody is cancelled meanwhile.

    Attributes:
        sent: How many requests were sent.
        lost: Whether an answer was under way when its request was cancelled.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.sent = 0
        self.lost = False

    async def send(self, request: Request, timeout: float) -> Response:  # as in `AsyncTransport`
        self.sent += 1
        await asyncio.sleep(0)
        if b"refresh_token=refresh&" in request.body + b"&":
            return answer(200, {"access_token": "new", "token_type": "Bearer"})
        answered = self._world.server.send(request, timeout)
        self.lost = True
        await asyncio.sleep(0)
        self.lost = False
        return answered

    async def close(self) -> None:
        pass


async def collect(client: AsyncClient, flow_id: str) -> None:
    with suppress(LookupError):
        async with client.collect(flow_id):
            await asyncio.sleep(0)
            raise LookupError


def nothing(_: World) -> str:
    return ""


def exported(world: World) -> str:
    flow_id = world.due()
    text = world.client.export_login(flow_id, [KEY])
    world.store.remove(flow_id)
    return text


CASES: Final[dict[str, tuple[Callable[[World], str], Operation]]] = {
    "create": (nothing, lambda c, _: c.create(OAUTH, name="nightly")),
    "start": (nothing, lambda c, _: c.start(OAUTH, name="nightly")),
    "first poll": (World.started, lambda c, f: c.step(f)),
    "last poll": (World.due, lambda c, f: c.step(f)),
    "sweep": (World.due, lambda c, _: c.sweep()),
    "wait": (World.started, lambda c, f: c.wait(f, 60, on_step=lambda _: None)),
    "wait_for_token": (World.due, lambda c, f: c.wait_for_token(f)),
    "login": (nothing, lambda c, _: c.login(OAUTH, name="nightly")),
    "get": (World.authorized, lambda c, f: c.get(f)),
    "collect_token": (World.authorized, lambda c, f: c.collect_token(f)),
    "collect": (World.authorized, collect),
    "acknowledge": (World.collected, lambda c, f: c.acknowledge(f)),
    "cancel": (World.due, lambda c, f: c.cancel(f, "not wanted")),
    "purge": (World.authorized, lambda c, _: c.purge(tokens_after=0, flows_after=1e9)),
    "refresh": (World.authorized, lambda c, _: c.refresh(OAUTH, REFRESHABLE)),
    "import": (exported, lambda c, text: c.import_login(text, [KEY])),
}


class Scene:
    """An async client in a world, and what it logs."""

    def __init__(self, world: World, *, in_task: bool) -> None:
        self.world, self.wire, self.events = world, Wire(world), list[dict[str, Any]]()
        self._in_task = in_task
        self.tasks: list[asyncio.Task[object]] = []
        self.sent = 0  # before it was cancelled

    async def cancel(self, operation: Operation, flow_id: str, number: int, how: How) -> bool:
        """Begin an operation, and cancel it after so many turns; tell whether it was over then."""
        client = AsyncClient(
            Awaited(self.world.store, in_turn),
            clock=Awaited(self.world.clock, in_turn),
            transport=self.wire,
            output=lambda _: None,
            browser=lambda _: True,
            on_transition=self.events.append,
        )
        limit = asyncio.timeout(None)

        async def work() -> object:
            async with limit:
                return await operation(client, flow_id)

        task = asyncio.create_task(work())
        self.tasks.append(task)
        for _ in range(number):
            await asyncio.sleep(0)
        if task.done():
            task.result()
            return True
        self.sent = self.wire.sent
        if how == "by the end of the loop":
            return False
        if how == "by a timeout":
            if number == 0:
                return False  # it has not begun yet
            limit.reschedule(asyncio.get_running_loop().time())
            with suppress(TimeoutError):
                await task
                return True  # before the loop's next turn
            return False
        task.cancel()
        if how == "twice":
            await asyncio.sleep(0)
            task.cancel()
        while how == "at every turn" and not task.done():
            await asyncio.sleep(0)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return False


def check(name: str, number: int, how: How, *, in_task: bool) -> bool:
    """Cancel an operation, go on with the login, and see that nothing is lost."""
    world = World()
    prepare, operation = CASES[name]
    flow_id = prepare(world)
    flow = world.flow()
    before = 0 if flow is None else flow.seq
    scene = Scene(world, in_task=in_task)
    ended = asyncio.run(scene.cancel(operation, flow_id, number, how))
    if how == "by the end of the loop":
        ended = not scene.tasks[0].cancelled()  # the loop takes a turn before it cancels
    flow = world.flow()
    if flow is None:
        assert world.server.issued == []
        return ended
    if not ended and how in ("once", "twice", "at every turn"):  # the others take a turn more
        assert scene.wire.sent == scene.sent
    assert flow.state is not State.POLLING
    assert not any(one.owner for one in world.store._entries[Flow].values())
    if name != "import":
        assert [event["seq"] for event in scene.events] == list(range(before + 1, flow.seq + 1))
    outcome: str | None = None
    client = world.another_client()
    try:
        token = client.wait_for_token(flow.id).access_token.reveal()
    except errors.DeviceFlowError as error:
        outcome = type(error).__name__
    else:
        assert token in world.server.issued
        return ended
    world.clock.advance(60)  # a revocation that was interrupted is tried again later
    client.sweep()
    left = get(world.store, flow.id)
    issued = set(world.server.issued) - set(world.server.revoked)
    assert not left.to_revoke
    if name == "acknowledge":
        assert (outcome, left.handover) == ("TokenGoneError", "acknowledged")
    elif scene.wire.lost and left.reason is Reason.OUTCOME_UNKNOWN:
        assert len(issued) == 1  # the answer never arrived, and the record says so
    else:
        assert (issued, outcome in ("LoginCancelledError", "TokenGoneError")) == (set(), True)
    return ended


@pytest.fixture(autouse=True)
def _nothing_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save the time: events are looked at by the hook."""
    monkeypatch.setattr(log, "emit", lambda *_: None)


@pytest.mark.parametrize("in_task", [False, True])
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", CASES)
def test_nothing_issued_is_lost_wherever_an_operation_is_cancelled(
    name: str, how: How, *, in_task: bool
) -> None:
    number = 0
    while not check(name, number, how, in_task=in_task):
        number += 1

    assert number > 0


# Grants.


class RotatingServer(Server):
    """Issues a refresh token, and another one at each refresh: the old one is worth nothing then.

    Attributes:
        tokens: The access tokens that were issued by refreshes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[str] = []

    def send(self, request: Request, timeout: float) -> Response:
        fields = parse_qs(request.body.decode())
        if fields.get("grant_type") == ["refresh_token"]:
            if fields["refresh_token"] != [f"refresh {len(self.tokens)}"]:
                return answer(400, {"error": "invalid_grant"})
            self.tokens.append(f"access {len(self.tokens)}")
            return self._issue(self.tokens[-1])
        answered = super().send(request, timeout)
        return (
            self._issue("first") if self.issued and b"access_token" in answered.body else answered
        )

    def _issue(self, token: str) -> Response:
        refresh = f"refresh {len(self.tokens)}"
        return answer(200, {"access_token": token, "refresh_token": refresh, "expires_in": 600})


def refreshable() -> World:
    """Make a world with a grant whose access token has expired."""
    world = World()
    world.server = RotatingServer()
    world.client = world.another_client()
    with pytest.raises(errors.LoginPending):
        world.client.get_token("nightly", OAUTH, mint="now")
    for _ in range(2):
        world.clock.advance(6)
        with suppress(errors.LoginPending):
            world.client.get_token("nightly", OAUTH)
    world.clock.advance(1000)
    return world


@pytest.mark.parametrize("in_task", [False, True])
@pytest.mark.parametrize("how", HOWS)
def test_no_refreshed_token_is_lost_wherever_get_token_is_cancelled(
    how: How, *, in_task: bool
) -> None:
    number, ended, lost = 0, False, 0
    while not ended:
        world = refreshable()
        server = world.server
        assert isinstance(server, RotatingServer)
        scene = Scene(world, in_task=in_task)
        work = scene.cancel(lambda c, _: c.get_token("nightly", OAUTH), "", number, how)
        ended = asyncio.run(work)
        if how == "by the end of the loop":
            ended = not scene.tasks[0].cancelled()
        world.clock.advance(120)  # nobody sends it again while the server may be at work on it
        try:
            token = world.another_client().get_token("nightly", OAUTH)
        except errors.LoginPending:
            assert scene.wire.lost
            lost += 1
        else:
            assert token.access_token.reveal() == server.tokens[-1]
            assert len(server.tokens) == 1
        number += 1

    assert number > 1
    assert lost <= 1
