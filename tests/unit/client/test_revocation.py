"""What becomes of a token that is not taken: it is revoked, step by step, until that is done."""

from __future__ import annotations

import base64
import json
import logging
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

import pytest

from deviceflow import export
from deviceflow.client._sync import Client
from deviceflow.core.flow import Flow
from deviceflow.core.secret import Secret
from deviceflow.core.states import Reason, State
from deviceflow.core.wire import Failure
from deviceflow.errors import LoginCancelledError, WrongApproverError
from deviceflow.providers.oauth import OAuth
from deviceflow.stores.memory import MemoryStore
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from tests.stored import get

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.core.wire import Request, Response

    Actions = Callable[[], list[str]]

REVOKE_AT: Final = "https://as.example.com/revoke"
CODE: Final = answer(
    200,
    {
        "device_code": "DEVICE-CANARY",
        "user_code": "USER-CANARY",
        "verification_uri": "https://as.example.com/device",
        "expires_in": 600,
    },
)
PENDING: Final = answer(400, {"error": "authorization_pending"})
DENIED: Final = answer(400, {"error": "access_denied"})
REVOKED: Final = answer(200, "")
BUSY: Final = answer(503, "busy", Retry_After="120")
UNSUPPORTED: Final = answer(400, {"error": "unsupported_token_type"})
LOST: Final = Failure("timeout", sent=True)
UNSENT: Final = Failure("connection", sent=False)


def oauth(**settings: Any) -> OAuth:
    ours: dict[str, Any] = {
        "client_id": "robot",
        "device_authorization_endpoint": "https://as.example.com/device_authorization",
        "token_endpoint": "https://as.example.com/token",
        "revocation_endpoint": REVOKE_AT,
        "require": {"sub": "alice"},
    }
    return OAuth(**(ours | settings))


def granted(sub: str = "mallory", *, refresh: bool = True, name: str = "") -> Response:
    claims = {"iss": "https://as.example.com", "aud": "robot", "exp": 4e9, "sub": sub}
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    body = {"access_token": f"ACCESS-CANARY{name}", "id_token": f"e30.{payload}.c2ln"}
    if refresh:
        body["refresh_token"] = f"REFRESH-CANARY{name}"
    return answer(200, body)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


class Driver:
    """A client of the store that is given these answers, one for each request."""

    def __init__(self, clock: VirtualClock, store: MemoryStore, *script: Any, **parts: Any) -> None:
        self.transport = ScriptedTransport(script)
        self.client = Client(store, clock=clock, transport=self.transport, **parts)
        self.clock = clock

    def refused(self, provider: OAuth | None = None) -> Flow:
        """Return a flow whose token was not taken, and which has nothing revoked yet."""
        flow = self.client.start(provider or oauth())
        self.clock.advance(flow.wait_seconds)
        self.client.step(flow.id)
        return get(self.client._store, flow.id)

    def revocations(self) -> list[tuple[str, str]]:
        sent = [r for r in self.transport.requests if r.purpose == "revoke"]
        assert {request.url for request in sent} <= {REVOKE_AT}
        bodies = [dict(parse_qsl(request.body.decode())) for request in sent]
        return [(body["token_type_hint"], body["token"]) for body in bodies]


BOTH: Final = [("refresh_token", "REFRESH-CANARY"), ("access_token", "ACCESS-CANARY")]


def test_wrong_persons_token_is_not_taken_and_revoked_in_later_steps(
    clock: VirtualClock, store: MemoryStore, actions: Actions
) -> None:
    driver = Driver(clock, store, CODE, granted(), REVOKED, REVOKED)

    flow = driver.refused()

    assert (flow.state, flow.reason) == (State.FAILED, Reason.WRONG_APPROVER)
    assert flow.detail == "approved by another sub"
    assert flow.token is None
    assert flow.orphaned_tokens == 1
    # The refresh token first: what it has brought ends with it.
    assert [(kind, token.reveal()) for kind, token in flow.to_revoke] == BOTH
    assert flow.wait_seconds(clock.time()) == 0
    assert driver.revocations() == []

    for left in (1, 0):
        done = driver.client.step(flow.id)
        assert (done.state, done.reason) == (State.FAILED, Reason.WRONG_APPROVER)
        assert len(get(driver.client._store, flow.id).to_revoke) == left
    assert driver.revocations() == BOTH
    assert actions() == ["issue_code", "poll", "fail", "revoke", "revoke"]
    driver.client.step(flow.id)
    assert len(driver.transport.requests) == 4


def test_wait_revokes_all_there_is_before_it_says_why(
    clock: VirtualClock, store: MemoryStore
) -> None:
    driver = Driver(clock, store, CODE, granted(), REVOKED, REVOKED)
    flow = driver.client.start(oauth())

    with pytest.raises(WrongApproverError, match="approved by another sub"):
        driver.client.wait_for_token(flow.id)

    assert driver.revocations() == BOTH


def test_wait_does_not_wait_for_a_revocation_that_fails(
    clock: VirtualClock, store: MemoryStore
) -> None:
    driver = Driver(clock, store, CODE, granted(), BUSY)
    flow = driver.client.start(oauth())

    with pytest.raises(WrongApproverError):
        driver.client.wait_for_token(flow.id)

    assert driver.revocations() == BOTH[:1]
    assert len(get(driver.client._store, flow.id).to_revoke) == 2


@pytest.mark.parametrize(
    ("trouble", "low", "high"),
    [
        (BUSY, 120, 120),
        (answer(503, ""), 2, 2.5),
        (answer(500, "<html>"), 2, 2.5),
        (answer(429, "", Retry_After="60"), 60, 60),
        (answer(429, ""), 2, 2.5),
        (answer(408, ""), 2, 2.5),
        (answer(503, "", Retry_After="1e9"), 3600, 3600),
        (LOST, 2, 2.5),
        (UNSENT, 2, 2.5),
        (Failure("too_large", sent=True), 2, 2.5),
    ],
)
def test_revocation_that_failed_is_tried_again_when_it_is_due(
    clock: VirtualClock,
    store: MemoryStore,
    actions: Actions,
    trouble: Response | Failure,
    low: float,
    high: float,
) -> None:
    driver = Driver(clock, store, CODE, granted(refresh=False), trouble, REVOKED)
    flow = driver.refused()

    done = driver.client.step(flow.id)

    assert low <= done.wait_seconds <= high
    assert driver.client.get(flow.id).wait_seconds == done.wait_seconds
    clock.advance(done.wait_seconds - 0.1)
    assert driver.client.step(flow.id).wait_seconds == pytest.approx(0.1, abs=1e-5)
    assert len(driver.revocations()) == 1
    clock.advance(0.1 + 1e-6)
    assert driver.client.step(flow.id).wait_seconds == 0
    assert len(driver.revocations()) == 2
    assert actions()[-2:] == ["revoke_failed", "revoke"]
    assert not get(driver.client._store, flow.id).to_revoke


def test_revocation_backs_off_exponentially_to_an_hour_and_never_gives_up(
    clock: VirtualClock, store: MemoryStore
) -> None:
    driver = Driver(clock, store, CODE, granted(refresh=False), *[UNSENT] * 20, REVOKED)
    flow = driver.refused()
    waits = []

    while get(driver.client._store, flow.id).to_revoke:
        waits.append(driver.client.step(flow.id).wait_seconds)
        clock.advance(waits[-1])

    assert all(2**n <= waits[n - 1] <= 2**n * 1.25 for n in range(1, 12))
    assert all(3600 <= wait <= 3600 * 1.25 for wait in waits[11:20])
    assert waits[20] == 0


def test_refused_revocation_is_recorded_and_not_tried_again(
    clock: VirtualClock, store: MemoryStore, actions: Actions
) -> None:
    driver = Driver(clock, store, CODE, granted(), UNSUPPORTED, REVOKED)
    flow = driver.refused()

    driver.client.step(flow.id)
    assert actions()[-1] == "revoke_failed"
    driver.client.step(flow.id)

    assert actions()[-1] == "revoke"
    assert driver.revocations() == BOTH
    assert not get(driver.client._store, flow.id).to_revoke


@pytest.mark.parametrize("status", [200, 204])
def test_any_success_is_one(clock: VirtualClock, store: MemoryStore, status: int) -> None:
    driver = Driver(clock, store, CODE, granted(refresh=False), answer(status, "whatever"))
    flow = driver.refused()

    driver.client.step(flow.id)

    assert not get(driver.client._store, flow.id).to_revoke


@pytest.mark.parametrize("status", [301, 302, 307])
def test_redirect_revokes_nothing(
    clock: VirtualClock, store: MemoryStore, actions: Actions, status: int
) -> None:
    elsewhere = answer(status, "", Location="https://evil.example.com/")
    driver = Driver(clock, store, CODE, granted(refresh=False), elsewhere)
    flow = driver.refused()

    driver.client.step(flow.id)

    assert actions()[-1] == "revoke_failed"


def test_without_an_endpoint_the_record_says_to_do_it_by_hand(
    clock: VirtualClock, store: MemoryStore
) -> None:
    driver = Driver(clock, store, CODE, granted())

    flow = driver.refused(oauth(revocation_endpoint=None))

    assert (flow.reason, flow.orphaned_tokens, flow.to_revoke) == (Reason.WRONG_APPROVER, 1, ())
    assert driver.client.step(flow.id).wait_seconds == 0
    assert len(driver.transport.requests) == 2


def test_token_to_revoke_survives_a_restart(clock: VirtualClock, store: MemoryStore) -> None:
    driver = Driver(clock, store, CODE, granted(), UNSENT)
    flow = driver.refused()
    wait = driver.client.step(flow.id).wait_seconds
    stands = get(store, flow.id)
    assert "CANARY" not in json.dumps(export.to_dict(stands)).replace("USER-CANARY", "")
    written = json.dumps(export.to_dict(stands, secrets=True))

    store = MemoryStore()
    store.add(export.from_dict(json.loads(written)))
    clock.advance(wait)
    after = Driver(clock, store, REVOKED, REVOKED)
    after.client.step(flow.id)
    after.client.step(flow.id)

    assert after.revocations() == BOTH


def test_secret_goes_with_a_revocation_too(
    clock: VirtualClock, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_SECRET", "s3cret")
    driver = Driver(clock, store, CODE, granted(refresh=False), REVOKED)
    flow = driver.refused(oauth(client_secret="env:THE_SECRET"))

    driver.client.step(flow.id)

    assert driver.transport.requests[-1].headers["Authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"access_token": "T"}, Reason.WRONG_APPROVER),
        ({"access_token": "T", "id_token": "garbage"}, Reason.PROTOCOL),
    ],
)
def test_token_that_proves_nothing_is_revoked_as_well(
    clock: VirtualClock, store: MemoryStore, body: Any, reason: Reason
) -> None:
    driver = Driver(clock, store, CODE, answer(200, body), REVOKED)

    flow = driver.refused()
    driver.client.step(flow.id)

    assert (flow.reason, driver.revocations()) == (reason, [("access_token", "T")])


# A policy that is a function.


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (granted("mallory"), "does not accept the person who approved"),
        (answer(200, {"access_token": "T"}), "sent no id token, so it is unknown who approved"),
    ],
)
def test_programs_own_policy_refuses(
    clock: VirtualClock, store: MemoryStore, body: Response, said: str
) -> None:
    driver = Driver(
        clock, store, CODE, body, approver=lambda claims: bool(claims["sub"] == "alice")
    )

    flow = driver.refused(oauth(require=(), revocation_endpoint=None))

    assert flow.reason is Reason.WRONG_APPROVER
    assert said in (flow.detail or "")


def test_programs_own_policy_is_not_asked_about_what_the_settings_refuse(
    clock: VirtualClock, store: MemoryStore
) -> None:
    asked: list[Any] = []
    driver = Driver(clock, store, CODE, granted(), PENDING, approver=asked.append)

    flow = driver.refused()

    assert (flow.reason, asked) == (Reason.WRONG_APPROVER, [])


def test_right_persons_token_is_taken(clock: VirtualClock, store: MemoryStore) -> None:
    driver = Driver(clock, store, CODE, granted("alice"), approver=lambda claims: True)

    flow = driver.refused()

    assert flow.state is State.AUTHORIZED
    assert not flow.to_revoke


# Tokens that come late.


def late(
    clock: VirtualClock,
    store: MemoryStore,
    meanwhile: Callable[[str], object],
    body: Response,
    *more: Any,
) -> tuple[Driver, str]:
    """Poll, and let something happen while the answer is on its way."""
    names: list[str] = []

    def stalled(request: Request) -> Response:
        meanwhile(names[0])
        return body

    driver = Driver(clock, store, CODE, stalled, *more)
    flow = driver.client.start(oauth())
    names.append(flow.id)
    clock.advance(flow.wait_seconds)
    driver.client.step(flow.id)
    return driver, flow.id


@pytest.mark.parametrize("sub", ["alice", "mallory"])
def test_token_that_comes_after_cancelling_is_revoked(
    clock: VirtualClock, store: MemoryStore, actions: Actions, sub: str
) -> None:
    other = Client(store, clock=clock, transport=ScriptedTransport([]))
    driver, name = late(clock, store, other.cancel, granted(sub), REVOKED, REVOKED)
    flow = get(store, name)
    assert (flow.reason, flow.orphaned_tokens) == (Reason.CANCELLED, 1)
    assert actions()[-2:] == ["cancel", "orphan_token"]

    with pytest.raises(LoginCancelledError):
        driver.client.wait_for_token(name)

    assert driver.revocations() == BOTH
    assert actions()[-2:] == ["revoke", "revoke"]


def test_second_token_is_revoked_and_the_first_stays(
    clock: VirtualClock, store: MemoryStore
) -> None:
    other = Driver(clock, store, granted("alice"))

    def poll_as_well(name: str) -> None:
        clock.advance(60)
        other.client.step(name)  # recovers, and polls since it is long due

    driver, name = late(clock, store, poll_as_well, granted("alice", name="-2"), REVOKED, REVOKED)
    token = driver.client.collect_token(name)
    driver.client.step(name)
    driver.client.step(name)

    assert token.access_token == Secret("ACCESS-CANARY")
    assert driver.revocations() == [
        ("refresh_token", "REFRESH-CANARY-2"),
        ("access_token", "ACCESS-CANARY-2"),
    ]
    assert driver.client.get(name).state is State.AUTHORIZED
    assert driver.client.collect_token(name).access_token == token.access_token


def test_token_that_is_not_taken_and_comes_while_others_poll_waits_for_the_end(
    clock: VirtualClock, store: MemoryStore, actions: Actions
) -> None:
    """An open login polls as before, not sooner and for nothing else; then it is revoked."""
    other = Driver(clock, store, PENDING)

    def recover_and_poll(name: str) -> None:
        clock.advance(60)
        other.client.step(name)  # recovers, and polls since it is long due

    driver, name = late(
        clock, store, recover_and_poll, granted(), PENDING, DENIED, REVOKED, REVOKED
    )
    flow = driver.client.get(name)
    assert (flow.state, len(get(store, name).to_revoke)) == (State.AWAITING_USER, 2)
    assert actions()[-1] == "orphan_token"
    assert flow.wait_seconds == pytest.approx(5.1)

    for purpose in ("token", "token", "revoke", "revoke"):
        clock.advance(driver.client.get(name).wait_seconds)
        driver.client.step(name)
        assert driver.transport.requests[-1].purpose == purpose

    assert actions()[-6:] == ["poll", "pending", "poll", "deny", "revoke", "revoke"]
    assert driver.revocations() == BOTH


def test_late_token_that_is_not_taken_is_brought_until_it_is_on_record(
    clock: VirtualClock, store: MemoryStore
) -> None:
    class Racing(MemoryStore):
        """Each time that a stray token is brought, somebody was quicker, the first time."""

        def __init__(self) -> None:
            super().__init__()
            self.tries = 0

        def commit(self, record: Any, event: Any, **how: Any) -> bool:
            if event["action"] == "orphan_token":
                self.tries += 1
                if self.tries == 1:
                    return False
            return super().commit(record, event, **how)

    racing = Racing()
    other = Client(racing, clock=clock, transport=ScriptedTransport([]))
    driver, name = late(clock, racing, other.cancel, granted())

    assert racing.tries == 2
    assert get(driver.client._store, name).orphaned_tokens == 1


def test_revocation_that_two_workers_sent_is_recorded_once(
    clock: VirtualClock, store: MemoryStore, actions: Actions
) -> None:
    """The lease ran out while the first one's answer was on its way."""
    other = Driver(clock, store, REVOKED)
    names: list[str] = []

    def stalled(request: Request) -> Response:
        clock.advance(60)
        other.client.step(names[0])
        return REVOKED

    driver = Driver(clock, store, CODE, granted(refresh=False), stalled)
    flow = driver.refused()
    names.append(flow.id)

    done = driver.client.step(flow.id)

    assert (done.state, done.wait_seconds) == (State.FAILED, 0)
    assert actions().count("revoke") == 1
    assert not get(driver.client._store, flow.id).to_revoke


def test_cancelled_login_keeps_what_is_to_be_revoked(
    clock: VirtualClock, store: MemoryStore
) -> None:
    driver = Driver(clock, store, CODE, granted(), REVOKED, REVOKED)
    flow = driver.refused()

    assert driver.client.cancel(flow.id).reason is Reason.WRONG_APPROVER

    driver.client.step(flow.id)
    driver.client.step(flow.id)
    assert driver.revocations() == BOTH


def test_nothing_of_it_shows_a_token(
    clock: VirtualClock, store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = answer(400, {"error": "cannot revoke REFRESH-CANARY"})
    driver = Driver(clock, store, CODE, granted(), echo, LOST)
    flow = driver.refused()

    driver.client.step(flow.id)
    driver.client.step(flow.id)

    stands = get(store, flow.id)
    kept = store._entries[Flow]
    shown = f"{caplog.text} {stands!r} {stands.detail} {stands.to_revoke!r} {kept!r}"
    assert "REFRESH-CANARY" not in shown
    assert "ACCESS-CANARY" not in shown
