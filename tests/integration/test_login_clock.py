"""Logins that several processes drive, of which only some saw the clock set back."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import Client, OAuth, State
from deviceflow.stores.memory import MemoryStore
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import VirtualClock, answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from deviceflow.core.login import Login
    from deviceflow.core.wire import Request, Response

LIFE: Final = 200.0
INTERVAL: Final = 5.0
PROVIDER: Final = OAuth(
    client_id="robot",
    device_authorization_endpoint="https://as.example.com/device",
    token_endpoint="https://as.example.com/token",
)
CODE: Final = {
    "device_code": "device-canary-0123456789",
    "user_code": "WDJB-MJHT",
    "verification_uri": "https://as.example.com/go",
    "expires_in": LIFE,
    "interval": INTERVAL,
}


class Server:
    """A server that nobody approves anything at.

    Attributes:
        asked: When polls came, by the monotonic clock.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.asked: list[float] = []

    def send(self, request: Request, timeout: float) -> Response:
        if request.purpose == "code":
            return answer(200, CODE)
        self.asked.append(self._clock.monotonic())
        return answer(400, {"error": "authorization_pending"})

    def close(self) -> None:
        pass


def by_step(client: Client, flow_id: str) -> Login:
    return client.step(flow_id)


def by_sweep(client: Client, flow_id: str) -> Login:
    assert client.sweep().problems == []
    return client.get(flow_id)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    kept: Any = MemoryStore()
    if request.param == "sqlite":
        kept = SQLiteStore(tmp_path / "flows.db", plaintext=True, synchronous="NORMAL")
    with closing(kept):
        yield kept


@pytest.mark.parametrize("drive", [by_step, by_sweep])
@pytest.mark.parametrize("lost", [0.0, 2.0, 20.0, 3600.0, 90 * 86400.0])
def test_processes_agree_on_the_time_though_one_has_seen_the_clock_set_back(
    store: Any, drive: Callable[[Client, str], Login], lost: float
) -> None:
    """Else a login would be polled too early, and expire as soon as both had looked at it."""
    clock = VirtualClock()
    server = Server(clock)
    old = Client(store, clock=clock, transport=server)
    began = clock.monotonic()
    flow_id = old.start(PROVIDER).id
    clock.advance(10)
    drive(old, flow_id)
    clock.set_wall(-lost)
    young = Client(store, clock=clock, transport=server)

    login = old.get(flow_id)
    for number in range(100):
        clock.advance(3)
        login = drive((old, young)[number % 2], flow_id)
        if login.state.ended:
            break

    assert login.state is State.EXPIRED
    # It is not known when within an interval the clock was set back.
    assert LIFE <= clock.monotonic() - began <= LIFE + 2 * INTERVAL
    waited = [later - sooner for sooner, later in zip(server.asked, server.asked[1:], strict=False)]
    assert min(waited) >= INTERVAL
    assert max(waited) < 3 * INTERVAL


@pytest.mark.parametrize("drive", [by_step, by_sweep])
@pytest.mark.parametrize("ahead", [30.0, 1e8, -30.0])
def test_process_whose_clock_differs_does_not_send_a_poll_under_way_again(
    store: Any, drive: Callable[[Client, str], Login], ahead: float
) -> None:
    clock = VirtualClock()
    server = Server(clock)
    client = Client(store, clock=clock, transport=server)
    flow_id = client.start(PROVIDER).id
    clock.advance(INTERVAL + 1)
    send, wall = server.send, clock.time

    def meanwhile(request: Request, timeout: float) -> Response:
        server.send = send  # type: ignore[method-assign]
        clock.time = lambda: wall() + ahead  # type: ignore[method-assign]
        for _ in range(5):
            drive(Client(store, clock=clock, transport=server), flow_id)
            clock.advance(1)
        clock.time = wall  # type: ignore[method-assign]
        return send(request, timeout)

    server.send = meanwhile  # type: ignore[method-assign]

    client.step(flow_id)

    assert len(server.asked) == 1
