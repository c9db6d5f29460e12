"""The sync driver, with a clock that obeys and a server that is a list of answers."""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import errors, export
from deviceflow.audit.events import render
from deviceflow.audit.origin import origin
from deviceflow.client._sync import Client
from deviceflow.client.clock import SystemClock
from deviceflow.core.flow import Flow
from deviceflow.core.secret import Secret
from deviceflow.core.states import Reason, State
from deviceflow.core.wire import Failure, Response
from deviceflow.providers.studio import Studio
from deviceflow.stores.memory import MemoryStore
from deviceflow.testing import ScriptedTransport, VirtualClock, answer
from tests.brief import brief
from tests.facade import AsyncFacade
from tests.moments import moment
from tests.stored import get as get_stored

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.core.login import Login
    from deviceflow.core.ports import StoreEvent
    from deviceflow.core.wire import Request

    Make = Callable[..., Client]
    CodeAnswer = Callable[..., Response]
    Rendered = Callable[[BaseException], str]

STUDIO: Final = Studio("https://studio.example.com")
PENDING: Final = answer(400, {"detail": "authorization_pending"})
DENIED: Final = answer(400, {"detail": "access_denied"})
EXPIRED: Final = answer(400, {"detail": "authorization_expired"})
UNKNOWN_CODE: Final = answer(400, {"detail": "invalid_grant"})
GRANTED: Final = answer(200, {"access_token": "TOKEN-CANARY"})
HTML: Final = answer(404, "<html>")
LOST: Final = Failure("timeout", sent=True)
UNSENT: Final = Failure("connection", sent=False)


class PersistentStore(MemoryStore):
    """StoredFlow for a store that outlives the process."""

    durable = True
    keeps_trail = True


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture(params=[Client, AsyncFacade])
def client(request: pytest.FixtureRequest, clock: VirtualClock, store: MemoryStore) -> Make:
    """Make a client of the store that is given these answers, one for each request."""

    def make(*script: Any, **parts: Any) -> Client:
        ours: dict[str, Any] = {
            "store": store,
            "clock": clock,
            "transport": ScriptedTransport(script),
        }
        made: Client = request.param(**(ours | parts))
        return made

    return make


def sent(client: Client) -> list[str]:
    transport = client._transport
    assert isinstance(transport, ScriptedTransport)
    return [request.purpose for request in transport.requests]


# Starting.


def test_start_asks_for_a_code_and_returns_the_flow(client: Make, code_answer: CodeAnswer) -> None:
    driver = client(code_answer())

    flow = driver.start(STUDIO, client_name="robot", scopes=["models"])

    assert flow.state is State.AWAITING_USER
    assert flow.user_code == "USER-CANARY"
    assert flow.provider == STUDIO.with_request(client_name="robot", scopes=["models"])
    assert sent(driver) == ["code"]
    transport = driver._transport
    assert isinstance(transport, ScriptedTransport)
    assert json.loads(transport.requests[0].body) == {"client_name": "robot", "scopes": ["models"]}


def test_flows_are_named_at_random(client: Make, code_answer: CodeAnswer) -> None:
    driver = client(code_answer(), code_answer())

    first, second = driver.start(STUDIO), driver.start(STUDIO)

    assert first.id != second.id
    assert min(len(first.id), len(second.id)) >= 16


@pytest.mark.parametrize("trouble", [UNSENT, LOST, answer(503, "busy"), answer(502, "<html>")])
def test_start_asks_again_within_some_seconds(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer, trouble: Response | Failure
) -> None:
    driver = client(trouble, trouble, code_answer())

    flow = driver.start(STUDIO)

    assert flow.state is State.AWAITING_USER
    assert not flow.in_doubt
    assert sent(driver) == ["code", "code", "code"]
    assert 3 <= sum(clock.slept) <= 4


def test_start_gives_up_on_a_server_that_does_not_answer(client: Make) -> None:
    driver = client(UNSENT, UNSENT, UNSENT)

    with pytest.raises(errors.UnreachableError) as caught:
        driver.start(STUDIO)

    error = caught.value
    assert error.flow_id is not None
    assert (error.state, error.reason) == ("failed", "unreachable")
    assert driver.get(error.flow_id).state is State.FAILED
    assert "Check the URL and the network" in str(error)


@pytest.mark.parametrize("said", ["<html>", "", '{"detail": ""}'])
def test_start_names_the_server_and_the_status_of_a_gateway(client: Make, said: str) -> None:
    with pytest.raises(errors.UnreachableError) as caught:
        client(*[answer(502, said)] * 3).start(STUDIO)

    assert "https://studio.example.com answered HTTP 502 3 times." in str(caught.value)


@pytest.mark.parametrize(
    ("said", "error", "text"),
    [
        (
            answer(400, {"detail": "no \x1b[31msuch\x1b[0m client"}),
            errors.RejectedError,
            "The server's message: no such client.",
        ),
        (answer(403, {}), errors.RejectedError, "The server refused the login. The server's error"),
        (
            answer(200, "<html>"),
            errors.ProtocolError,
            "do not conform to the protocol. https://studio.example.com answered HTTP 200. Check",
        ),
    ],
)
def test_start_says_why_the_server_refused(
    client: Make, said: Response, error: type[errors.DeviceFlowError], text: str
) -> None:
    with pytest.raises(error) as caught:
        client(said).start(STUDIO)

    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"audience": "a"}, errors.UsageError),
        ({"scopes": ["EVERYTHING"]}, errors.InvalidScopesError),
        ({"all_teams": False}, ValueError),
    ],
)
def test_what_cannot_be_asked_leaves_nothing_behind(
    client: Make, store: MemoryStore, asked: dict[str, Any], error: type[Exception]
) -> None:
    driver = client()

    with pytest.raises(error):
        driver.start(STUDIO, **asked)

    assert sent(driver) == []
    assert len(store) == 0


# Starting once for a key.


def test_open_login_of_the_name_is_returned_without_a_request(
    client: Make, code_answer: CodeAnswer
) -> None:
    driver = client(code_answer())
    first = driver.start(STUDIO, name="nightly")

    again = driver.start(STUDIO, name="nightly")

    assert again.id == first.id
    assert again.user_code == first.user_code
    assert sent(driver) == ["code"]


def test_name_of_another_login_is_another_login(client: Make, code_answer: CodeAnswer) -> None:
    driver = client(code_answer(), code_answer(), code_answer())

    flows = [driver.start(STUDIO, name=name) for name in ("a", "b", None)]

    assert len({flow.id for flow in flows}) == 3


@pytest.mark.parametrize(
    ("provider", "asked"),
    [(Studio("https://other.example.com"), {}), (STUDIO, {"scopes": ["models"]})],
)
def test_name_of_a_login_that_asks_for_something_else_is_refused(
    client: Make, code_answer: CodeAnswer, provider: Studio, asked: dict[str, Any]
) -> None:
    driver = client(code_answer())
    first = driver.start(STUDIO, name="nightly")

    with pytest.raises(errors.UsageError, match="'nightly' is open already at") as caught:
        driver.start(provider, name="nightly", **asked)

    assert caught.value.flow_id == first.id
    assert sent(driver) == ["code"]


def test_end_with_an_answer_lost_says_that_a_token_may_exist(
    client: Make, code_answer: CodeAnswer
) -> None:
    driver = client(code_answer(), *[answer(200, "{cut")] * 3)

    with pytest.raises(errors.ProtocolError, match="a token may exist"):
        driver.wait_for_token(driver.start(STUDIO).id)


def test_our_own_words_are_not_called_the_servers(client: Make) -> None:
    with pytest.raises(
        errors.UnreachableError, match=r"No response from https://.*: connection failed"
    ) as caught:
        client(UNSENT, UNSENT, UNSENT).start(STUDIO)

    assert "The server's message" not in str(caught.value)


def test_ended_flow_of_the_name_gives_way_to_a_new_one(
    client: Make, code_answer: CodeAnswer
) -> None:
    driver = client(code_answer(), code_answer())
    first = driver.start(STUDIO, name="nightly")
    driver.cancel(first.id)

    assert driver.start(STUDIO, name="nightly").id != first.id


@pytest.mark.parametrize("client", [Client], indirect=True)
def test_many_threads_start_one_login_with_one_request(
    client: Make, code_answer: CodeAnswer
) -> None:
    class Hasty(SystemClock):
        """Real time, in which nobody sleeps for long."""

        def sleep(self, seconds: float) -> None:
            time.sleep(min(seconds, 0.005))

    def slowly(_: Request) -> Response:
        time.sleep(0.05)
        return code_answer()

    threads = 8
    driver = client(slowly, clock=Hasty())
    barrier = threading.Barrier(threads)

    def start(_: int) -> Login:
        barrier.wait()
        return driver.start(STUDIO, name="nightly")

    with ThreadPoolExecutor(threads) as pool:
        flows = list(pool.map(start, range(threads)))

    assert len({flow.id for flow in flows}) == 1
    assert {flow.user_code for flow in flows} == {"USER-CANARY"}
    assert sent(driver) == ["code"]


def test_code_that_died_while_nobody_looked_is_not_shown_again(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer
) -> None:
    driver = client(code_answer(), PENDING, code_answer(user_code="FRESH"))
    old = driver.start(STUDIO, name="nightly")
    clock.advance(86400)

    flow = driver.start(STUDIO, name="nightly")

    assert flow.user_code == "FRESH"
    assert driver.get(old.id).state is State.EXPIRED


def test_approval_that_came_while_nobody_looked_is_found(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer
) -> None:
    driver = client(code_answer(), GRANTED)
    old = driver.start(STUDIO, name="nightly")
    clock.advance(86400)

    flow = driver.start(STUDIO, name="nightly")

    assert (flow.id, flow.state) == (old.id, State.AUTHORIZED)
    assert driver.wait_for_token(flow.id).access_token == Secret("TOKEN-CANARY")


def test_flow_that_is_being_asked_for_its_last_word_is_left_alone(
    client: Make, clock: VirtualClock, store: MemoryStore, code_answer: CodeAnswer
) -> None:
    driver = client(code_answer())
    old = driver.start(STUDIO, name="nightly")
    clock.advance(86400)
    store.claim(old.id, "another worker", moment(clock), 20)

    assert driver.start(STUDIO, name="nightly").id == old.id
    assert sent(driver) == ["code"]


# Creating, to ask for the code later.


def test_create_sends_nothing_until_the_first_step(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer
) -> None:
    driver = client(code_answer(expires_in=600))

    flow = driver.create(STUDIO, client_name="robot")

    assert flow.state is State.INIT
    assert sent(driver) == []
    clock.advance(86400)
    step = driver.step(flow.id)
    assert brief(step) == (flow.id, State.AWAITING_USER, 0, None)
    assert sent(driver) == ["code"]
    assert driver.get(flow.id).expires_at == clock.time() + 600


def test_created_flow_can_be_waited_for(client: Make, code_answer: CodeAnswer) -> None:
    driver = client(code_answer(), PENDING, GRANTED)

    token = driver.wait_for_token(driver.create(STUDIO).id)

    assert token.access_token == Secret("TOKEN-CANARY")


def test_create_returns_the_open_login_of_the_name(client: Make, code_answer: CodeAnswer) -> None:
    driver = client(code_answer())
    flow = driver.start(STUDIO, name="nightly")

    assert driver.create(STUDIO, name="nightly").state is State.AWAITING_USER
    assert driver.create(STUDIO, name="nightly").id == flow.id


def test_equal_settings_are_kept_once(client: Make) -> None:
    driver = client()

    first, second = (driver.create(Studio("https://studio.example.com")) for _ in range(2))

    assert first.provider is second.provider


# Adopting.


def test_adopted_code_is_polled_with(client: Make) -> None:
    driver = client(PENDING, GRANTED)

    flow = driver.adopt(
        STUDIO, token_endpoint="https://studio.example.com/t", device_code=Secret("ADOPTED-CANARY")
    )
    token = driver.wait_for_token(flow.id)

    assert flow.expires_at is None
    assert token.access_token == Secret("TOKEN-CANARY")
    transport = driver._transport
    assert isinstance(transport, ScriptedTransport)
    assert json.loads(transport.requests[0].body) == {"code": "ADOPTED-CANARY"}
    assert transport.requests[0].url == "https://studio.example.com/t"


@pytest.mark.parametrize("url", ["http://studio.example.com/t", "file:///t", "t"])
def test_code_is_not_adopted_for_an_unsafe_address(
    client: Make, store: MemoryStore, url: str
) -> None:
    with pytest.raises(errors.InsecureURLError):
        client().adopt(STUDIO, token_endpoint=url, device_code=Secret("DEVICE-CANARY"))

    assert len(store) == 0


# Stepping.


def test_step_sends_one_request_at_the_most_and_never_sleeps(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer
) -> None:
    driver = client(code_answer(), PENDING, LOST, HTML, GRANTED)
    flow = driver.create(STUDIO)
    before = 0
    while not (step := driver.step(flow.id)).state.ended:
        # Called when it was told to, it sends; called too early, it does not.
        assert len(sent(driver)) == before + 1
        before += 1
        if step.wait_seconds:
            clock.advance(step.wait_seconds / 2)
            early = driver.step(flow.id)
            assert early.wait_seconds == pytest.approx(step.wait_seconds / 2, abs=2e-6)
            assert len(sent(driver)) == before
            clock.advance(early.wait_seconds)

    assert brief(step) == (flow.id, State.AUTHORIZED, 0.0, None)
    assert sent(driver) == ["code", "token", "token", "token", "token"]
    assert clock.slept == []


def test_step_of_an_ended_flow_is_silent(client: Make, code_answer: CodeAnswer) -> None:
    driver = client(code_answer(), DENIED)
    flow = driver.start(STUDIO)
    driver.step(flow.id)

    assert brief(driver.step(flow.id)) == (flow.id, State.FAILED, 0, Reason.DENIED)
    assert sent(driver) == ["code", "token"]


@pytest.mark.parametrize(
    "use", ["step", "wait", "wait_for_token", "get", "collect_token", "cancel"]
)
def test_unknown_flow_is_an_error_that_names_it(client: Make, use: str) -> None:
    with pytest.raises(errors.UnknownLoginError) as caught:
        getattr(client(), use)("f9")

    assert caught.value.flow_id == "f9"
    assert "Check the id" in str(caught.value)


def test_interval_counts_from_the_end_of_the_request(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer
) -> None:
    def slowly(_: Request) -> Response:
        clock.advance(7)
        return PENDING

    driver = client(code_answer(), slowly)
    flow = driver.start(STUDIO)

    assert driver.step(flow.id).wait_seconds == 5
    assert get_stored(driver._store, flow.id).due_at == clock.time() + 5


# Waiting.


def test_wait_returns_the_token(client: Make, clock: VirtualClock, code_answer: CodeAnswer) -> None:
    driver = client(code_answer(), PENDING, PENDING, GRANTED)
    flow = driver.start(STUDIO)

    token = driver.wait_for_token(flow.id)

    assert token.access_token.reveal() == "TOKEN-CANARY"
    assert not token.possibly_revoked
    assert clock.slept == [5, 5]
    assert driver.collect_token(flow.id) == token


@pytest.mark.parametrize(
    ("said", "error", "reason"),
    [
        ([DENIED], errors.DeniedError, "denied"),
        ([EXPIRED], errors.ExpiredError, None),
        ([UNKNOWN_CODE], errors.RejectedError, "rejected"),
        ([HTML, HTML, HTML], errors.ProtocolError, "protocol"),
        ([LOST, UNKNOWN_CODE], errors.OutcomeUnknownError, "outcome_unknown"),
        ([PENDING] * 200, errors.ExpiredError, None),
        ([UNSENT] * 200, errors.ExpiredError, None),
        ([LOST] * 200, errors.OutcomeUnknownError, "outcome_unknown"),
        ([answer(503, "", Retry_After="9999")], errors.ExpiredError, None),
    ],
)
def test_wait_raises_why_there_is_no_token(
    client: Make,
    clock: VirtualClock,
    code_answer: CodeAnswer,
    said: list[Response | Failure],
    error: type[errors.DeviceFlowError],
    reason: str | None,
) -> None:
    driver = client(code_answer(expires_in=600), *said)
    flow = driver.start(STUDIO)
    begun = clock.time()

    with pytest.raises(error) as caught:
        driver.wait_for_token(flow.id)

    raised = caught.value
    assert type(raised) is error
    assert (raised.flow_id, raised.reason) == (flow.id, reason)
    assert raised.state == ("failed" if reason else "expired")
    assert raised.hint
    assert raised.hint in str(raised)
    assert clock.time() <= begun + 601


def test_servers_words_are_in_the_error_cleaned(client: Make, code_answer: CodeAnswer) -> None:
    driver = client(code_answer(), answer(400, {"detail": "bad \x1b[5mcode\x07 DEVICE-CANARY"}))
    flow = driver.start(STUDIO)

    with pytest.raises(errors.RejectedError, match="The server's message: bad code <secret>"):
        driver.wait_for_token(flow.id)


def test_wait_ends_with_the_callers_patience_and_the_login_goes_on(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer
) -> None:
    driver = client(code_answer(), PENDING, PENDING, PENDING, GRANTED)
    flow = driver.start(STUDIO)

    with pytest.raises(errors.WaitTimeoutError) as caught:
        driver.wait_for_token(flow.id, timeout=12)

    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.flow_id, caught.value.state) == (flow.id, "awaiting-user")
    assert clock.slept == [5, 5, 2]
    assert driver.wait_for_token(flow.id).access_token == Secret("TOKEN-CANARY")
    assert clock.slept == [5, 5, 2, 3]


@pytest.mark.parametrize("timeout", [0, -5])
def test_wait_without_patience_takes_one_step(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer, timeout: float
) -> None:
    driver = client(code_answer(), PENDING)
    flow = driver.start(STUDIO)

    with pytest.raises(errors.WaitTimeoutError):
        driver.wait_for_token(flow.id, timeout)

    assert sent(driver) == ["code", "token"]
    assert clock.slept == []


def test_patience_is_not_worn_by_the_wall_clock(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer
) -> None:
    def set_back(_: Request) -> Response:
        clock.set_wall(-3600)
        return PENDING

    driver = client(code_answer(), set_back, PENDING, PENDING)
    flow = driver.start(STUDIO)

    with pytest.raises(errors.WaitTimeoutError):
        driver.wait_for_token(flow.id, timeout=11)

    assert clock.slept == [5, 5, 1]


def test_wait_shows_how_things_stand(client: Make, code_answer: CodeAnswer) -> None:
    driver = client(code_answer(), PENDING, answer(400, {"detail": "slow_down"}), GRANTED)
    flow = driver.start(STUDIO)
    steps: list[Login] = []

    driver.wait_for_token(flow.id, on_step=steps.append)

    assert [(step.state, step.wait_seconds) for step in steps] == [
        (State.AWAITING_USER, 5),
        (State.AWAITING_USER, 11),
        (State.AUTHORIZED, 0),
    ]


def test_what_the_caller_raises_ends_the_waiting_and_not_the_login(
    client: Make, code_answer: CodeAnswer
) -> None:
    driver = client(code_answer(), PENDING, GRANTED)
    flow = driver.start(STUDIO)

    def fail(_: Login) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        driver.wait_for_token(flow.id, on_step=fail)

    assert driver.wait_for_token(flow.id).access_token == Secret("TOKEN-CANARY")


def test_suspended_machine_makes_one_poll_and_then_says_expired(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer
) -> None:
    def suspended(_: Request) -> Response:
        clock.set_wall(3600)
        return PENDING

    driver = client(code_answer(), suspended, PENDING)
    flow = driver.start(STUDIO)

    with pytest.raises(errors.ExpiredError):
        driver.wait_for_token(flow.id)

    assert sent(driver) == ["code", "token", "token"]


def test_wall_clock_set_back_does_not_stretch_the_wait(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer
) -> None:
    def set_back(_: Request) -> Response:
        clock.set_wall(-7200)
        return PENDING

    driver = client(code_answer(expires_in=60), set_back, *[PENDING] * 20)
    flow = driver.start(STUDIO)
    begun = clock.monotonic()

    with pytest.raises(errors.ExpiredError):
        driver.wait_for_token(flow.id)

    assert clock.monotonic() - begun == 60


def test_jump_of_a_clock_is_logged(
    client: Make,
    clock: VirtualClock,
    code_answer: CodeAnswer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    driver = client(code_answer())
    clock.set_wall(-3600)

    driver.start(STUDIO)

    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "deviceflow.clock_jump wall_clock_ahead=-3600.0"


# Cancelling.


def test_cancel_ends_the_login_with_its_reason(
    client: Make, code_answer: CodeAnswer, actions: Callable[[], list[str]]
) -> None:
    driver = client(code_answer())
    flow = driver.start(STUDIO)

    done = driver.cancel(flow.id, "no longer wanted")

    assert brief(done) == (flow.id, State.FAILED, 0, Reason.CANCELLED)
    assert driver.get(flow.id).detail == "no longer wanted"
    assert actions() == ["issue_code", "cancel"]
    with pytest.raises(errors.LoginCancelledError):
        driver.wait_for_token(flow.id)
    assert sent(driver) == ["code"]


@pytest.mark.parametrize(("end", "state"), [(GRANTED, "authorized"), (EXPIRED, "expired")])
def test_cancel_leaves_an_ended_flow_as_it_is(
    client: Make, code_answer: CodeAnswer, end: Response, state: str
) -> None:
    driver = client(code_answer(), end)
    flow = driver.start(STUDIO)
    driver.step(flow.id)

    assert driver.cancel(flow.id).state == state
    assert driver.get(flow.id).state == state


def test_cancel_before_the_code_is_possible(client: Make) -> None:
    driver = client()
    flow = driver.create(STUDIO)

    assert driver.cancel(flow.id).reason is Reason.CANCELLED
    with pytest.raises(errors.LoginCancelledError):
        driver.collect_token(flow.id)


def test_cancel_tries_again_where_others_went_on_meanwhile(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer
) -> None:
    class Busy(MemoryStore):
        """Others go on with the flow right after the first look at it."""

        busy = False

        def load(self, *what: Any, **how: Any) -> Any:
            stored = super().load(*what, **how)
            if self.busy:
                self.busy = False
                theirs = get_stored(self, flow.id)
                assert self.commit(theirs, render(theirs, theirs.poll(clock.time(), 10)))
            return stored

    store = Busy()
    driver = client(code_answer(), store=store)
    flow = driver.start(STUDIO)
    store.busy = True

    assert driver.cancel(flow.id).reason is Reason.CANCELLED
    assert driver.get(flow.id).attempt == 1


def test_cancel_from_another_thread_wakes_the_waiting_at_once(
    client: Make, code_answer: CodeAnswer
) -> None:
    driver = client(code_answer(interval=3600), PENDING, clock=SystemClock())
    flow = driver.start(STUDIO)
    waiting = threading.Event()

    def cancel() -> None:
        waiting.wait(10)
        driver.cancel(flow.id)

    thread = threading.Thread(target=cancel)
    thread.start()
    begun = time.monotonic()
    with pytest.raises(errors.LoginCancelledError):
        driver.wait_for_token(flow.id, on_step=lambda _: waiting.set())
    thread.join()

    assert time.monotonic() - begun < 30


def test_cancel_wakes_only_those_who_wait_for_that_flow(
    client: Make, code_answer: CodeAnswer, clock: VirtualClock
) -> None:
    def cancel_the_other(_: Request) -> Response:
        driver.cancel(other.id)
        return PENDING

    driver = client(code_answer(), code_answer(), cancel_the_other, GRANTED)
    other, flow = driver.start(STUDIO), driver.start(STUDIO)

    driver.wait_for_token(flow.id)

    assert clock.slept == [5]


# Ctrl-C.


def interrupt(_: object) -> Response:
    raise KeyboardInterrupt


class Interrupted(VirtualClock):
    """A clock whose owner presses Ctrl-C while it sleeps."""

    def sleep(self, seconds: float) -> None:
        raise KeyboardInterrupt


def test_interrupt_while_sending_cancels_a_flow_in_memory(
    client: Make, code_answer: CodeAnswer, actions: Callable[[], list[str]]
) -> None:
    driver = client(code_answer(), interrupt)
    flow = driver.start(STUDIO)

    with pytest.raises(KeyboardInterrupt):
        driver.wait_for_token(flow.id)

    assert actions() == ["issue_code", "poll", "retry", "cancel"]
    stands = driver.get(flow.id)
    assert (stands.reason, stands.detail) == (Reason.CANCELLED, "interrupted")
    assert stands.in_doubt


def test_interrupt_while_sleeping_cancels_a_flow_in_memory(
    client: Make, code_answer: CodeAnswer, actions: Callable[[], list[str]]
) -> None:
    driver = client(code_answer(), PENDING, clock=Interrupted())
    flow = driver.start(STUDIO)

    with pytest.raises(KeyboardInterrupt):
        driver.wait_for_token(flow.id)

    assert actions() == ["issue_code", "poll", "pending", "cancel"]
    assert not driver.get(flow.id).in_doubt


@pytest.mark.parametrize("client", [Client], indirect=True)
def test_interrupt_of_a_wait_in_the_system_clocks_sleep(
    client: Make, code_answer: CodeAnswer
) -> None:
    driver = client(code_answer(interval=3600), PENDING, clock=SystemClock())
    flow = driver.start(STUDIO)
    main = threading.main_thread().ident
    assert main is not None
    press = threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT))

    with pytest.raises(KeyboardInterrupt):
        driver.wait_for_token(flow.id, on_step=lambda _: press.start())

    assert driver.get(flow.id).reason is Reason.CANCELLED


@pytest.mark.parametrize("clock_of", [VirtualClock, Interrupted])
def test_interrupt_while_starting_cancels_a_flow_in_memory(
    client: Make, store: MemoryStore, clock_of: type[VirtualClock]
) -> None:
    said = UNSENT if clock_of is Interrupted else interrupt
    driver = client(said, clock=clock_of())

    with pytest.raises(KeyboardInterrupt):
        driver.start(STUDIO, name="nightly")

    assert get_stored(store, next(iter(store._entries[Flow]))).reason is Reason.CANCELLED


def test_interrupt_while_sending_leaves_a_persistent_flow_resumable_and_in_doubt(
    client: Make, code_answer: CodeAnswer, actions: Callable[[], list[str]]
) -> None:
    driver = client(code_answer(), interrupt, PENDING, GRANTED, store=PersistentStore())
    flow = driver.start(STUDIO)

    with pytest.raises(KeyboardInterrupt):
        driver.wait_for_token(flow.id)

    stands = driver.get(flow.id)
    assert (stands.state, stands.in_doubt) == (State.AWAITING_USER, True)
    assert actions() == ["issue_code", "poll", "retry"]
    # The lease was given back: it goes on at its due time.
    assert driver.wait_for_token(flow.id).access_token == Secret("TOKEN-CANARY")
    assert actions()[3:] == ["poll", "pending", "poll", "issue_token", "collect"]


def test_interrupt_while_sleeping_leaves_a_persistent_flow_resumable(
    clock: VirtualClock, client: Make, code_answer: CodeAnswer
) -> None:
    store = PersistentStore()
    driver = client(code_answer(), PENDING, store=store, clock=Interrupted())
    flow = driver.start(STUDIO)

    with pytest.raises(KeyboardInterrupt):
        driver.wait_for_token(flow.id)

    stands = driver.get(flow.id)
    assert (stands.state, stands.in_doubt) == (State.AWAITING_USER, False)
    clock.advance(5)
    assert client(GRANTED, store=store).wait_for_token(flow.id).access_token == Secret(
        "TOKEN-CANARY"
    )


def test_interrupt_of_the_code_request_leaves_a_persistent_flow_resumable(
    client: Make, code_answer: CodeAnswer
) -> None:
    driver = client(interrupt, code_answer(), store=PersistentStore())

    with pytest.raises(KeyboardInterrupt):
        driver.start(STUDIO, name="nightly")

    assert driver.start(STUDIO, name="nightly").user_code == "USER-CANARY"


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize(
    ("client", "stop"),
    [
        *itertools.product(
            [Client, AsyncFacade], [KeyboardInterrupt, SystemExit, ZeroDivisionError]
        ),
        (Client, GeneratorExit),  # it closes a coroutine, in which nothing more can be awaited
    ],
    indirect=["client"],
)
def test_what_comes_from_outside_goes_on_and_shows_no_secret(
    client: Make,
    code_answer: CodeAnswer,
    rendered: Rendered,
    persistent: bool,
    stop: type[BaseException],
) -> None:
    # Compiled as somebody else's file, since the tests' own frames are left out.
    sends = "def send(request):\n    body = request.body\n    raise stop from ValueError(body)"
    wire: dict[str, Any] = {"stop": stop}
    exec(compile(sends, "wire.py", "exec"), wire)
    store = PersistentStore() if persistent else MemoryStore()
    driver = client(code_answer(), wire["send"], store=store)
    flow = driver.start(STUDIO)

    with pytest.raises(stop) as caught:
        driver.wait_for_token(flow.id)

    shown = rendered(caught.value)
    assert "/client/_sync.py" in shown or "/client/_async.py" in shown
    assert "CANARY" not in shown
    assert driver.get(flow.id).in_doubt


def test_other_interruptions_do_not_cancel(client: Make, code_answer: CodeAnswer) -> None:
    driver = client(code_answer(), SystemExit(3), GRANTED)
    flow = driver.start(STUDIO)

    with pytest.raises(SystemExit):
        driver.wait_for_token(flow.id)

    assert driver.wait_for_token(flow.id).access_token == Secret("TOKEN-CANARY")


def test_settings_that_cannot_be_used_leave_no_doubt_since_nothing_was_sent(
    client: Make, code_answer: CodeAnswer
) -> None:
    driver = client(code_answer(), errors.UsageError("no such certificate"), GRANTED)
    flow = driver.start(STUDIO)

    with pytest.raises(errors.UsageError, match="no such certificate"):
        driver.step(flow.id)

    stands = driver.get(flow.id)
    assert (stands.state, stands.in_doubt) == (State.AWAITING_USER, False)


@pytest.mark.parametrize(
    "said",
    [
        [DENIED],
        [EXPIRED],
        [HTML, HTML, HTML],
        [LOST, UNKNOWN_CODE],
        [answer(400, {"detail": "DEVICE-CANARY"})],
    ],
)
def test_errors_of_a_login_show_no_secret(
    client: Make, code_answer: CodeAnswer, rendered: Rendered, said: list[Response | Failure]
) -> None:
    driver = client(code_answer(), *said)
    flow = driver.start(STUDIO)

    with pytest.raises(errors.DeviceFlowError) as caught:
        driver.wait_for_token(flow.id)

    assert "CANARY" not in rendered(caught.value)


# Leases: many workers, one poll.


def test_threads_stepping_one_flow_send_one_request(client: Make, code_answer: CodeAnswer) -> None:
    threads = 8
    barrier = threading.Barrier(threads)

    def slowly(_: Request) -> Response:
        time.sleep(0.05)
        return PENDING

    driver = client(code_answer(), slowly)
    flow = driver.start(STUDIO)

    def step(_: int) -> Login:
        barrier.wait()
        return driver.step(flow.id)

    with ThreadPoolExecutor(threads) as pool:
        steps = list(pool.map(step, range(threads)))

    assert sent(driver) == ["code", "token"]
    assert {step.wait_seconds for step in steps} == {5}
    assert driver.get(flow.id).attempt == 1


def test_flow_that_another_worker_polls_is_left_alone(
    client: Make, code_answer: CodeAnswer
) -> None:
    seen: list[Login] = []

    def meanwhile(_: Request) -> Response:
        seen.append(other.step(flow.id))
        return PENDING

    driver, other = client(code_answer(), meanwhile), client()
    flow = driver.start(STUDIO)

    driver.step(flow.id)

    assert [brief(one) for one in seen] == [(flow.id, State.POLLING, 5, None)]
    assert sent(other) == []


def test_dead_workers_flow_is_recovered_once_its_lease_is_over(
    client: Make, clock: VirtualClock, store: MemoryStore, code_answer: CodeAnswer
) -> None:
    flow = client(code_answer()).start(STUDIO)
    claim = store.claim(flow.id, "dead.1", moment(clock), 20)
    store.commit(claim.flow, render(claim.flow, claim.flow.poll(clock.time(), 10)))
    driver = client(PENDING)

    assert brief(driver.step(flow.id)) == (flow.id, State.POLLING, 5, None)
    clock.advance(21)
    driver.step(flow.id)

    assert sent(driver) == ["token"]
    stands = driver.get(flow.id)
    assert (stands.attempt, stands.in_doubt) == (2, False)


def test_stalled_workers_token_is_taken_late(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer, actions: Callable[[], list[str]]
) -> None:
    def stalled(_: Request) -> Response:
        clock.advance(60)
        other.step(flow.id)
        return GRANTED

    driver, other = client(code_answer(), stalled), client(UNKNOWN_CODE)
    flow = driver.start(STUDIO)

    step = driver.step(flow.id)

    assert brief(step) == (flow.id, State.AUTHORIZED, 0.0, None)
    assert actions() == ["issue_code", "poll", "recover", "poll", "fail", "late_token"]
    token = driver.collect_token(flow.id)
    assert token.access_token == Secret("TOKEN-CANARY")
    assert token.possibly_revoked


def test_stalled_workers_token_is_whole_where_nobody_polled_again(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer, actions: Callable[[], list[str]]
) -> None:
    def stalled(_: Request) -> Response:
        clock.advance(20)  # the lease is over, and the due time just about to come
        other.step(flow.id)
        return GRANTED

    driver, other = client(code_answer(interval=30), stalled), client()
    flow = driver.start(STUDIO)

    driver.step(flow.id)

    assert actions() == ["issue_code", "poll", "recover", "late_token"]
    assert not driver.collect_token(flow.id).possibly_revoked


def test_second_token_does_not_replace_the_first(
    client: Make, clock: VirtualClock, code_answer: CodeAnswer, actions: Callable[[], list[str]]
) -> None:
    def stalled(_: Request) -> Response:
        clock.advance(60)
        other.step(flow.id)
        return answer(200, {"access_token": "SECOND-CANARY"})

    driver, other = client(code_answer(), stalled), client(GRANTED)
    flow = driver.start(STUDIO)

    step = driver.step(flow.id)

    assert brief(step) == (flow.id, State.AUTHORIZED, 0.0, None)
    assert actions()[-2:] == ["issue_token", "orphan_token"]
    assert driver.collect_token(flow.id).access_token == Secret("TOKEN-CANARY")
    assert get_stored(driver._store, flow.id).orphaned_tokens == 1


def test_token_that_comes_after_cancelling_is_recorded_and_not_taken(
    client: Make, code_answer: CodeAnswer, actions: Callable[[], list[str]]
) -> None:
    def cancelled(_: Request) -> Response:
        driver.cancel(flow.id)
        return GRANTED

    driver = client(code_answer(), cancelled)
    flow = driver.start(STUDIO)

    with pytest.raises(errors.LoginCancelledError):
        driver.wait_for_token(flow.id)

    assert actions() == ["issue_code", "poll", "cancel", "orphan_token"]
    stands = get_stored(driver._store, flow.id)
    assert (stands.token, stands.orphaned_tokens) == (None, 1)


def test_pending_that_comes_after_cancelling_changes_nothing(
    client: Make, code_answer: CodeAnswer, actions: Callable[[], list[str]]
) -> None:
    def cancelled(_: Request) -> Response:
        driver.cancel(flow.id)
        return PENDING

    driver = client(code_answer(), cancelled)
    flow = driver.start(STUDIO)

    assert brief(driver.step(flow.id)) == (flow.id, State.FAILED, 0, Reason.CANCELLED)
    assert actions() == ["issue_code", "poll", "cancel"]


def test_deadline_of_a_request_is_the_clients(client: Make, code_answer: CodeAnswer) -> None:
    timeouts: list[float] = []

    class Noting(ScriptedTransport):
        def send(self, request: Request, timeout: float) -> Response | Failure:
            timeouts.append(timeout)
            return super().send(request, timeout)

    driver = client(transport=Noting([code_answer(), PENDING]), deadline=3)
    driver.step(driver.start(STUDIO).id)

    assert timeouts == [3, 3]


# The token, or why there is none.


def test_token_of_a_pending_login_is_asked_for_too_early(
    client: Make, code_answer: CodeAnswer
) -> None:
    driver = client(code_answer())
    created, started = driver.create(STUDIO), driver.start(STUDIO)

    for flow in (created, started):
        with pytest.raises(errors.WaitTimeoutError, match="still pending") as caught:
            driver.collect_token(flow.id)
        assert (caught.value.flow_id, caught.value.state) == (flow.id, flow.state)
        assert caught.value.hint


def test_token_that_was_left_out_of_an_export_is_not_called_pending(
    client: Make, store: MemoryStore, code_answer: CodeAnswer
) -> None:
    driver = client(code_answer(), GRANTED)
    flow = driver.start(STUDIO)
    driver.step(flow.id)
    elsewhere = MemoryStore()
    elsewhere.add(export.from_dict(export.to_dict(get_stored(driver._store, flow.id))))

    with pytest.raises(errors.UsageError, match="exported without its token"):
        client(store=elsewhere).wait_for_token(flow.id)


# Logging in, in one call.


PAGE: Final = "https://studio.example.com/login?code=USER-CANARY"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def opened() -> list[str]:
    return []


@pytest.fixture
def shown(client: Make, said: list[str], opened: list[str]) -> Make:
    """Make a client whose output and browser keep what they are given."""

    def make(*script: Any, opens: bool = True, **parts: Any) -> Client:
        def browser(url: str) -> bool:
            opened.append(url)
            return opens

        return client(*script, **({"output": said.append, "browser": browser} | parts))

    return make


def test_login_tells_the_person_what_to_do_and_returns_the_token(
    shown: Make, code_answer: CodeAnswer, said: list[str], opened: list[str]
) -> None:
    driver = shown(code_answer(), PENDING, GRANTED)

    token = driver.login(STUDIO, client_name="robot")

    assert token.access_token == Secret("TOKEN-CANARY")
    assert said == [
        "robot asks for access to https://studio.example.com.",
        *("Open this page, and check that it shows the code:", "", PAGE, "USER-CANARY", ""),
    ]
    assert opened == [PAGE]


def test_login_opens_no_browser_where_it_is_told_not_to(
    shown: Make, code_answer: CodeAnswer, said: list[str], opened: list[str]
) -> None:
    shown(code_answer(), GRANTED).login(STUDIO, open_browser=False)

    assert opened == []
    assert said[-3:] == [PAGE, "USER-CANARY", ""]


def test_login_says_that_no_browser_could_be_opened(
    shown: Make, code_answer: CodeAnswer, said: list[str]
) -> None:
    shown(code_answer(), GRANTED, opens=False).login(STUDIO)

    assert said[-1] == "No browser could be opened here: open the address on any device."


@pytest.mark.parametrize(
    "page",
    [
        "javascript:alert(1)",
        "file:///etc/passwd",
        "data:text/html,hello",
        "http://[::1",
        "https://studio.example.com/\x1b[2J\x1b]0;owned\x07",
        "\u202ehttps://studio.example.com",
        "https://studio.example.com/\nOpen https://evil.example.com",
    ],
)
def test_login_never_opens_a_hostile_page_and_never_prints_it_raw(
    shown: Make, code_answer: CodeAnswer, said: list[str], opened: list[str], page: str
) -> None:
    shown(code_answer(verification_uri=page), GRANTED).login(STUDIO)

    assert opened == []
    assert not [line for line in said if line.startswith("Open ")]
    assert said[1:4] == ["The server sent no usable URL. The code is:", "", "USER-CANARY"]
    assert all(line.isprintable() for line in said)


def test_login_prints_a_hostile_code_and_name_without_what_steers(
    shown: Make, code_answer: CodeAnswer, said: list[str]
) -> None:
    driver = shown(code_answer(user_code="AB\x1b[2J\nCD"), GRANTED)

    driver.login(STUDIO, client_name="ro\x1b[31mbot\r")

    assert said[0].startswith("robot  asks")
    assert said[4] == "AB CD"
    assert all(line.isprintable() for line in said)


def test_login_waits_as_long_as_it_is_told(shown: Make, code_answer: CodeAnswer) -> None:
    with pytest.raises(errors.WaitTimeoutError):
        shown(code_answer(), PENDING).login(STUDIO, timeout=3)


def test_login_of_a_name_goes_on_with_the_live_one(
    shown: Make, code_answer: CodeAnswer, said: list[str]
) -> None:
    driver = shown(code_answer(), GRANTED)
    driver.start(STUDIO, name="nightly")

    driver.login(STUDIO, name="nightly")

    assert sent(driver) == ["code", "token"]


@pytest.mark.parametrize("part", ["output", "browser"])
def test_interrupt_while_the_person_is_told_cancels_as_well(
    shown: Make, code_answer: CodeAnswer, actions: Callable[[], list[str]], part: str
) -> None:
    driver = shown(code_answer(), **{part: interrupt})

    with pytest.raises(KeyboardInterrupt):
        driver.login(STUDIO)

    assert actions() == ["issue_code", "cancel"]


def test_prompt_goes_to_stderr_unless_said_otherwise(
    client: Make, code_answer: CodeAnswer, capsys: pytest.CaptureFixture[str]
) -> None:
    client(code_answer(), GRANTED).login(STUDIO, open_browser=False)

    out, err = capsys.readouterr()
    assert out == ""
    assert PAGE in err


def test_request_that_the_script_does_not_foresee_is_a_failed_test(client: Make) -> None:
    with pytest.raises(AssertionError, match="no answer is left for request 1"):
        client().start(STUDIO)


def test_client_makes_its_own_parts() -> None:
    driver = Client()

    flow = driver.create(STUDIO)

    assert driver.get(flow.id).state is State.INIT
    assert abs(flow.created_at - time.time()) < 60


# Plain http.


def test_plain_http_to_another_machine_is_refused(client: Make) -> None:
    with pytest.raises(errors.InsecureURLError, match="plain http"):
        client().start(Studio("http://studio.lan"))


def test_plain_http_token_address_is_refused(client: Make, code_answer: CodeAnswer) -> None:
    driver = client(code_answer(token_uri="http://studio.example.com/token"))

    with pytest.raises(errors.ProtocolError, match="token_uri"):
        driver.start(STUDIO)


def plain_http(caplog: pytest.LogCaptureFixture) -> list[str]:
    events = [r for r in caplog.records if r.getMessage().startswith("deviceflow.plain_http ")]
    assert all(record.levelno == logging.WARNING for record in events)
    return [vars(record)["deviceflow"]["url"] for record in events]


@pytest.mark.parametrize(
    ("url", "token_uri", "said"),
    [
        ("http://studio.lan", "http://token.lan/t", ["http://studio.lan", "http://token.lan"]),
        ("https://studio.lan", "http://token.lan/t", ["http://token.lan"]),
        ("https://studio.lan", "https://token.lan/t", []),
        ("http://localhost:5000", "http://127.0.0.1/t", []),
    ],
)
def test_plain_http_that_is_allowed_is_recorded(
    client: Make,
    code_answer: CodeAnswer,
    caplog: pytest.LogCaptureFixture,
    url: str,
    token_uri: str,
    said: list[str],
) -> None:
    driver = client(code_answer(token_uri=token_uri))

    driver.start(Studio(url, allow_http=True), name="once")
    driver.start(Studio(url, allow_http=True), name="once")

    assert plain_http(caplog) == said


def test_plain_http_of_an_adopted_code_is_recorded(
    client: Make, caplog: pytest.LogCaptureFixture
) -> None:
    studio = Studio("https://studio.lan", allow_http=True)

    client().adopt(studio, token_endpoint="http://studio.lan/t", device_code=Secret("D"))

    assert plain_http(caplog) == ["http://studio.lan"]


def test_server_whose_certificate_is_not_checked_is_on_record_once(
    clock: VirtualClock, code_answer: CodeAnswer, caplog: pytest.LogCaptureFixture
) -> None:
    class Unverified(ScriptedTransport):
        unverified = True

    class Noting(MemoryStore):
        noted: list[StoreEvent]

        def append(self, event: StoreEvent) -> None:
            self.noted.append(event)

    store = Noting()
    store.noted = []
    answers = code_answer(token_uri="https://token.example.com/t"), PENDING, GRANTED
    driver = Client(store=store, transport=Unverified(answers), clock=clock)

    driver.wait_for_token(driver.start(STUDIO).id)

    said = [r for r in caplog.records if r.getMessage().startswith("deviceflow.unverified_tls ")]
    assert [record.levelno for record in said] == 2 * [logging.WARNING]
    assert [(note.action, note.detail) for note in store.noted] == [
        ("unverified_tls", STUDIO.server),
        ("unverified_tls", "https://token.example.com"),
    ]


def test_what_cannot_be_put_on_record_is_not_sent(
    clock: VirtualClock, code_answer: CodeAnswer
) -> None:
    class Unverified(ScriptedTransport):
        unverified = False

    class Failing(MemoryStore):
        notes = 0

        def append(self, event: Any) -> None:
            self.notes += 1
            if self.notes == 1:
                raise errors.StoreError("The disk is full.")

    store = Failing()
    transport = Unverified([code_answer(), DENIED])
    driver = Client(store=store, transport=transport, clock=clock)
    name = driver.start(STUDIO).id
    transport.unverified = True

    with pytest.raises(errors.StoreError):
        driver.step(name)

    assert len(transport.requests) == 1
    with pytest.raises(errors.DeniedError):
        driver.wait_for_token(name)
    assert store.notes == 2


def test_nothing_of_the_environment_is_needed() -> None:
    assert "DEVICEFLOW_ALLOW_HTTP" not in os.environ


def test_client_as_a_context_closes_its_transport_and_keeps_its_flows(
    store: MemoryStore, clock: VirtualClock, code_answer: CodeAnswer
) -> None:
    closed: list[bool] = []

    class Closing(ScriptedTransport):
        def close(self) -> None:
            closed.append(True)

    with Client(store, transport=Closing([code_answer()]), clock=clock) as driver:
        flow = driver.start(STUDIO)
        assert closed == []

    assert closed == [True]
    assert get_stored(store, flow.id).state is State.AWAITING_USER


# Who is told.


def test_hook_is_told_of_each_transition_that_is_committed(
    client: Make, code_answer: CodeAnswer
) -> None:
    told: list[dict[str, Any]] = []
    driver = client(code_answer(), GRANTED, on_transition=told.append)

    driver.wait_for_token(driver.start(STUDIO).id)

    assert [event["action"] for event in told] == ["issue_code", "poll", "issue_token", "collect"]


def test_block_of_code_says_who_acts_for_a_client_of_many(
    client: Make, code_answer: CodeAnswer
) -> None:
    told: list[dict[str, Any]] = []
    driver = client(code_answer(), PENDING, PENDING, on_transition=told.append)
    flow = driver.start(STUDIO)

    with origin(actor="somebody", task_id="t1"):
        driver.step(flow.id)
    driver.cancel(flow.id)

    assert [(event["actor"] == "somebody", event["task_id"]) for event in told] == [
        (False, None),
        (True, "t1"),
        (True, "t1"),
        (False, None),
    ]


# Its store.


class Closing(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def test_client_closes_a_store_that_it_has_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, Closing]] = []

    def opening(url: str) -> Closing:
        opened.append((url, Closing()))
        return opened[-1][1]

    monkeypatch.setattr("deviceflow.client._sync.open_store", opening)

    with Client("sqlite:///flows.db") as driver:
        ((url, store),) = opened
        assert driver._store is store
        assert store.closed == 0

    assert (url, store.closed) == ("sqlite:///flows.db", 1)


def test_client_leaves_a_store_open_that_it_was_given() -> None:
    store = Closing()

    Client(store).close()

    assert store.closed == 0


def test_url_that_names_a_store_in_memory_opens_one(code_answer: CodeAnswer) -> None:
    with Client("memory:", transport=ScriptedTransport([code_answer()])) as driver:
        assert not driver.durable
        assert driver.start(STUDIO).state is State.AWAITING_USER


def test_url_of_a_store_is_in_no_traceback(rendered: Rendered) -> None:
    with pytest.raises(errors.UsageError, match=r"URL") as caught:
        Client("mysql://user:PASSWORD-CANARY@db.example.com")

    assert "CANARY" not in rendered(caught.value)
