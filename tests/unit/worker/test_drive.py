"""What a worker does with a login: it steps its own, and leaves those of other workers alone."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import errors
from deviceflow.client._sync import Client
from deviceflow.core.flow import Flow
from deviceflow.core.ports import Claim
from deviceflow.core.states import State
from deviceflow.providers.oauth import OAuth
from deviceflow.stores.memory import MemoryStore
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from deviceflow.worker._drive import Driven, drive, tidy
from deviceflow.worker._schedule import Due
from tests.moments import moment
from tests.stored import get

if TYPE_CHECKING:
    from deviceflow.core.wire import Request, Response

OAUTH: Final = OAuth(
    client_id="robot",
    device_authorization_endpoint="https://as.example.com/device_authorization",
    token_endpoint="https://as.example.com/token",
    revocation_endpoint="https://as.example.com/revoke",
)
CODE: Final = answer(
    200,
    {
        "device_code": "DEVICE-CANARY",
        "user_code": "USER-CODE",
        "verification_uri": "https://as.example.com/device",
    },
)
PENDING: Final = answer(400, {"error": "authorization_pending"})
ISSUED: Final = answer(200, {"access_token": "TOKEN-CANARY"})


class Failing(MemoryStore):
    """Fails while it is told to."""

    broken = False

    def claim(self, *what: Any, **how: Any) -> Any:
        self._try()
        return super().claim(*what, **how)

    def commit(self, record: Any, event: dict[str, Any], **how: Any) -> bool:
        self._try()
        return super().commit(record, event, **how)

    def _try(self) -> None:
        if self.broken:
            raise errors.StoreError("The disk is full.")


class Remote(Failing):
    """Has a clock of its own, and is slow: some seconds before it reads it, and after."""

    ahead = 1000.0
    before = after = 0.0

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def now(self, client_now: float) -> float:
        return self._clock.time() + self.ahead

    def claim(
        self, flow_id: str, owner: str, client_now: float, seconds: float, decide: Any = None
    ) -> Any:
        self._clock.advance(self.before)
        claim = super().claim(flow_id, owner, self.now(client_now), seconds, decide)
        self._clock.advance(self.after)
        return claim


class Stage:
    """A login that is due, in a store that two clients share."""

    def __init__(self, *script: Any) -> None:
        self.clock = VirtualClock()
        self.store = Failing()
        self.transport = ScriptedTransport([CODE, *script])
        self.client, self.other = (
            Client(self.store, clock=self.clock, transport=self.transport) for _ in range(2)
        )
        self.id = self.client.start(OAUTH).id
        self.clock.advance(10)

    @property
    def flow(self) -> Flow:
        return get(self.store, self.id)

    def drive(self, seq: int = 1) -> Driven:
        return self.client._run(drive, self.id, seq)

    @property
    def polls(self) -> int:
        return len(self.transport.requests) - 1


def test_an_own_login_is_polled_each_time_that_it_is_due_to_its_end() -> None:
    stage = Stage(PENDING, PENDING, ISSUED)
    seq, driven = 1, Driven()
    for _ in range(2):
        driven = stage.drive(seq)
        assert driven.next is not None
        assert driven.next == Due(stage.flow.due_at, stage.id, stage.flow.seq, OAUTH.server)
        assert driven.seen is not None
        assert driven.seen.now == stage.clock.time()
        stage.clock.advance(driven.next.at - stage.clock.time())
        seq = driven.next.seq

    driven = stage.drive(seq)
    assert driven.next is None
    assert driven.login is not None
    assert driven.login.state is State.AUTHORIZED
    assert stage.polls == 3


def test_a_login_that_another_worker_went_on_with_is_left_to_it() -> None:
    stage = Stage(PENDING)
    stage.other.step(stage.id)
    stage.clock.advance(10)

    assert stage.drive() == Driven()
    assert stage.polls == 1
    claim = stage.store.claim(stage.id, "somebody", moment(stage.clock), 10.0)
    assert isinstance(claim, Claim)
    assert claim.previous_owner is None, "the lease was not given back"


def test_a_login_that_somebody_is_at_work_on_is_left_to_them() -> None:
    stage = Stage()
    stage.store.claim(stage.id, "somebody", moment(stage.clock), 10.0)

    assert stage.drive() == Driven()
    assert stage.polls == 0


def test_a_login_whose_worker_died_is_taken_over() -> None:
    stage = Stage(PENDING)
    stage.store.claim(stage.id, "somebody", moment(stage.clock), 10.0)
    stage.clock.advance(10)

    driven = stage.drive(seq=99)  # whatever was known of it
    assert driven.next is not None
    assert stage.polls == 1


def test_a_login_that_is_not_due_is_scheduled_and_not_polled() -> None:
    stage = Stage(PENDING)
    stage.client.step(stage.id)
    seq = stage.flow.seq
    stage.store._entries[Flow][stage.id].record.wake_at = 0.0  # somebody has changed the row

    assert stage.drive(seq).next == Due(stage.flow.due_at, stage.id, seq, OAUTH.server)
    assert stage.polls == 1
    assert stage.store._entries[Flow][stage.id].record.wake_at == stage.flow.due_at


@pytest.mark.parametrize("end", ["cancelled", "deleted"])
def test_a_login_that_is_over_is_not_driven(end: str) -> None:
    stage = Stage()
    if end == "cancelled":
        stage.client.cancel(stage.id)
    else:
        stage.store.remove(stage.id)

    assert stage.drive() == Driven()
    assert stage.polls == 0


@pytest.mark.parametrize("missing", [errors.UsageError("no secret"), ImportError("no joserfc")])
def test_a_login_that_cannot_be_stepped_is_snoozed(missing: Exception) -> None:
    stage = Stage(missing)
    driven = stage.drive()

    assert driven.problem is missing
    assert driven.next is None
    assert stage.store._entries[Flow][stage.id].record.wake_at == stage.clock.time() + 60


def test_a_store_that_fails_is_nobody_s_problem_but_its_own() -> None:
    stage = Stage(PENDING)
    stage.store.broken = True
    with pytest.raises(errors.StoreError):
        stage.drive()
    stage.store.broken = False

    assert stage.drive().next is not None


@pytest.mark.parametrize("again", ["drive", "tidy"])
def test_a_token_that_could_not_be_saved_is_saved_once_the_store_works(again: str) -> None:
    stage = Stage()

    def issue(_request: object) -> Any:
        stage.store.broken = True
        return ISSUED

    stage.transport._script = iter([issue])
    with pytest.raises(errors.StoreError, match="its token is in this process only"):
        stage.drive()
    client = stage.client
    assert client._run(tidy)[0].flow_id == stage.id
    stage.store.broken = False

    if again == "drive":
        assert stage.drive() == Driven()
    else:
        assert client._run(tidy) == []
    assert client._context.unsaved.flow_ids() == []
    assert client.collect_token(stage.id).access_token.reveal() == "TOKEN-CANARY"


@pytest.mark.parametrize(("before", "after"), [(3.0, 0.0), (0.0, 3.0), (1.5, 1.5)])
def test_a_slow_store_leads_to_no_early_poll_and_to_no_event_of_the_future(
    before: float, after: float
) -> None:
    clock, came = VirtualClock(), list[float]()

    def pending(_: Request) -> Response:
        clock.advance(0.5)
        came.append(clock.time())
        return PENDING

    store, events = Remote(clock), list[dict[str, Any]]()
    transport = ScriptedTransport([CODE, *4 * [pending]])
    client = Client(store, clock=clock, transport=transport, on_transition=events.append)
    flow_id = client.start(OAUTH).id
    flow, interval = get(store, flow_id), get(store, flow_id).interval
    store.before, store.after = before, after

    for number in range(1, 5):
        clock.advance(max(0.0, flow.due_at - store.now(0.0)))
        client.step(flow_id)
        flow = get(store, flow_id)
        assert flow.moved_at <= store.now(0.0)
        assert flow.due_at >= came[-1] + store.ahead + interval
        client.step(flow_id)  # by hand, as soon as somebody likes
        assert flow.attempt == len(came) == number

    assert all(later - one >= interval for one, later in pairwise(came))
    times = [event["time"] for event in events]
    assert times == sorted(times)
