"""A worker that is suspended at any point of a login, while another one goes on: in one process.

Real signals reach the points that have names. Here every reading of a clock is a point as well, and
each one is tried.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

from deviceflow import Client, State
from deviceflow.stores.sqlite import SQLiteStore
from deviceflow.testing import VirtualClock, answer
from tests.crash.checks import wrong_with_history
from tests.crash.traps import TrappedStore, TrappedTransport
from tests.crash.worker import provider_of
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deviceflow.core.wire import Failure, Request, Response

_INTERVAL: Final = 5.0  # seconds

APPROVED_AFTER: Final = 12.0  # seconds: between the second poll and the third

_SERVER: Final = "http://127.0.0.1:1"


class Points:
    """Counts the points that a worker reaches, and suspends it at one of them.

    Attributes:
        reached: The points, in their order.
    """

    def __init__(self, number: int, meanwhile: Callable[[str], None]) -> None:
        self._number = number
        self._meanwhile = meanwhile
        self.reached: list[str] = []

    def reach(self, point: str) -> None:
        self.reached.append(point)
        if len(self.reached) == self._number:
            self._meanwhile(point)


class _WatchedClock:
    """A clock that a worker may be suspended behind each reading of."""

    def __init__(self, clock: VirtualClock, points: Points) -> None:
        self._clock = clock
        self._points = points

    def time(self) -> float:
        read = self._clock.time()
        self._points.reach("after time()")
        return read

    def monotonic(self) -> float:
        read = self._clock.monotonic()
        self._points.reach("after monotonic()")
        return read

    def sleep(self, seconds: float) -> None:
        self._clock.sleep(seconds)


class _Server:
    """A server that answers at once, and remembers when it was asked."""

    def __init__(self, clock: VirtualClock, approved_after: float) -> None:
        self._clock = clock
        self._approved_after = approved_after
        self.asked: list[float] = []
        self._used = False

    def send(self, request: Request, timeout: float) -> Response | Failure:
        now = self._clock.time()
        self.asked.append(now)
        if request.purpose == "code":
            issued = {"device_code": "code", "user_code": "AB", "verification_uri": _SERVER}
            return answer(200, issued | {"interval": _INTERVAL, "expires_in": 900})
        if self._used:
            return answer(400, {"error": "invalid_grant"})
        self._used = now - self.asked[0] >= self._approved_after
        if self._used:
            return answer(200, {"access_token": "token", "token_type": "Bearer"})
        return answer(400, {"error": "authorization_pending"})

    def close(self) -> None:
        pass


def points_of_a_login(folder: Path) -> list[str]:
    """Return the points that a worker reaches which nobody suspends."""
    points, wrong = play(folder / "flows.db")
    assert not wrong
    return points


def play(
    path: Path, number: int = 0, seconds: float = 0.0, approved_after: float = APPROVED_AFTER
) -> tuple[list[str], list[str]]:
    """Play a login; return the points that its worker reached, and what is wrong.

    Args:
        path: A file that is not there yet.
        number: The number of the point at which the worker is suspended.
        seconds: For how long.
        approved_after: When the person approves, counted from the request for the code.
    """
    clock = VirtualClock()
    server = _Server(clock, approved_after)

    def meanwhile(point: str) -> None:
        until = clock.time() + seconds
        # Inside a transaction it would keep the other one out of the file, too.
        if not flow_id or point.startswith(("inside", "between")):
            clock.advance(seconds)
            return
        with SQLiteStore(path, plaintext=True, synchronous="NORMAL") as own:
            other = Client(own, transport=server, clock=clock)
            while (left := until - clock.time()) > 0:
                done = other.step(flow_id)
                clock.advance(min(left, done.wait_seconds or left))

    flow_id = ""
    points = Points(number, meanwhile)
    with SQLiteStore(path, plaintext=True, synchronous="NORMAL") as store:
        client = Client(
            TrappedStore(store, points),
            transport=TrappedTransport(server, points),
            clock=_WatchedClock(clock, points),
        )
        flow_id = client.start(provider_of("oauth", _SERVER, "robot")).id
        for turn in itertools.count():
            if turn % 2:
                client.sweep()
            else:
                clock.sleep(client.step(flow_id).wait_seconds)
            if client.get(flow_id).state.ended:
                break
        flow, history = get(store, flow_id), store.events(flow_id)
    wrong = [*wrong_with_history(flow, history)]
    if flow.state is not State.AUTHORIZED or flow.token is None:
        wrong.append(f"it ended as {flow.state}")
    wrong += [
        f"a poll came {after - before:g} s after the last"
        for before, after in itertools.pairwise(server.asked)
        if after - before < _INTERVAL
    ]
    return points.reached, wrong
