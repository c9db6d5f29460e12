"""Handing the token over, wiping it, and picking up what nobody drives any more."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

import pytest

from deviceflow import errors, export
from deviceflow.audit.events import render
from deviceflow.client._sync import Client
from deviceflow.client.lease import LEASE_MARGIN
from deviceflow.client.purge import DAY
from deviceflow.core.flow import Flow
from deviceflow.core.ports import Claim, LeaseHeld
from deviceflow.core.secret import Secret
from deviceflow.core.states import Reason, State
from deviceflow.core.wire import Failure
from deviceflow.providers.oauth import OAuth
from deviceflow.providers.studio import Studio
from deviceflow.stores.memory import MemoryStore
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from tests.brief import brief
from tests.facade import AsyncFacade
from tests.moments import moment
from tests.stored import flows
from tests.stored import get as get_stored

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.core.wire import Request, Response

    Actions = Callable[[], list[str]]
    CodeAnswer = Callable[..., Response]
    Make = Callable[..., Client]

STUDIO: Final = Studio("https://studio.example.com")
OAUTH: Final = OAuth(
    client_id="robot",
    device_authorization_endpoint="https://as.example.com/device_authorization",
    token_endpoint="https://as.example.com/token",
    revocation_endpoint="https://as.example.com/revoke",
)
PENDING: Final = answer(400, {"error": "authorization_pending"})
DENIED: Final = answer(400, {"error": "access_denied"})
GRANTED: Final = answer(200, {"access_token": "TOKEN-CANARY"})
BOTH: Final = answer(200, {"access_token": "TOKEN-CANARY", "refresh_token": "REFRESH-CANARY"})
TOKEN: Final = Secret("TOKEN-CANARY")
REVOKED: Final = answer(200, "")
BUSY: Final = answer(503, "busy")
UNSENT: Final = Failure("connection", sent=False)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture(params=[Client, AsyncFacade])
def client(request: pytest.FixtureRequest, clock: VirtualClock, store: MemoryStore) -> Make:
    """Make a client of the store that is given these answers, one for each request."""

    def make(*script: Any, **parts: Any) -> Client:
        ours: dict[str, Any] = {"store": store, "clock": clock}
        ours["transport"] = ScriptedTransport(script)
        made: Client = request.param(**(ours | parts))
        return made

    return make


def requests(client: Client) -> list[Request]:
    transport = client._transport
    assert isinstance(transport, ScriptedTransport)
    return transport.requests


def sent(client: Client) -> list[str]:
    return [request.purpose for request in requests(client)]


def authorized(client: Client, provider: Any = STUDIO, **how: Any) -> str:
    flow = client.start(provider, **how)
    client._clock.advance(flow.wait_seconds)  # type: ignore[attr-defined]
    assert client.step(flow.id).state is State.AUTHORIZED
    return flow.id


@pytest.fixture
def events(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, Any]]]:
    """Give the transitions that were logged so far."""
    caplog.set_level(logging.INFO, logger="deviceflow")
    return lambda: [
        event for r in caplog.records if "action" in (event := vars(r).get("deviceflow", {}))
    ]


# The token.


def test_token_can_be_taken_again_and_again_and_each_time_is_on_record(
    client: Make, code_answer: CodeAnswer, actions: Actions
) -> None:
    driver = client(code_answer(), GRANTED)
    name = authorized(driver)

    assert [driver.collect_token(name).access_token for _ in range(2)] == [TOKEN, TOKEN]

    assert actions()[-3:] == ["issue_token", "collect", "collect"]
    assert driver.get(name).handover == "collected"


def test_wait_takes_the_token_and_acknowledges_nothing(
    client: Make, code_answer: CodeAnswer, actions: Actions
) -> None:
    driver = client(code_answer(), GRANTED)
    name = driver.start(STUDIO).id

    assert driver.wait_for_token(name).access_token == TOKEN

    assert actions() == ["issue_code", "poll", "issue_token", "collect"]
    assert get_stored(driver._store, name).token is not None


def test_settling_takes_no_token(client: Make, code_answer: CodeAnswer, actions: Actions) -> None:
    driver = client(code_answer(), GRANTED)
    name = driver.start(STUDIO).id

    assert brief(driver.wait(name)) == (name, State.AUTHORIZED, 0.0, None)

    assert actions()[-1] == "issue_token"


def test_acknowledged_token_is_wiped_and_said_to_be_gone(
    client: Make, code_answer: CodeAnswer, actions: Actions
) -> None:
    driver = client(code_answer(), GRANTED)
    name = authorized(driver)
    driver.collect_token(name)

    for _ in range(2):  # once more is as good as once
        assert brief(driver.acknowledge(name)) == (name, State.AUTHORIZED, 0.0, None)

    assert actions()[-2:] == ["collect", "acknowledge"]
    assert get_stored(driver._store, name).token is None
    with pytest.raises(errors.TokenGoneError, match="acknowledged"):
        driver.collect_token(name)
    with pytest.raises(errors.TokenGoneError):
        driver.wait_for_token(name)


def collect(client: Client, flow_id: str) -> None:
    with client.collect(flow_id):
        pass


@pytest.mark.parametrize("use", [Client.collect_token, Client.acknowledge, collect])
@pytest.mark.parametrize(
    ("said", "error"), [(PENDING, errors.WaitTimeoutError), (DENIED, errors.DeniedError)]
)
def test_without_a_token_there_is_an_error_that_says_why(
    client: Make,
    code_answer: CodeAnswer,
    actions: Actions,
    use: Callable[[Client, str], object],
    said: Response,
    error: type[errors.DeviceFlowError],
) -> None:
    driver = client(code_answer(), said)
    name = driver.start(STUDIO).id
    driver.step(name)
    before = actions()

    with pytest.raises(error) as caught:
        use(driver, name)

    assert caught.value.flow_id == name
    assert actions() == before


def test_collected_token_is_acknowledged_behind_the_block(
    client: Make, code_answer: CodeAnswer, actions: Actions
) -> None:
    driver = client(code_answer(), GRANTED)
    name = authorized(driver)

    with driver.collect(name) as token:
        assert token.access_token == TOKEN
        assert actions()[-1] == "collect"

    assert actions()[-1] == "acknowledge"
    assert driver.get(name).handover == "acknowledged"


@pytest.mark.parametrize("stop", [OSError, KeyboardInterrupt])
def test_block_that_fails_acknowledges_nothing_and_lets_the_next_try(
    client: Make, code_answer: CodeAnswer, actions: Actions, stop: type[BaseException]
) -> None:
    driver = client(code_answer(), GRANTED)
    name = authorized(driver)

    with pytest.raises(stop), driver.collect(name):
        raise stop

    assert "acknowledge" not in actions()
    with driver.collect(name) as token:
        assert token.access_token == TOKEN


def test_one_at_a_time_collects(
    client: Make, code_answer: CodeAnswer, clock: VirtualClock, actions: Actions
) -> None:
    driver, other = client(code_answer(), GRANTED), client()
    name = authorized(driver)

    with driver.collect(name, seconds=30):
        clock.advance(10)
        with pytest.raises(errors.LoginBusyError) as caught:
            collect(other, name)
        assert (caught.value.flow_id, caught.value.wait_seconds) == (name, 20)
        assert caught.value.state == "authorized"
        clock.advance(20)
        with other.collect(name) as token:  # whoever took so long may be dead
            assert token.access_token == TOKEN
            assert actions()[-3:] == ["collect", "take_over", "collect"]

    assert driver.get(name).handover == "acknowledged"


def test_collecting_that_cannot_put_on_record_whose_lease_it_takes_keeps_none(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer, actions: Actions
) -> None:
    class Failing(MemoryStore):
        fails = False

        def commit(self, record: Any, event: dict[str, Any], **how: Any) -> bool:
            if self.fails:
                raise errors.StoreError("The disk is full.")
            return super().commit(record, event, **how)

    failing = Failing()
    driver = client(code_answer(), GRANTED, store=failing)
    name = authorized(driver)
    failing.claim(name, "the dead", moment(clock), 20)
    clock.advance(20)
    failing.fails = True

    with pytest.raises(errors.StoreError):
        collect(driver, name)

    failing.fails = False
    collect(driver, name)
    assert actions()[-3:] == ["take_over", "collect", "acknowledge"]


def test_collecting_too_early_leaves_the_lease_to_whoever_died_with_it(
    client: Make, clock: VirtualClock, store: MemoryStore, code_answer: CodeAnswer
) -> None:
    driver = client(code_answer())
    name = driver.start(STUDIO).id
    store.claim(name, "the dead", moment(clock), 20)
    clock.advance(60)

    with pytest.raises(errors.WaitTimeoutError):
        collect(driver, name)

    claim = store.claim(name, "w2", moment(clock), 20)
    assert isinstance(claim, Claim)
    assert claim.previous_owner == "the dead"


class Contended(MemoryStore):
    """Somebody else goes on with the flow between the next look at it and the commit."""

    meanwhile: Callable[[], object] | None = None

    def load(self, *what: Any, **how: Any) -> Any:
        stored = super().load(*what, **how)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return stored


@pytest.mark.parametrize("use", ["collect_token", "acknowledge"])
def test_handing_over_is_tried_again_where_others_went_on_meanwhile(
    client: Make, code_answer: CodeAnswer, actions: Actions, use: str
) -> None:
    contended = Contended()
    driver, other = client(code_answer(), GRANTED, store=contended), client(store=contended)
    name = authorized(driver)
    contended.meanwhile = lambda: other.collect_token(name)

    getattr(driver, use)(name)

    done = {"collect_token": "collect", "acknowledge": "acknowledge"}[use]
    assert actions()[-2:] == ["collect", done]


def test_token_that_is_acknowledged_while_it_is_asked_for_is_gone(
    client: Make, code_answer: CodeAnswer
) -> None:
    contended = Contended()
    driver, other = client(code_answer(), GRANTED, store=contended), client(store=contended)
    name = authorized(driver)
    contended.meanwhile = lambda: other.acknowledge(name)

    with pytest.raises(errors.TokenGoneError):
        driver.collect_token(name)


@pytest.mark.parametrize("ask", ["start", "login", "wait", "token", "collect"])
def test_name_is_kept_and_its_token_is_given_again_until_it_is_acknowledged(
    client: Make, code_answer: CodeAnswer, ask: str
) -> None:
    """A job that is killed after the approval, and run again, gets its token and asks nobody."""
    driver = client(code_answer(), GRANTED)
    name = authorized(driver, name="nightly")
    driver.collect_token(name)  # whoever took it dies here

    again = client(code_answer())
    assert again.start(STUDIO, name="nightly").id == name
    if ask == "login":
        assert again.login(STUDIO, name="nightly").access_token == TOKEN
    elif ask == "wait":
        assert again.wait_for_token(name).access_token == TOKEN
    elif ask == "collect":
        with again.collect(name) as token:
            assert token.access_token == TOKEN
    else:
        assert again.collect_token(name).access_token == TOKEN
    assert sent(again) == []

    again.acknowledge(name)
    assert again.start(STUDIO, name="nightly").id != name


def test_name_is_free_once_the_token_is_purged(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer
) -> None:
    driver = client(code_answer(), GRANTED, code_answer())
    name = authorized(driver, name="nightly")
    driver.collect_token(name)
    clock.advance(7 * DAY)
    driver.purge()

    assert driver.start(STUDIO, name="nightly").id != name


def test_name_of_a_token_that_is_not_acknowledged_is_not_taken_by_another_login(
    client: Make, code_answer: CodeAnswer
) -> None:
    driver = client(code_answer(), GRANTED)
    held = authorized(driver, name="nightly")
    driver.collect_token(held)

    with pytest.raises(errors.UsageError, match="asks for something else") as caught:
        driver.start(STUDIO, name="nightly", client_name="another")

    assert caught.value.hint is not None
    assert f"deviceflow token {held} --acknowledge" in caught.value.hint


@pytest.mark.parametrize(
    ("how", "handover"),
    [
        ({}, "acknowledged"),
        ({"name": "nightly"}, "collected"),
        ({"name": "nightly", "acknowledge": True}, "acknowledged"),
        ({"acknowledge": False}, "collected"),
    ],
)
def test_login_acknowledges_what_nobody_could_ask_for_again(
    client: Make, code_answer: CodeAnswer, how: dict[str, Any], handover: str
) -> None:
    driver = client(code_answer(), GRANTED, output=lambda _: None)

    assert driver.login(STUDIO, open_browser=False, **how).access_token == TOKEN

    (flow,) = driver.logins()
    assert flow.handover == handover


def test_login_of_a_name_that_is_approved_asks_nobody(
    client: Make, code_answer: CodeAnswer
) -> None:
    said: list[str] = []
    driver = client(code_answer(), GRANTED, output=said.append)
    authorized(driver, name="nightly")

    assert driver.login(STUDIO, name="nightly").access_token == TOKEN
    assert said == []


# Looking at the flows.


def test_flows_come_newest_first_and_without_secrets(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer
) -> None:
    driver = client(code_answer(), GRANTED, code_answer())
    done = authorized(driver)
    clock.advance(1)
    waiting = driver.start(STUDIO).id

    assert [flow.id for flow in driver.logins()] == [waiting, done]
    assert [flow.id for flow in driver.logins(skip_ended=True)] == [waiting]
    for flow in flows(driver._store):
        assert (flow.token, flow.device_code, flow.to_revoke) == (None, None, ())
    bare = get_stored(driver._store, waiting, secrets=False)
    assert (bare.user_code, bare.device_code) == ("USER-CANARY", None)


def test_client_says_whether_its_flows_outlive_it(client: Make) -> None:
    assert not client().durable


# Purging.


def revoked(client: Client) -> list[str]:
    bodies = [dict(parse_qsl(r.body.decode())) for r in requests(client) if r.purpose == "revoke"]
    return [body["token"] for body in bodies]


def test_token_that_nobody_collected_is_revoked_after_a_week_and_the_flow_stays(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer, actions: Actions
) -> None:
    driver = client(code_answer(), BOTH, REVOKED, REVOKED)
    name = authorized(driver, OAUTH)
    clock.advance(7 * DAY - 1)
    assert driver.purge()[:3] == (0, 0, [])
    clock.advance(1)

    assert driver.purge()[:3] == (1, 0, [])

    assert revoked(driver) == ["REFRESH-CANARY", "TOKEN-CANARY"]
    assert actions()[-3:] == ["purge", "revoke", "revoke"]
    with pytest.raises(errors.TokenGoneError, match="was purged"):
        driver.collect_token(name)
    assert driver.purge()[:3] == (0, 0, [])


def test_purge_goes_on_where_whoever_collected_died(
    client: Make,
    clock: VirtualClock,
    store: MemoryStore,
    code_answer: CodeAnswer,
    actions: Actions,
) -> None:
    driver = client(code_answer(), GRANTED)
    name = authorized(driver)
    store.claim(name, "the dead", moment(clock), 60)
    clock.advance(7 * DAY)

    assert driver.purge()[:3] == (1, 0, [])

    assert actions()[-2:] == ["take_over", "purge"]


@pytest.mark.parametrize("taken", [False, True])
@pytest.mark.parametrize("provider", [OAUTH, STUDIO])
def test_token_that_nobody_acknowledged_is_revoked_where_the_server_can_and_said_where_not(
    client: Make,
    clock: VirtualClock,
    code_answer: CodeAnswer,
    events: Callable[[], list[dict[str, Any]]],
    provider: Any,
    taken: bool,
) -> None:
    driver = client(code_answer(), GRANTED, REVOKED)
    name = authorized(driver, provider)
    if taken:
        driver.collect_token(name)
    clock.advance(7 * DAY)

    assert driver.purge()[:3] == (1, 0, [])

    detail = next(event["detail"] for event in events() if event["action"] == "purge")
    assert driver.get(name).handover == "purged"
    if provider is OAUTH:
        assert revoked(driver) == ["TOKEN-CANARY"]
        assert detail.endswith("deviceflow will revoke it")
    else:
        assert revoked(driver) == []
        assert detail.endswith("revoke it at the server")
    assert ("never acknowledged" in detail) == taken


def test_acknowledged_token_is_never_revoked(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer
) -> None:
    driver = client(code_answer(), GRANTED)
    name = authorized(driver, OAUTH)
    driver.collect_token(name)
    driver.acknowledge(name)
    clock.advance(7 * DAY)

    assert driver.purge()[:3] == (0, 0, [])

    assert revoked(driver) == []


def test_revocation_that_failed_is_tried_by_sweeps_and_given_up_in_the_end(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer, actions: Actions
) -> None:
    driver = client(code_answer(), GRANTED, BUSY, BUSY, BUSY)
    name = authorized(driver, OAUTH)
    clock.advance(7 * DAY)
    driver.purge()
    assert actions()[-2:] == ["purge", "revoke_failed"]
    clock.advance(DAY)
    driver.sweep()
    assert actions()[-1] == "revoke_failed"
    clock.advance(82 * DAY)

    assert driver.purge()[:3] == (1, 1, [])

    assert actions()[-1] == "abandon_revocation"
    with pytest.raises(errors.UnknownLoginError):
        driver.get(name)


def test_old_uncollected_token_is_not_given_up_by_the_purge_that_sets_it_aside(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer, actions: Actions
) -> None:
    driver = client(code_answer(), GRANTED, BUSY, REVOKED)
    name = authorized(driver, OAUTH)
    clock.advance(100 * DAY)

    assert driver.purge()[:3] == (1, 0, [])
    assert len(get_stored(driver._store, name).to_revoke) == 1
    clock.advance(60)
    driver.sweep()

    assert actions()[-2:] == ["revoke_failed", "revoke"]
    assert driver.purge()[:3] == (0, 1, [])


def test_flows_that_hold_nothing_are_dropped_after_another_while(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer
) -> None:
    driver = client(code_answer(), DENIED, code_answer())
    ended = driver.start(STUDIO).id
    driver.step(ended)
    waiting = driver.start(STUDIO).id
    clock.advance(90 * DAY)

    assert driver.purge(flows_after=90 * DAY + 1)[:3] == (0, 0, [])
    assert driver.purge()[:3] == (0, 1, [])

    assert [flow.id for flow in driver.logins()] == [waiting]


def test_purge_leaves_alone_what_somebody_is_collecting_at_last(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer, actions: Actions
) -> None:
    driver = client(code_answer(), GRANTED)
    name = authorized(driver, OAUTH)
    clock.advance(7 * DAY)

    with driver.collect(name) as token:
        assert client().purge()[:3] == (0, 0, [])
        assert token.access_token == TOKEN

    assert actions()[-2:] == ["collect", "acknowledge"]


def test_purge_that_somebody_was_quicker_than_records_nothing(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer, actions: Actions
) -> None:
    class Slow(MemoryStore):
        """The token is acknowledged right after the look for what is left over."""

        def select(self, query: Any, client_now: float) -> list[Any]:
            found: list[Any] = super().select(query, client_now)
            for flow_id in found if query.name == "with_token" else ():
                other.acknowledge(flow_id)
            return found

    slow = Slow()
    driver, other = client(code_answer(), GRANTED, store=slow), client(store=slow)
    name = authorized(driver, OAUTH)
    clock.advance(7 * DAY)

    assert driver.purge()[:3] == (0, 0, [])

    assert actions()[-1] == "acknowledge"
    assert isinstance(slow.claim(name, "w1", moment(clock), 20), Claim)


def test_purge_goes_on_past_what_it_cannot_wipe(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer
) -> None:
    class Damaged(MemoryStore):
        """One flow cannot be read."""

        broken = ""

        def claim(self, flow_id: str, *how: Any) -> Claim | LeaseHeld:
            if flow_id == self.broken:
                raise errors.SealError(flow_id=flow_id)
            return super().claim(flow_id, *how)

    damaged = Damaged()
    driver = client(code_answer(), GRANTED, code_answer(), GRANTED, store=damaged)
    broken, whole = authorized(driver), authorized(driver)
    damaged.broken = broken
    clock.advance(7 * DAY)

    purged = driver.purge()

    assert (purged.tokens, [problem.flow_id for problem in purged.problems]) == (1, [broken])
    assert driver.get(whole).handover == "purged"


# Sweeping.


def test_sweep_steps_whatever_is_due_and_nothing_else(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer
) -> None:
    driver = client(*[code_answer()] * 3, PENDING, GRANTED, DENIED)
    first, second, third = (driver.start(STUDIO).id for _ in range(3))

    swept = driver.sweep()

    assert swept.problems == []
    assert [brief(login) for login in swept.logins] == [
        (first, State.AWAITING_USER, 5, None),
        (second, State.AUTHORIZED, 0, None),
        (third, State.FAILED, 0, Reason.DENIED),
    ]
    assert driver.sweep() == ([], [])
    assert sent(driver)[3:] == ["token"] * 3
    assert clock.slept == []


def test_sweep_takes_first_what_has_been_due_the_longest_and_no_more_than_it_may(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer
) -> None:
    driver = client(code_answer(), code_answer(), PENDING, PENDING)
    late = driver.start(STUDIO).id
    clock.advance(1)
    later = driver.start(STUDIO).id

    assert [done.id for done in driver.sweep(limit=1).logins] == [late]
    assert [done.id for done in driver.sweep(limit=1).logins] == [later]


def test_sweep_never_touches_a_login_that_nobody_has_started(
    client: Make, clock: VirtualClock, store: MemoryStore, code_answer: CodeAnswer
) -> None:
    driver = client(UNSENT, code_answer())
    created, tried = driver.create(STUDIO).id, driver.create(STUDIO).id
    assert driver.step(tried).state is State.INIT
    clock.advance(DAY)

    assert driver.sweep() == ([], [])

    assert {get_stored(store, name).state for name in (created, tried)} == {State.INIT}


def test_sweep_brings_what_a_dead_worker_left_to_its_end(
    client: Make,
    clock: VirtualClock,
    store: MemoryStore,
    code_answer: CodeAnswer,
    actions: Actions,
) -> None:
    name = client(code_answer()).start(STUDIO).id
    claim = store.claim(name, "the dead", moment(clock), 20)
    store.commit(claim.flow, render(claim.flow, claim.flow.poll(clock.time(), 10)))
    clock.advance(60)

    assert [brief(one) for one in client(GRANTED).sweep().logins] == [
        (name, State.AUTHORIZED, 0.0, None)
    ]

    assert actions() == ["issue_code", "recover", "poll", "issue_token"]


def test_sweep_passes_over_what_it_cannot_step_and_leaves_it_alone_for_a_minute(
    client: Make, clock: VirtualClock, store: MemoryStore, code_answer: CodeAnswer
) -> None:
    driver = client(code_answer(), PENDING)
    flow = Flow("without-secrets", STUDIO, clock.time())
    flow.receive(code_answer(), clock.time())
    store.add(export.from_dict(export.to_dict(flow)))
    whole = driver.start(STUDIO).id

    swept = driver.sweep()

    assert [done.id for done in swept.logins] == [whole]
    (problem,) = swept.problems
    assert isinstance(problem, errors.UsageError)
    assert problem.flow_id == flow.id
    assert isinstance(store.claim(flow.id, "somebody", moment(clock), 0.0), Claim)
    clock.advance(4.9)
    assert driver.sweep() == ([], [])
    clock.advance(55.1)
    assert [one.flow_id for one in client(PENDING).sweep().problems] == [flow.id]


@pytest.mark.parametrize("passed_over", [True, False])
def test_sweep_passes_over_a_damaged_flow_and_not_over_a_store_that_fails(
    client: Make, code_answer: CodeAnswer, passed_over: bool
) -> None:
    class Failing(MemoryStore):
        fails = False

        def claim(self, *how: Any) -> Claim | LeaseHeld:
            fails, self.fails = self.fails, False
            if fails:
                raise errors.StoreError(flow_id=first if passed_over else None)
            return super().claim(*how)

    failing = Failing()
    driver = client(code_answer(), code_answer(), PENDING, store=failing)
    first, whole = (driver.start(STUDIO).id for _ in range(2))
    failing.fails = True

    if passed_over:
        swept = driver.sweep()
        assert [problem.flow_id for problem in swept.problems] == [first]
        assert [done.id for done in swept.logins] == [whole]
    else:
        with pytest.raises(errors.StoreError):
            driver.sweep()


# A machine that is too slow.


@pytest.mark.parametrize("suspended", [True, False])
def test_step_whose_lease_has_too_little_left_sends_nothing(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer, actions: Actions, suspended: bool
) -> None:
    class Stalling(MemoryStore):
        """Takes longer over the claim than a lease can bear."""

        stalls = 0.0

        def claim(self, *args: Any) -> Claim | LeaseHeld:
            claim = super().claim(*args)
            # A suspended machine's monotonic clock may stand still.
            (clock.set_wall if suspended else clock.advance)(self.stalls)
            return claim

    stalling = Stalling()
    driver = client(code_answer(), PENDING, store=stalling)
    name = driver.start(STUDIO).id
    stalling.stalls = LEASE_MARGIN / 2 + 0.1

    step = driver.step(name)

    assert step.state is State.AWAITING_USER
    assert sent(driver) == ["code"]
    assert actions() == ["issue_code", "poll", "retry"]
    flow = driver.get(name)
    assert (flow.detail, flow.in_doubt) == ("lease", False)
    stalling.stalls = LEASE_MARGIN / 2
    clock.advance(step.wait_seconds)
    driver.step(name)
    assert sent(driver) == ["code", "token"]
