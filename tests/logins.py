"""Logins with a past, written into a real store: for tests of what is read from a trail."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, Final

from deviceflow import OAuth, Secret, Studio
from deviceflow.audit.events import render
from deviceflow.core.flow import Flow
from deviceflow.core.ports import Origin
from deviceflow.core.provider import Token
from deviceflow.core.wire import Failure
from deviceflow.testing import answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deviceflow.core.flow import Transition
    from deviceflow.core.provider import Provider
    from deviceflow.stores.sql import SQLStore

BEGIN: Final = 1_795_000_000.0  # 2026-11-18 11:06:40 UTC

STUDIO: Final = Studio("https://studio.example.com").with_request(
    client_name="nightly", scopes=["EXPERIMENTS", "MODELS"]
)
ROBOT: Final = OAuth(
    client_id="robot",
    device_authorization_endpoint="https://login.example.com/device",
    token_endpoint="https://login.example.com/token",
    revocation_endpoint="https://login.example.com/revoke",
    scopes="openid email",
)
ALICE: Final = Origin(worker="w1.7.1", host="build-17", pid=7, actor="alice")
BOB: Final = ALICE._replace(host="laptop", actor="bob")

_CODE: Final = {
    "device_code": "d" * 40,
    "user_code": "WDJB-MJHT",
    "verification_uri": "https://login.example.com/verify",
    "token_uri": "https://studio.example.com/token",
    "token_name": "nightly",
    "interval": 5,
}
_ANSWERS: Final[dict[str, Any]] = {
    "pending": answer(400, {"error": "authorization_pending"}),
    "slow_down": answer(400, {"error": "slow_down"}),
    "down": answer(503, "down"),
    "lost": Failure("timeout", sent=True),
    "token": answer(200, {"access_token": "t" * 30, "token_type": "bearer"}),
    "denied": answer(400, {"error": "access_denied"}),
    "expired": answer(400, {"error": "expired_token"}),
    "refused": answer(400, {"error": "invalid_grant"}),
}


class Scribe:
    """Puts logins into a store as a client would, at times that the test says.

    Args:
        store: The store.
    """

    def __init__(self, store: SQLStore) -> None:
        self.store = store
        self._made = 0

    def login(
        self,
        *moves: str,
        at: float = BEGIN,
        provider: Provider = STUDIO,
        origin: Origin = ALICE,
        flow_id: str | None = None,
        says: str | None = None,
        lives: int = 900,
    ) -> str:
        """Put a login there; return its id.

        Args:
            moves: What happens: `code` first; then polls by what is answered (`pending`,
                `slow_down`, `down`, `lost`, `token`, `denied`, `expired`, `refused`); or `crash`,
                `take_over`, `late`, `cancel`, `expire`, `collect`, `acknowledge`.
            at: When it begins.
            provider: Where.
            origin: Who does it.
            flow_id: Its id.
            says: What the server says where it refuses, or the person where they give up.
            lives: For how many seconds the code is good.
        """
        self._made += 1
        flow = Flow(flow_id or f"login{self._made:011}", provider, at)
        self.store.add(flow)
        now = at
        for move in moves:
            for transition in self._done(flow, move, now, says, lives):
                event = render(flow, transition, origin)
                assert self.store.commit(flow, event)
                now = transition.at
            now += 2.0 if flow.state.ended else 0.0
        return flow.id

    def _done(
        self, flow: Flow, move: str, now: float, says: str | None, lives: int
    ) -> Iterator[Transition]:
        match move:
            case "code":
                code = answer(200, _CODE | {"expires_in": lives})
                yield flow.receive(code, now + 0.3, duration=0.3)
            case "cancel":
                yield flow.cancel(now + 3, says)
            case "expire":
                yield flow.expire(max(now, flow.expires_at or now))
            case "collect" | "acknowledge":
                yield getattr(flow, move)(now)
            case "late":
                yield flow.late_token(Token(Secret("late-token")), flow.attempt, now + 40)
            case "take_over":
                yield flow.take_over(now + 1, "w0.1.1")
            case "crash":
                yield self._poll(flow, now)
                yield flow.recover(flow.due_at, "w0.1.1")
            case _:
                polled = self._poll(flow, now)
                yield polled
                said = _ANSWERS[move]
                if says is not None and move == "refused":
                    said = answer(400, {"error": says})
                yield flow.receive(said, polled.at + 0.2, duration=0.2)

    def _poll(self, flow: Flow, now: float) -> Transition:
        return flow.poll(max(now, flow.due_at), 10.0)


def fill(store: SQLStore, count: int, *, seed: int = 1, every: float = 2000.0) -> None:
    """Put so many logins of all kinds into a store."""
    random, scribe = Random(seed), Scribe(store)
    for number in range(count):
        waits = ["pending"] * int(random.expovariate(1 / 12))
        if random.random() < 0.15:
            waits.insert(
                random.randint(0, len(waits)), random.choice(["slow_down", "down", "crash"])
            )
        end = random.choices(
            [
                ["token", "collect", "acknowledge"],
                ["denied"],
                ["expire"],
                ["cancel"],
                ["refused"],
                ["lost", "late"],
                [],
            ],
            [70, 8, 9, 4, 3, 3, 3],
        )[0]
        studio = random.random() < 0.6
        scribe.login(
            "code",
            *waits,
            *end,
            at=BEGIN + (number + random.random()) * every,
            provider=STUDIO if studio else ROBOT,
            origin=random.choice([ALICE, ALICE, BOB]),
        )
