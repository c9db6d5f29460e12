"""Random histories of logins: whatever the machine allows, in the order in which it came."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from deviceflow import OAuth, Secret, Studio
from deviceflow.audit.events import render
from deviceflow.core.flow import Flow
from deviceflow.core.ports import Origin
from deviceflow.core.provider import Token
from deviceflow.core.states import State
from deviceflow.core.wire import Failure, Response
from deviceflow.testing import answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

    from deviceflow.core.flow import Transition
    from deviceflow.core.provider import Provider
    from deviceflow.stores.sql import SQLStore

    Move = Callable[[Flow, float], Transition]

BEGIN: Final = 1_790_000_000.0

_OAUTH: Final = OAuth(
    client_id="robot",
    device_authorization_endpoint="https://as.example.com/device_authorization",
    token_endpoint="https://as.example.com/token",
    revocation_endpoint="https://as.example.com/revoke",
    scopes="read write",
)
_SERVERS: Final[tuple[Provider, ...]] = (
    Studio("https://studio.example.com").with_request(client_name="nightly", scopes=["MODELS"]),
    Studio("https://studio.example.com").with_request(client_name="müller's “laptop”"),
    _OAUTH,
)
_CODE: Final = answer(
    200,
    {
        "device_code": "d" * 40,
        "user_code": "WDJB-MJHT",
        "verification_uri": "https://studio.example.com/device",
        "token_uri": "https://studio.example.com/token",
        "token_name": "nightly",
        "interval": 5,
        "expires_in": 900,
    },
)
PENDING: Final = answer(400, {"error": "authorization_pending"})
SAID: Final[tuple[Response | Failure, ...]] = (
    *(6 * [PENDING]),
    answer(400, {"error": "slow_down"}),
    answer(429, {"error": "rate"}, Retry_After="7"),
    answer(503, "down"),
    Failure("timeout", sent=True),
    Failure("connection", sent=False),
    *(2 * [answer(200, {"access_token": "t" * 30, "token_type": "bearer", "scope": "read"})]),
    answer(400, {"error": "access_denied"}),
    answer(400, {"error": "expired_token"}),
    answer(400, {"error": "invalid_grant", "error_description": "no such code: “désolé”"}),
)
_REVOKED: Final = (answer(200, ""), answer(503, ""), answer(400, ""))


def _received(*results: Any) -> list[Move]:
    def receive(result: Any) -> Move:
        return lambda flow, now: flow.receive(result, now, duration=now % 1)

    return [receive(result) for result in results]


def _late(flow: Flow, now: float) -> Transition:
    return flow.late_token(Token(Secret(f"late-{now}")), flow.attempt, now)


def _cancel(flow: Flow, now: float) -> Transition:
    return flow.cancel(now, "by hand")


def _moves(flow: Flow, *, late: bool) -> list[Move]:
    """Return what may happen to a flow next; perhaps somebody stalled brings a token late."""
    moves: list[Move] = [_late] if late and flow.attempt else []
    if late and flow.state is not State.POLLING:
        moves.append(lambda flow, now: flow.take_over(now, "w1.7.2"))
    match flow.state:
        case State.INIT:
            failed = _received(Failure("connection", sent=False))
            return [*(5 * _received(_CODE)), *failed, _cancel]
        case State.AWAITING_USER:
            poll: Move = lambda flow, now: flow.poll(now, 10.0)  # noqa: E731  # it has a type
            expire: Move = lambda flow, now: flow.expire(now)  # noqa: E731
            return [*moves, *(18 * [poll]), expire, _cancel]
        case State.POLLING:
            recover: Move = lambda flow, now: flow.recover(now, "w1.7.3")  # noqa: E731
            return [*moves, *(2 * _received(*SAID)), recover, recover, _cancel]
    if flow.token is not None:
        moves += 4 * [lambda flow, now: flow.collect(now)]
        moves += 4 * [lambda flow, now: flow.acknowledge(now)]
        moves.append(lambda flow, now: flow.purge(now))
    if flow.to_revoke:
        moves.append(lambda flow, now: flow.abandon_revocation(now))
        moves += _received(*_REVOKED)
    return moves


class Login:
    """A flow, and what time it is for it.

    Attributes:
        flow: The flow.
        now: The time.
    """

    def __init__(self, random: Random, flow_id: str, begin: float = BEGIN) -> None:
        self._random = random
        self.flow = Flow(flow_id, random.choice(_SERVERS), begin)
        self.now = begin

    def happen(self, most: int) -> Iterator[Transition]:
        """Let things happen, and yield each; the flow need not end by that."""
        for _ in range(most):
            if not (moves := _moves(self.flow, late=self._random.random() < 0.1)):
                return
            if not self.flow.state.ended:
                self.now = max(self.now, self.flow.due_at)
            self.now += self._random.choice((0, 0.25, 31))
            yield self._random.choice(moves)(self.flow, self.now)

    def begin_in(self, store: SQLStore) -> None:
        """Put the flow into a store, in which its events so far are not."""
        store.add(self.flow)
        if self.flow.seq:
            self.now = max(self.now, store.now(time.time()))  # it was brought in now

    def keep(self, store: SQLStore, most: int) -> None:
        """Let things happen, each kept in a store that has the flow, as the client would."""
        for transition in self.happen(most):
            assert store.commit(self.flow, render(self.flow, transition, origin(self._random)))

    def over_by(self, before: float) -> bool:
        """Tell whether a store would drop the flow that drops what ended before then."""
        flow = self.flow
        ended = flow.ended_at is not None and flow.ended_at <= before
        return ended and flow.token is None and not flow.to_revoke


def origin(random: Random) -> Origin:
    """Return somebody who makes things happen."""
    pid = random.randrange(1, 99_999)
    engine = random.choice([(None, None, None), ("celery", "report", f"task-{pid}")])
    worker = f"{random.getrandbits(48):012x}.{pid}.{random.randrange(1, 50)}"
    return Origin(worker, f"host-{pid % 3}", pid, *engine, random.choice(["root", "jürgen"]))
