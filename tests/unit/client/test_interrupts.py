"""Ctrl-C in the middle of what has to finish, and operations that suspend where they must not."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import Client
from deviceflow._blocking import complete
from deviceflow.client.wait import wait
from deviceflow.core.states import State
from deviceflow.providers.studio import Studio
from deviceflow.stores.memory import MemoryStore
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from tests.stored import get
from tests.tapped import suspend

if TYPE_CHECKING:
    from deviceflow.client.world import World

STUDIO: Final = Studio("https://studio.example.com")
CODE: Final = answer(
    200,
    {
        "device_code": "D",
        "user_code": "U",
        "verification_uri": "https://studio.example.com/login",
        "token_uri": "https://studio.example.com/token",
        "token_name": "n",
        "expires_in": 600,
    },
)
PENDING: Final = answer(400, {"detail": "authorization_pending"})


class Durable(MemoryStore):
    """Presses Ctrl-C in the middle of a method, once."""

    durable = True
    presses_in: str | None = None

    def __getattribute__(self, name: str) -> Any:
        method = super().__getattribute__(name)
        if name != "presses_in" and name == self.presses_in:
            self.presses_in = None

            def pressed(*args: Any, **kwargs: Any) -> Any:
                signal.raise_signal(signal.SIGINT)
                result = method(*args, **kwargs)
                signal.raise_signal(signal.SIGINT)
                return result

            return pressed
        return method


@pytest.mark.parametrize("method", ["claim", "commit"])
def test_a_commit_that_ctrl_c_interrupts_is_finished_and_logged(method: str) -> None:
    store, clock, logged = Durable(), VirtualClock(), list[dict[str, Any]]()
    transport = ScriptedTransport([CODE, PENDING])
    client = Client(store, transport=transport, clock=clock, on_transition=logged.append)
    login = client.start(STUDIO)
    clock.advance(6)

    store.presses_in = method
    with pytest.raises(KeyboardInterrupt):
        client.step(login.id)

    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    stored = get(store, login.id)
    assert logged[-1]["seq"] == stored.seq
    # Before the request, Ctrl-C keeps it from being sent; after the answer, the answer is stored.
    actions = [event["action"] for event in logged[-2:]]
    assert actions == ["poll", "retry" if method == "claim" else "pending"]
    assert stored.state is State.AWAITING_USER
    clock.advance(30)
    assert client.get(login.id).state is State.AWAITING_USER  # Ctrl-C is not raised again


def test_a_port_that_waits_for_an_event_loop_closes_the_operation() -> None:
    closed = list[str]()

    async def suspends() -> None:
        try:
            await suspend()
        except GeneratorExit:
            closed.append("it was closed")
            raise

    with pytest.raises(RuntimeError, match="event loop"):
        complete(suspends())
    assert closed == ["it was closed"]


def test_a_client_runs_its_operations_inside_a_running_loop() -> None:
    async def program() -> State:
        client = Client(transport=ScriptedTransport([CODE]), clock=VirtualClock())
        return client.start(STUDIO).state

    assert asyncio.run(program()) is State.AWAITING_USER


def test_an_operation_that_was_never_run_is_closed_without_a_port() -> None:
    world: World = None  # type: ignore[assignment]  # nothing of it is used
    wait(world, "f1", None).close()
