"""One login's rules: when it polls, what it makes of answers and of silence, how it is kept."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import export
from deviceflow.core.flow import Flow
from deviceflow.core.provider import DeviceCode, Token
from deviceflow.core.sanitize import number
from deviceflow.core.secret import Secret
from deviceflow.core.states import Reason, State
from deviceflow.core.wire import Failure, Request
from deviceflow.errors import IllegalTransitionError, UsageError
from deviceflow.providers.studio import Studio
from deviceflow.testing import answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deviceflow.core.flow import Transition
    from deviceflow.core.provider import Answer
    from deviceflow.core.wire import Response

    Waiting = Callable[..., Flow]
    Result = Response | Failure

NOW: Final = 1_800_000_000.0
HTTP_TIMEOUT: Final = 10.0
AUTHORIZED: Final = State.AUTHORIZED

PENDING: Final = answer(400, {"detail": "authorization_pending"})
SLOW_DOWN: Final = answer(400, {"detail": "slow_down"})
DENIED: Final = answer(400, {"detail": "access_denied"})
EXPIRED: Final = answer(400, {"detail": "authorization_expired"})
UNKNOWN_CODE: Final = answer(400, {"detail": "invalid_grant"})
GRANTED: Final = answer(200, {"access_token": "TOKEN-CANARY"})
HTML: Final = answer(404, "<html><h1>Not here</h1></html>")
CUT: Final = answer(200, '{"access_token": "TOK')
LOST: Final = Failure("timeout", sent=True)
UNSENT: Final = Failure("connection", sent=False)


class Revoking(Studio):
    """A server that takes tokens back."""

    def revocation_request(self, token: Secret, hint: str) -> Request:  # type: ignore[override]
        return Request("revoke", "https://studio.example.com/revoke", {}, b"")


class Counting(Studio):
    """A server that counts arrivals, so it is left alone a little longer than it says."""

    first_wait = None  # type: ignore[assignment]
    margin = 0.5

    def read_token(self, response: Response, now: float = 0.0) -> Answer:
        said = super().read_token(response)
        fields = response.fields()
        if said.outcome != "slow_down" or fields is None:
            return said
        return replace(said, interval=number(fields.get("interval"), 0.0, low=0, high=3600))


def polled(
    flow: Flow, result: Result, now: float | None = None, *, took: float = 0.0
) -> Transition:
    """Poll when it is due, or at `now`, and let `result` come after a while."""
    if now is None:
        now = flow.due_at
    flow.poll(now, HTTP_TIMEOUT)
    return flow.receive(result, now + took, duration=took)


def counted(code_answer: Callable[..., Response], **fields: Any) -> Flow:
    flow = Flow("f1", Counting("https://studio.example.com"), NOW)
    flow.receive(code_answer(**fields), NOW)
    return flow


# Where a flow begins.


def test_new_flow_asks_for_a_code_at_once() -> None:
    flow = Flow("f1", Studio("https://studio.example.com"), NOW)

    assert flow.state is State.INIT
    assert flow.wait_seconds(NOW) == 0
    assert flow.request().purpose == "code"


def test_code_is_taken_over_whole(waiting: Waiting) -> None:
    flow = waiting(NOW)

    assert flow.state is State.AWAITING_USER
    assert flow.device_code == Secret("DEVICE-CANARY")
    assert flow.user_code == "USER-CANARY"
    assert flow.verification_uri == "https://studio.example.com/login"
    assert flow.verification_uri_complete == "https://studio.example.com/login?code=USER-CANARY"
    assert flow.token_endpoint == "https://studio.example.com/token"
    assert flow.expires_at == NOW + 600
    assert flow.extra == (("token_name", "robot"),)


def test_lifetime_counts_from_the_asking(code_answer: Callable[..., Response]) -> None:
    flow = Flow("f1", Studio("https://studio.example.com"), NOW)

    flow.receive(code_answer(expires_in=60), NOW + 7, duration=7)

    assert flow.expires_at == NOW + 60


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (answer(400, {"detail": "no such client"}), Reason.REJECTED),
        (answer(422, {"detail": [{"loc": ["body"]}]}), Reason.REJECTED),
        (answer(404, "<html>"), Reason.PROTOCOL),
        (answer(200, ""), Reason.PROTOCOL),
        (answer(302, "", Location="https://elsewhere.example.com/"), Reason.PROTOCOL),
        (Failure("too_large", sent=True), Reason.PROTOCOL),
    ],
)
def test_no_code_and_no_hope_of_one_ends_the_flow(result: Result, reason: Reason) -> None:
    flow = Flow("f1", Studio("https://studio.example.com"), NOW)

    moved = flow.receive(result, NOW)

    assert (moved.action, flow.state, flow.reason) == ("fail", State.FAILED, reason)


@pytest.mark.parametrize("trouble", [LOST, UNSENT, answer(503, "busy"), answer(429, "slow")])
def test_code_is_asked_for_three_times(trouble: Result) -> None:
    flow = Flow("f1", Studio("https://studio.example.com"), NOW)

    moves = [flow.receive(trouble, NOW) for _ in range(3)]

    assert [moved.action for moved in moves] == ["retry", "retry", "fail"]
    assert [moved.dest for moved in moves] == [State.INIT, State.INIT, State.FAILED]
    first, second, last = (moved.wait for moved in moves)
    assert first is not None
    assert second is not None
    assert 1 <= first <= 1.25
    assert 2 <= second <= 2.5
    assert last is None
    assert flow.reason is Reason.UNREACHABLE
    assert not flow.in_doubt


def test_retry_after_is_honoured_for_the_code_too() -> None:
    flow = Flow("f1", Studio("https://studio.example.com"), NOW)

    flow.receive(answer(503, "busy", Retry_After="30"), NOW)

    assert flow.wait_seconds(NOW) == 30


def test_failures_before_the_code_do_not_slow_the_polls(
    code_answer: Callable[..., Response],
) -> None:
    flow = Flow("f1", Studio("https://studio.example.com"), NOW)
    flow.receive(UNSENT, NOW)
    flow.receive(code_answer(), NOW + 2)

    assert flow.failures == 0
    assert polled(flow, PENDING).wait == 5


def test_adopted_code_has_no_deadline_but_the_servers() -> None:
    flow = Flow("f1", Studio("https://studio.example.com"), NOW)

    moved = flow.adopt(DeviceCode(Secret("DEVICE-CANARY"), "https://studio.example.com/t"), NOW)

    assert (moved.action, flow.state) == ("issue_code", State.AWAITING_USER)
    assert flow.expires_at is None
    assert not flow.overdue(NOW + 1e9)
    assert polled(flow, PENDING).wait == 5


def test_flow_with_a_code_adopts_no_other(waiting: Waiting) -> None:
    flow = waiting()
    before = export.to_dict(flow, secrets=True)

    with pytest.raises(IllegalTransitionError) as caught:
        flow.adopt(DeviceCode(Secret("OTHER"), "https://studio.example.com/t"), NOW)

    assert caught.value.trigger == "issue_code"
    assert export.to_dict(flow, secrets=True) == before


def test_flow_that_asked_nothing_takes_no_answer(waiting: Waiting) -> None:
    flow = waiting()
    before = export.to_dict(flow, secrets=True)

    with pytest.raises(IllegalTransitionError, match="'receive an answer' is not allowed"):
        flow.receive(GRANTED, NOW)

    assert export.to_dict(flow, secrets=True) == before


# The interval.


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        (None, 5),
        (7, 7),
        ("7", 7),
        (7.5, 7.5),
        ("7.5", 7.5),
        (0, 1),
        (0.25, 1),
        (-3, 5),
        ("-3", 5),
        (True, 5),
        (False, 5),
        ("soon", 5),
        ("", 5),
        ([7], 5),
        ({"seconds": 7}, 5),
        (math.nan, 5),
        ("nan", 5),
        (math.inf, 3600),
        (-math.inf, 5),
        (1e9, 3600),
        ("1e9", 3600),
        (10**400, 5),
    ],
)
def test_interval_is_read_liberally_and_bounded(waiting: Waiting, sent: Any, meant: float) -> None:
    flow = waiting(NOW, interval=sent, expires_in=86400)

    assert flow.interval == meant
    assert polled(flow, PENDING).wait == meant


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        (None, 1800),
        (900, 900),
        ("900", 900),
        (900.5, 900.5),
        (0, 1),
        (-1, 1800),
        (True, 1800),
        ("never", 1800),
        ([], 1800),
        (math.nan, 1800),
        (math.inf, 30 * 86400),
        (10**12, 30 * 86400),
    ],
)
def test_lifetime_is_read_liberally_and_bounded(waiting: Waiting, sent: Any, meant: float) -> None:
    assert waiting(NOW, expires_in=sent).expires_at == NOW + meant


def test_null_interval_and_lifetime_count_as_missing(code_answer: Callable[..., Response]) -> None:
    fields = json.loads(code_answer().body) | {"interval": None, "expires_in": None}
    flow = Flow("f1", Studio("https://studio.example.com"), NOW)

    flow.receive(answer(200, fields), NOW)

    assert (flow.interval, flow.expires_at) == (5, NOW + 1800)


def test_studio_is_polled_at_once_and_then_each_interval(waiting: Waiting) -> None:
    flow = waiting(NOW)

    assert flow.wait_seconds(NOW) == 0
    polled(flow, PENDING, NOW)
    assert flow.wait_seconds(NOW) == 5


def test_server_that_counts_arrivals_is_first_polled_after_the_interval_and_a_margin(
    code_answer: Callable[..., Response],
) -> None:
    assert counted(code_answer).wait_seconds(NOW) == 5.5


def test_interval_counts_from_the_end_of_the_request(waiting: Waiting) -> None:
    flow = waiting(NOW)

    polled(flow, PENDING, NOW, took=3)

    assert flow.due_at == NOW + 3 + 5


def test_slow_down_adds_five_seconds_for_the_rest_of_the_flow(waiting: Waiting) -> None:
    flow = waiting(NOW)

    polled(flow, SLOW_DOWN)
    assert flow.interval == 10
    polled(flow, SLOW_DOWN)
    assert flow.interval == 15
    polled(flow, PENDING)
    polled(flow, answer(503, "busy"))
    polled(flow, PENDING)
    assert flow.interval == 15
    assert flow.wait_seconds(flow.due_at - 15) == 15


@pytest.mark.parametrize(("named", "meant"), [(30, 30), ("30", 30), (1, 10), (-1, 10), (None, 10)])
def test_slow_down_takes_the_servers_interval_where_that_is_larger(
    code_answer: Callable[..., Response], named: Any, meant: float
) -> None:
    flow = counted(code_answer)

    polled(flow, answer(400, {"detail": "slow_down", "interval": named}))

    assert flow.interval == meant


def test_margin_grows_with_each_slow_down_and_stays(code_answer: Callable[..., Response]) -> None:
    flow = counted(code_answer, expires_in=86400)
    waits = [polled(flow, said).wait for said in (PENDING, SLOW_DOWN, PENDING, SLOW_DOWN, PENDING)]

    # The interval, the dialect's margin, and a tenth of the interval for each slow_down.
    assert waits == [5 + 0.5, 10 + 0.5 + 1, 10 + 0.5 + 1, 15 + 0.5 + 3, 15 + 0.5 + 3]


def test_margin_grows_to_half_the_interval_at_the_most(
    code_answer: Callable[..., Response],
) -> None:
    flow = counted(code_answer, expires_in=86400)

    for _ in range(20):
        moved = polled(flow, SLOW_DOWN)

    assert flow.interval == 105
    assert moved.wait == 105 + 0.5 + 52.5


def test_margin_is_remembered_where_the_flow_is_stored(
    waiting: Waiting,
) -> None:
    flow = waiting(NOW)
    polled(flow, SLOW_DOWN)
    flow = export.from_dict(json.loads(json.dumps(export.to_dict(flow, secrets=True))))

    assert polled(flow, PENDING).wait == 10 + 1


def test_whoever_slept_as_told_finds_it_due(waiting: Waiting) -> None:
    """Times of day are floats of a quarter of a microsecond: none of it may be left over."""
    rng = random.Random(0)
    for number_ in range(2000):
        flow = waiting(NOW + rng.random(), flow_id=str(number_), interval=rng.uniform(1, 9))
        now = flow.due_at + rng.random()
        polled(flow, PENDING if rng.random() < 0.5 else UNSENT, now)
        asleep = rng.random() * flow.wait_seconds(now)
        now += asleep
        now += flow.wait_seconds(now)
        assert flow.wait_seconds(now) == 0


# Trouble on the way.


@pytest.mark.parametrize("trouble", [LOST, UNSENT, answer(502, "<html>"), answer(503, "busy")])
def test_trouble_backs_off_exponentially_to_a_cap_and_a_pending_resets_it(
    waiting: Waiting, trouble: Result
) -> None:
    flow = waiting(NOW, expires_in=86400)

    waits = [polled(flow, trouble).wait or 0 for _ in range(6)]

    for wait, meant in zip(waits, [10, 20, 40, 60, 60, 60], strict=True):
        assert meant <= wait <= meant * 1.25
    assert polled(flow, PENDING).wait == 5
    assert 10 <= (polled(flow, trouble).wait or 0) <= 12.5


def test_jitter_differs_between_flows_and_not_between_two_looks_at_one(waiting: Waiting) -> None:
    def wait_of(flow_id: str) -> float | None:
        return polled(waiting(NOW, flow_id=flow_id), UNSENT).wait

    assert wait_of("f1") == wait_of("f1")
    assert len({wait_of(f"f{number}") for number in range(50)}) == 50


def test_backing_off_has_no_end_while_the_code_lives(waiting: Waiting) -> None:
    flow = waiting(NOW, expires_in=30 * 86400)

    for _ in range(1100):
        moved = polled(flow, UNSENT)

    assert moved.action == "retry"
    assert 60 <= (moved.wait or 0) <= 75


def test_backing_off_never_polls_before_the_interval(waiting: Waiting) -> None:
    flow = waiting(NOW, interval=300, expires_in=86400)

    assert polled(flow, UNSENT).wait == 300


def test_too_many_requests_is_a_retry_and_keeps_the_interval(waiting: Waiting) -> None:
    flow = waiting(NOW)

    moved = polled(flow, answer(429, {"detail": "rate limit"}))

    assert (moved.action, flow.state) == ("retry", State.AWAITING_USER)
    assert flow.interval == 5
    assert polled(flow, PENDING).wait == 5


def test_too_many_requests_that_says_slow_down_is_one(waiting: Waiting) -> None:
    flow = waiting(NOW)

    assert polled(flow, answer(429, {"detail": "slow_down"})).action == "slow_down"
    assert flow.interval == 10


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 520, 599])
@pytest.mark.parametrize("body", ["<html>", "", {"detail": "some_error"}])
def test_transient_status_never_ends_a_flow(waiting: Waiting, status: int, body: Any) -> None:
    flow = waiting(NOW, expires_in=86400)

    moves = [polled(flow, answer(status, body)) for _ in range(10)]

    assert {moved.action for moved in moves} == {"retry"}
    assert flow.state is State.AWAITING_USER


@pytest.mark.parametrize("said", [PENDING, SLOW_DOWN, answer(503, "busy"), answer(429, "")])
def test_retry_after_is_honoured_with_whatever_it_came(waiting: Waiting, said: Response) -> None:
    said = answer(said.status, said.body, Retry_After="120")
    flow = waiting(NOW)

    assert polled(flow, said, NOW).wait == 120
    assert flow.due_at == NOW + 120


@pytest.mark.parametrize(
    ("headers", "meant"),
    [
        ({"Retry_After": "90"}, 90),
        ({"retry_after": "90"}, 90),
        ({"Retry_After": formatdate(NOW + 90, usegmt=True)}, 90),
        # The server's clock is an hour behind: its own Date tells.
        (
            {
                "Retry_After": formatdate(NOW - 3600 + 90, usegmt=True),
                "Date": formatdate(NOW - 3600, usegmt=True),
            },
            90,
        ),
        ({"Retry_After": formatdate(NOW + 90, usegmt=True), "Date": "some day"}, 90),
        ({"Retry_After": formatdate(NOW - 90, usegmt=True)}, 5),
        ({"Retry_After": "-90"}, 5),
        ({"Retry_After": "1"}, 5),
        ({"Retry_After": "in a while"}, 5),
        ({"Retry_After": ""}, 5),
        ({"Retry_After": "1e99"}, 3600),
        ({"Retry_After": formatdate(NOW + 1e7, usegmt=True)}, 3600),
    ],
)
def test_retry_after_is_read_in_both_forms_and_bounded(
    waiting: Waiting, headers: Mapping[str, str], meant: float
) -> None:
    flow = waiting(NOW, expires_in=86400)

    moved = polled(flow, answer(400, {"detail": "authorization_pending"}, **headers), NOW)

    assert moved.wait == meant


# The deadline.


def test_last_poll_is_made_just_before_the_deadline(waiting: Waiting) -> None:
    flow = waiting(NOW, expires_in=12)

    assert polled(flow, PENDING, NOW).wait == 5
    # The one after the next would come at 15, so the next is the last.
    assert polled(flow, PENDING, NOW + 5).wait == 6
    assert flow.wait_seconds(NOW + 5) == 6
    # None fits any more: what is left is to say so.
    assert polled(flow, PENDING, NOW + 11).wait == 1
    assert flow.wait_seconds(NOW + 11) == 1
    assert not flow.overdue(NOW + 11.9)
    assert flow.overdue(NOW + 12)


def test_clock_that_was_set_back_leaves_nothing_to_wait_for(waiting: Waiting) -> None:
    flow = waiting(NOW)

    assert flow.wait_seconds(NOW - 3600) == 0


def test_another_key_is_on_record_and_moves_nothing(waiting: Waiting) -> None:
    flow = waiting(NOW)
    before = export.to_dict(flow, secrets=True)

    moved = flow.reseal(NOW + 1)

    assert (moved.action, moved.source, moved.dest) == ("reseal", flow.state, flow.state)
    assert flow.due_at == before["due_at"]


@pytest.mark.parametrize("last", [PENDING, UNSENT])
def test_last_poll_is_not_moved_before_its_due_time(waiting: Waiting, last: Result) -> None:
    flow = waiting(NOW, expires_in=15.5)
    polled(flow, PENDING, NOW)

    # At 10, the deadline less a second is at 14.5; the interval says not before 15.
    polled(flow, last, NOW + 10)

    assert flow.due_at == NOW + 15
    assert not flow.overdue(NOW + 15)


def test_last_poll_is_brought_forward_where_backing_off_would_miss_the_deadline(
    waiting: Waiting,
) -> None:
    flow = waiting(NOW, expires_in=60)
    for _ in range(2):
        polled(flow, UNSENT)
    assert flow.due_at < NOW + 37.5

    polled(flow, UNSENT)

    assert flow.due_at == NOW + 59


def test_retry_after_is_not_cut_short_by_the_deadline(waiting: Waiting) -> None:
    flow = waiting(NOW, expires_in=100)

    moved = polled(flow, answer(503, "busy", Retry_After="3600"), NOW)

    assert flow.due_at == NOW + 3600
    # No poll will come before the deadline: come back then, to say that it is over.
    assert moved.wait == 100
    assert flow.wait_seconds(NOW) == 100
    assert flow.overdue(NOW + 100)


def test_very_short_lifetime_still_gets_its_poll(waiting: Waiting) -> None:
    flow = waiting(NOW, expires_in=1)

    assert flow.wait_seconds(NOW) == 0
    assert not flow.overdue(NOW)
    assert polled(flow, GRANTED, NOW).action == "issue_token"


def test_first_poll_waits_where_it_can_be_the_only_one(waiting: Waiting) -> None:
    assert waiting(NOW, expires_in=4).wait_seconds(NOW) == 3


def test_suspended_machine_makes_exactly_one_poll_and_then_expires(waiting: Waiting) -> None:
    flow = waiting(NOW, expires_in=600)
    polled(flow, PENDING, NOW)
    woke = NOW + 3600

    assert flow.wait_seconds(woke) == 0
    assert not flow.overdue(woke)
    moved = polled(flow, PENDING, woke)

    assert (moved.action, flow.state) == ("expire", State.EXPIRED)
    assert flow.attempt == 2


def test_suspended_machine_finds_an_approval_that_came_in_time(waiting: Waiting) -> None:
    flow = waiting(NOW, expires_in=600)
    polled(flow, PENDING, NOW)

    assert polled(flow, GRANTED, NOW + 3600).action == "issue_token"


@pytest.mark.parametrize("last", [SLOW_DOWN, UNSENT, answer(503, "busy"), HTML])
def test_nothing_but_a_token_matters_after_the_deadline(waiting: Waiting, last: Result) -> None:
    flow = waiting(NOW, expires_in=600)

    assert polled(flow, last, NOW + 601).action == "expire"


def test_expired_by_the_server_is_expired(waiting: Waiting) -> None:
    flow = waiting(NOW)

    moved = polled(flow, EXPIRED)

    assert (moved.action, flow.state, flow.reason) == ("expire", State.EXPIRED, None)


@pytest.mark.parametrize("end", [GRANTED, DENIED, EXPIRED, UNKNOWN_CODE])
def test_ended_flow_is_silent_and_keeps_no_device_code(waiting: Waiting, end: Response) -> None:
    flow = waiting(NOW)
    polled(flow, end)

    assert flow.state.ended
    assert flow.wait_seconds(NOW + 1e9) == 0
    assert flow.device_code is None
    with pytest.raises(IllegalTransitionError):
        flow.poll(NOW + 1e9, HTTP_TIMEOUT)


def test_poll_is_stored_with_a_due_time_that_outlasts_the_request(waiting: Waiting) -> None:
    flow = waiting(NOW)

    flow.poll(NOW, HTTP_TIMEOUT)

    assert flow.state is State.POLLING
    assert flow.due_at == NOW + HTTP_TIMEOUT + 5
    assert flow.attempt == 1


def test_recovered_flow_is_not_polled_before_the_dead_one_could_have_been(
    waiting: Waiting,
) -> None:
    flow = waiting(NOW)
    flow.poll(NOW, HTTP_TIMEOUT)

    moved = flow.recover(NOW + 2, "w1")

    assert (moved.action, moved.detail) == ("recover", "the lease of w1 ran out during a poll")
    assert flow.wait_seconds(NOW + 2) == HTTP_TIMEOUT + 5 - 2


def test_recovered_flow_is_polled_once_more_even_after_its_deadline(waiting: Waiting) -> None:
    flow = waiting(NOW, expires_in=10)
    flow.poll(NOW + 9, HTTP_TIMEOUT)
    assert flow.recover(NOW + 60).detail is None

    assert not flow.overdue(NOW + 60)
    moved = polled(flow, PENDING, NOW + 60)
    assert moved.action == "expire"
    assert not flow.last_poll_owed


# All of that at once, by dice.


RETRY_AFTERS: Final = ("0", "3", "17", "400", "-1", "later")


def dice(rng: random.Random) -> tuple[Result, float]:
    """Return an answer at random, and how many seconds it asks to be left alone."""
    headers = {}
    asked = 0.0
    if rng.random() < 0.1:
        headers["Retry_After"] = rng.choice(RETRY_AFTERS)
        asked = number(headers["Retry_After"], 0.0, low=0, high=3600)
    status, body = rng.choice(
        [
            *[(400, {"detail": "authorization_pending"})] * 6,
            (400, {"detail": "slow_down"}),
            (429, {"detail": "rate"}),
            (503, "busy"),
            (500, "<html>"),
            (404, "<html>"),
            (200, "{"),
        ]
    )
    failed = rng.random()
    if failed < 0.1:
        return Failure("timeout", sent=True), 0.0
    if failed < 0.2:
        return Failure("connection", sent=False), 0.0
    return answer(status, body, **headers), asked


@pytest.mark.parametrize("provider", [Studio, Counting])
@pytest.mark.parametrize("seed", range(4))
def test_no_poll_is_early_and_the_last_one_is_made_and_none_follows(
    provider: type[Studio], seed: int, code_answer: Callable[..., Response]
) -> None:
    rng = random.Random(seed)
    ends = set()
    for number_ in range(200):
        flow = Flow(f"{seed}.{number_}", provider("https://studio.example.com"), NOW)
        now = NOW + rng.random()
        interval = rng.choice([None, 1, 2, 5, 7.5, 30])
        flow.receive(code_answer(interval=interval, expires_in=rng.randint(1, 900)), now)
        punctual = rng.random() < 0.7
        deadline = flow.expires_at
        assert deadline is not None
        earliest = now if provider is Studio else now + flow.interval + flow.provider.margin
        slowest = flow.interval
        polls_after_the_deadline = 0

        while not flow.state.ended:
            assert now < deadline + 3700 + HTTP_TIMEOUT
            wait = flow.wait_seconds(now)
            if wait > 0:
                now += wait if punctual else wait + rng.choice([0, 0, rng.random(), 60, 3600])
            if flow.overdue(now):
                # No poll that was allowed has been left out.
                assert earliest >= deadline - 1e-5
                flow.expire(now)
                continue
            assert now >= earliest - 1e-5
            assert not (punctual and now > deadline)
            polls_after_the_deadline += now >= deadline
            flow.poll(now, HTTP_TIMEOUT)
            now += rng.choice([0.0, rng.random(), HTTP_TIMEOUT])
            result, asked = dice(rng)
            flow.receive(result, now)
            assert flow.interval >= slowest
            slowest = flow.interval
            pace = slowest * (1 + min(flow.slow_downs, 5) / 10) + flow.provider.margin
            earliest = now + max(pace, asked)

        assert polls_after_the_deadline <= 1
        ends.add(flow.reason or flow.state)
    assert ends == {State.EXPIRED, Reason.OUTCOME_UNKNOWN, Reason.PROTOCOL}


# Doubt.


@pytest.mark.parametrize(
    "lost",
    [
        Failure("timeout", sent=True),
        Failure("connection", sent=True),
        Failure("interrupted", sent=True),
        Failure("too_large", sent=True),
        CUT,
        answer(200, ""),
        answer(200, "<html>"),
        answer(201, {"access_token": "TOKEN-CANARY"}),
        answer(500, "<html>"),
        answer(502, ""),
        answer(504, {"detail": "timeout"}),
    ],
    ids=repr,
)
def test_answer_that_may_have_held_a_token_leaves_doubt(waiting: Waiting, lost: Result) -> None:
    flow = waiting(NOW)

    moved = polled(flow, lost)

    assert moved.action == "retry"
    assert flow.in_doubt


@pytest.mark.parametrize(
    "lost",
    [
        Failure("timeout", sent=False),
        Failure("connection", sent=False),
        answer(503, "<html>"),
        answer(429, "<html>"),
        answer(408, ""),
        answer(425, ""),
        answer(404, "<html>"),
        answer(302, ""),
        answer(403, "<html>"),
    ],
    ids=repr,
)
def test_answer_that_cannot_have_held_a_token_leaves_none(waiting: Waiting, lost: Result) -> None:
    flow = waiting(NOW)

    assert polled(flow, lost).action == "retry"
    assert not flow.in_doubt


def test_recover_leaves_doubt(waiting: Waiting) -> None:
    flow = waiting(NOW)
    flow.poll(NOW, HTTP_TIMEOUT)

    flow.recover(NOW + 30)

    assert flow.in_doubt


def test_pending_clears_the_doubt(waiting: Waiting) -> None:
    flow = waiting(NOW)
    polled(flow, LOST)

    polled(flow, PENDING)

    assert not flow.in_doubt
    assert polled(flow, DENIED).action == "deny"


def test_token_clears_the_doubt(waiting: Waiting) -> None:
    flow = waiting(NOW)
    polled(flow, LOST)

    assert polled(flow, GRANTED).action == "issue_token"
    assert not flow.in_doubt


@pytest.mark.parametrize("said", [SLOW_DOWN, UNSENT, HTML, answer(503, ""), answer(429, "")])
def test_nothing_else_clears_the_doubt(waiting: Waiting, said: Result) -> None:
    flow = waiting(NOW)
    polled(flow, LOST)

    polled(flow, said)

    assert flow.in_doubt


@pytest.mark.parametrize("end", [DENIED, EXPIRED, UNKNOWN_CODE])
def test_end_by_the_server_in_doubt_is_an_unknown_outcome(waiting: Waiting, end: Response) -> None:
    flow = waiting(NOW)
    polled(flow, LOST)

    moved = polled(flow, end)

    assert (moved.action, flow.state) == ("fail", State.FAILED)
    assert flow.reason is Reason.OUTCOME_UNKNOWN
    assert flow.in_doubt


def test_own_deadline_in_doubt_is_an_unknown_outcome(waiting: Waiting) -> None:
    flow = waiting(NOW)
    polled(flow, LOST, NOW)

    moved = flow.expire(NOW + 600)

    assert (moved.action, flow.reason) == ("fail", Reason.OUTCOME_UNKNOWN)


def test_lost_answer_after_the_deadline_is_an_unknown_outcome(waiting: Waiting) -> None:
    flow = waiting(NOW)

    moved = polled(flow, LOST, NOW + 601)

    assert (moved.action, flow.reason) == ("fail", Reason.OUTCOME_UNKNOWN)


def test_cancel_in_doubt_is_cancelled(waiting: Waiting) -> None:
    flow = waiting(NOW)
    polled(flow, LOST)

    assert flow.cancel(NOW + 60).action == "cancel"
    assert flow.reason is Reason.CANCELLED
    assert flow.in_doubt


def test_three_unreadable_answers_in_doubt_are_a_matter_of_protocol(waiting: Waiting) -> None:
    flow = waiting(NOW)

    actions = [polled(flow, CUT).action for _ in range(3)]

    assert actions == ["retry", "retry", "fail"]
    assert flow.reason is Reason.PROTOCOL
    assert flow.in_doubt


# What is no answer at all.


UNREADABLE: Final[Mapping[str, Result]] = {
    "HTML with 404": answer(404, "<html><title>404</title></html>"),
    "HTML with 200": answer(200, "<html>Sign in</html>"),
    "HTML with 400": answer(400, "<html>"),
    "empty 200": answer(200, ""),
    "empty 400": answer(400, ""),
    "cut": CUT,
    "list": answer(200, ["access_token"]),
    "number": answer(200, 17),
    "text": answer(200, '"access_token"'),
    "null": answer(200),
    "list with 400": answer(400, ["authorization_pending"]),
    "deep nesting": answer(200, '{"a":' * 100_000),
    "deep lists": answer(200, "[" * 100_000 + "]" * 100_000),
    "long number": answer(200, '{"access_token": ' + "1" * 5000 + "}"),
    "invalid UTF-8": answer(200, b'{"access_token": "\xff\xfe"}'),
    "half a character": answer(200, rb'{"access_token": "\ud800"}'),
    "bytes": answer(200, bytes(range(256))),
    "token is a number": answer(200, {"access_token": 17}),
    "token is a list": answer(200, {"access_token": ["TOKEN-CANARY"]}),
    "token is an object": answer(200, {"access_token": {"value": "TOKEN-CANARY"}}),
    "token is true": answer(200, {"access_token": True}),
    "token is null": answer(200, {"access_token": None}),
    "token is empty": answer(200, {"access_token": ""}),
    "no token": answer(200, {}),
    "token with 302": answer(302, {"access_token": "TOKEN-CANARY"}),
    "redirect": answer(302, "", Location="https://elsewhere.example.com/"),
    "not modified": answer(304, ""),
    "too large": Failure("too_large", sent=True),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_unreadable_answer_is_retried_and_the_third_in_a_row_ends_the_flow(
    waiting: Waiting, kind: str
) -> None:
    flow = waiting(NOW, expires_in=86400)
    unreadable = UNREADABLE[kind]

    assert polled(flow, unreadable).action == "retry"
    moved = polled(flow, unreadable)
    assert (moved.action, flow.state) == ("retry", State.AWAITING_USER)
    moved = polled(flow, unreadable)

    assert (moved.action, flow.state) == ("fail", State.FAILED)
    assert flow.reason is Reason.PROTOCOL


@pytest.mark.parametrize("readable", [PENDING, SLOW_DOWN, answer(429, {"detail": "rate"})])
def test_readable_answer_in_between_starts_the_count_anew(
    waiting: Waiting, readable: Response
) -> None:
    flow = waiting(NOW, expires_in=86400)

    for said in (HTML, HTML, readable, HTML, HTML):
        moved = polled(flow, said)
        assert flow.state is State.AWAITING_USER

    assert moved.action == "retry"
    assert polled(flow, HTML).action == "fail"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 422, 428])
def test_unknown_error_in_json_is_final(waiting: Waiting, status: int) -> None:
    flow = waiting(NOW)

    moved = polled(flow, answer(status, {"detail": "unknown_code"}))

    assert (moved.action, flow.reason) == ("fail", Reason.REJECTED)
    assert (moved.status, moved.detail, flow.detail) == (status, "unknown_code", "unknown_code")


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 428, 429, 500])
def test_known_error_wins_over_the_status(waiting: Waiting, status: int) -> None:
    flow = waiting(NOW)

    moved = polled(flow, answer(status, {"detail": "authorization_pending"}))

    assert moved.action == "pending"
    assert not flow.in_doubt


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("no such code: DEVICE-CANARY", "no such code: <secret>"),
        ("DEVICE-CANARY, DEVICE-CANARY", "<secret> <secret>"),
        ("code USER-CANARY is wrong", "code <secret> is wrong"),
        ("DEVICE\x00-CAN\x1b[31mARY\x1b[0m!", "<secret>"),
        ("DEVICE-\u200bCANARY", "<secret>"),
        ("DEVICE-CAN\ufe0fARY \u3164", "<secret> "),
        ("USER\x07-\u202eCANARY", "<secret>"),
        ("\x1b]8;;https://evil.example.com\x07click\x1b]8;;\x07", "click"),
        ("first\nsecond\r\nthird", "first second  third"),
        ("so " * 50 + "DEVICE-CANARY" + " on" * 100, "so " * 50 + "<secret>" + " on" * 14),
        # Cut in the middle, the code would be found no more.
        ("so " * 65 + "DEVICE-CANARY", "so " * 65 + "<secr"),
        ("so " * 10_000, ("so " * 67)[:200]),
    ],
)
def test_servers_words_are_cleaned_and_the_codes_taken_out(
    waiting: Waiting, said: str, kept: str
) -> None:
    flow = waiting(NOW)

    moved = polled(flow, answer(400, {"detail": said}))

    assert moved.detail == kept
    assert flow.detail == kept


def test_programs_own_words_are_cleaned_as_well(waiting: Waiting) -> None:
    flow = waiting(NOW)

    moved = flow.cancel(NOW, "gave up on\nDEVICE-CANARY " + "\x1b[2J" + "so " * 500)

    assert moved.detail == "gave up on <secret> " + "so " * 60


def test_code_in_an_unsafe_token_address_is_not_quoted(
    code_answer: Callable[..., Response],
) -> None:
    flow = Flow("f1", Studio("https://studio.example.com"), NOW)

    moved = flow.receive(code_answer(token_uri="/device/DEVICE-CANARY/token"), NOW)

    assert flow.reason is Reason.PROTOCOL
    assert moved.detail is not None
    assert "CANARY" not in moved.detail


# Tokens that come late.


def token() -> Token:
    return Token(Secret("LATE-CANARY"))


def test_late_token_is_taken_by_a_flow_that_went_on(waiting: Waiting) -> None:
    flow = waiting(NOW)
    flow.poll(NOW, HTTP_TIMEOUT)
    flow.recover(NOW + 30)

    moved = flow.late_token(token(), 1, NOW + 31)

    assert (moved.action, flow.state) == ("late_token", State.AUTHORIZED)
    assert flow.token is not None
    assert flow.token.access_token == Secret("LATE-CANARY")
    assert not flow.token.possibly_revoked
    assert not flow.in_doubt
    assert flow.device_code is None


def test_late_token_is_possibly_revoked_if_another_poll_went_out(waiting: Waiting) -> None:
    flow = waiting(NOW)
    flow.poll(NOW, HTTP_TIMEOUT)
    flow.recover(NOW + 30)
    flow.poll(NOW + 30, HTTP_TIMEOUT)

    flow.late_token(token(), 1, NOW + 31)

    assert flow.token is not None
    assert flow.token.possibly_revoked


@pytest.mark.parametrize("end", [EXPIRED, UNKNOWN_CODE])
def test_late_token_wins_over_expired_and_failed(waiting: Waiting, end: Response) -> None:
    flow = waiting(NOW)
    polled(flow, end)

    flow.late_token(token(), 1, NOW + 60)

    assert (flow.state, flow.reason, flow.detail) == (State.AUTHORIZED, None, None)
    assert flow.token is not None
    assert flow.token.access_token == Secret("LATE-CANARY")


def test_late_token_wins_over_an_unknown_outcome(waiting: Waiting) -> None:
    flow = waiting(NOW)
    polled(flow, LOST)
    assert polled(flow, UNKNOWN_CODE).action == "fail"
    assert flow.in_doubt

    flow.late_token(token(), 1, NOW + 60)

    assert (flow.state, flow.reason, flow.in_doubt) == (State.AUTHORIZED, None, False)
    assert flow.token is not None
    assert flow.token.possibly_revoked


def denied(flow: Flow) -> None:
    polled(flow, DENIED)


def cancelled(flow: Flow) -> None:
    flow.cancel(NOW)


def granted(flow: Flow) -> None:
    polled(flow, GRANTED)


@pytest.mark.parametrize("end", [denied, cancelled, granted])
def test_token_that_cannot_be_taken_is_recorded(
    waiting: Waiting, end: Callable[[Flow], None]
) -> None:
    flow = waiting(NOW)
    end(flow)
    state, reason, had, seq = flow.state, flow.reason, flow.token, flow.seq

    moved = flow.late_token(token(), 1, NOW + 60)

    assert moved.action == "orphan_token"
    assert (moved.source, moved.dest) == (state, state)
    assert moved.detail == "a token was issued and not taken: revoke it at the server"
    assert (flow.state, flow.reason, flow.token) == (state, reason, had)
    assert (flow.orphaned_tokens, flow.seq) == (1, seq + 1)


def test_late_token_without_a_code_is_an_error_and_not_kept() -> None:
    flow = Flow("f1", Studio("https://studio.example.com"), NOW)

    with pytest.raises(IllegalTransitionError):
        flow.late_token(token(), 1, NOW)

    assert (flow.state, flow.token, flow.seq) == (State.INIT, None, 0)


# The handing over of the token.


def authorized(waiting: Waiting) -> Flow:
    flow = waiting(NOW)
    polled(flow, GRANTED)
    return flow


def test_token_is_kept_until_it_is_acknowledged(waiting: Waiting) -> None:
    flow = authorized(waiting)
    assert (flow.token is not None, flow.handover) == (True, "ready")

    for _ in range(2):  # at least once
        moved = flow.collect(NOW + 2)
        assert (moved.action, moved.source, moved.dest) == ("collect", AUTHORIZED, AUTHORIZED)
        assert (flow.token is not None, flow.handover) == (True, "collected")
    moved = flow.acknowledge(NOW + 3)

    assert (moved.action, moved.dest, moved.at, moved.detail) == (
        "acknowledge",
        AUTHORIZED,
        NOW + 3,
        None,
    )
    assert (flow.token, flow.handover, flow.to_revoke) == (None, "acknowledged", ())


def test_sequence_has_no_gap_where_the_state_stays(waiting: Waiting) -> None:
    flow = authorized(waiting)
    before = flow.seq

    numbers = [happen(NOW + 2).seq for happen in (flow.collect, flow.collect, flow.acknowledge)]

    assert numbers == [before + 1, before + 2, before + 3]


@pytest.mark.parametrize(
    ("provider", "kinds", "what_then"),
    [
        (Studio, [], "revoke it at the server"),
        (Revoking, ["access_token"], "deviceflow will revoke it"),
    ],
)
@pytest.mark.parametrize("taken", [False, True])
def test_token_that_nobody_acknowledged_is_purged_and_revoked_where_that_can_be(
    waiting: Waiting, provider: type[Studio], kinds: list[str], what_then: str, taken: bool
) -> None:
    flow = authorized(waiting)
    flow.provider = provider("https://studio.example.com")
    if taken:
        flow.collect(NOW + 2)
    what = (
        "the token was collected but never acknowledged"
        if taken
        else "the token was never collected"
    )

    moved = flow.purge(NOW + 7)

    assert moved.detail == f"{what}: {what_then}"
    assert (flow.token, flow.handover, flow.orphaned_tokens) == (None, "purged", 1)
    assert [kind for kind, _ in flow.to_revoke] == kinds
    assert flow.wake_at == (NOW + 7 if kinds else None)


def test_what_could_not_be_revoked_is_abandoned_in_the_end(waiting: Waiting) -> None:
    flow = authorized(waiting)
    flow.provider = Revoking("https://studio.example.com")
    flow.purge(NOW + 7)

    moved = flow.abandon_revocation(NOW + 8)

    assert moved.action == "abandon_revocation"
    assert moved.detail == "the token could not be revoked and was wiped: revoke it at the server"
    assert (flow.to_revoke, flow.handover) == ((), "purged")


@pytest.mark.parametrize("wipe", [Flow.acknowledge, Flow.purge])
def test_flow_lives_until_its_token_is_wiped(
    waiting: Waiting, wipe: Callable[[Flow, float], Transition]
) -> None:
    flow = waiting(NOW)
    assert flow.open
    polled(flow, GRANTED)
    assert flow.open
    flow.collect(NOW + 2)
    assert flow.open

    wipe(flow, NOW + 3)

    assert not flow.open


@pytest.mark.parametrize("act", [Flow.collect, Flow.acknowledge, Flow.purge])
@pytest.mark.parametrize(
    "said", [None, [], [PENDING], [LOST], [DENIED], [EXPIRED], [GRANTED, Flow.acknowledge]]
)
def test_token_that_is_not_there_is_not_handed_over_and_not_wiped(
    waiting: Waiting,
    act: Callable[[Flow, float], Transition],
    said: list[Any] | None,
) -> None:
    flow = Flow("f1", Studio("https://studio.example.com"), NOW) if said is None else waiting(NOW)
    for happens in said or ():
        happens(flow, NOW) if callable(happens) else polled(flow, happens)
    before = everything(flow)

    with pytest.raises(IllegalTransitionError) as caught:
        act(flow, NOW + 1)

    assert (caught.value.trigger, caught.value.state) == (act.__name__, flow.state)
    assert everything(flow) == before


@pytest.mark.parametrize("end", [DENIED, EXPIRED, UNKNOWN_CODE])
def test_flow_that_ended_without_a_token_lives_no_more(waiting: Waiting, end: Result) -> None:
    flow = waiting(NOW)
    polled(flow, end)

    assert not flow.open
    assert flow.ended_at == NOW


def test_flow_in_init_is_left_for_somebody_to_be_there() -> None:
    flow = Flow("f1", Studio("https://studio.example.com"), NOW)

    assert flow.wake_at is None
    assert flow.wait_seconds(NOW) == 0


def test_flow_wakes_when_it_is_due_or_dies(waiting: Waiting) -> None:
    flow = waiting(NOW, expires_in=12)
    assert flow.wake_at == NOW
    polled(flow, PENDING)
    assert flow.wake_at == flow.due_at == NOW + 5
    polled(flow, answer(503, "busy", Retry_After="60"), NOW + 5)
    assert flow.wake_at == flow.expires_at == NOW + 12

    polled(flow, EXPIRED, NOW + 65)

    assert flow.wake_at is None


# The record of what happened.


def test_transition_says_what_when_from_where_and_for_how_long(waiting: Waiting) -> None:
    flow = waiting(NOW)

    said = polled(flow, answer(503, {"detail": "overloaded"}), NOW, took=2)

    assert (said.wait or 0) >= 10
    assert said._asdict() == {
        "seq": 3,
        "at": NOW + 2,
        "action": "retry",
        "source": State.POLLING,
        "dest": State.AWAITING_USER,
        "status": 503,
        "duration": 2,
        "wait": said.wait,
        "detail": "overloaded",
        "ahead": None,
    }


@pytest.mark.parametrize("follows", [True, False])
def test_transition_says_by_how_much_the_clock_before_was_ahead(
    waiting: Waiting, follows: bool
) -> None:
    flow = waiting(NOW)
    if follows:
        assert flow.follow_clock(NOW - 3600)

    assert flow.cancel(NOW - 3600).ahead == 3600
    assert flow.clock_ahead is None


def test_sequence_has_no_gap(waiting: Waiting) -> None:
    flow = waiting(NOW)
    numbers = []
    for said in (PENDING, SLOW_DOWN, UNSENT, HTML, GRANTED):
        numbers.append(flow.poll(flow.due_at, HTTP_TIMEOUT).seq)
        numbers.append(flow.receive(said, flow.due_at).seq)

    assert numbers == list(range(2, 12))


def test_reason_and_detail_are_the_latest_transitions(waiting: Waiting) -> None:
    flow = waiting(NOW)
    polled(flow, answer(503, {"detail": "overloaded"}))
    assert flow.detail == "overloaded"

    flow.poll(flow.due_at, HTTP_TIMEOUT)

    assert flow.detail is None


def test_repr_shows_no_code(waiting: Waiting) -> None:
    assert repr(waiting()) == "<Flow f1 awaiting-user>"


# Leaving the process, and coming back.


def through_json(flow: Flow, *, secrets: bool) -> Flow:
    return export.from_dict(json.loads(json.dumps(export.to_dict(flow, secrets=secrets))))


def everything(flow: Flow) -> dict[str, Any]:
    token = flow.token and (flow.token.access_token, flow.token.possibly_revoked)
    return {name: getattr(flow, name) for name in Flow.__slots__} | {"token": token}


def test_record_with_secrets_comes_back_whole(waiting: Waiting) -> None:
    flow = waiting(NOW)
    polled(flow, SLOW_DOWN, NOW)
    polled(flow, LOST, NOW + 20)

    assert everything(through_json(flow, secrets=True)) == everything(flow)


def test_record_of_each_end_comes_back_whole(waiting: Waiting) -> None:
    for end in (GRANTED, DENIED, EXPIRED, UNKNOWN_CODE):
        flow = waiting(NOW)
        polled(flow, end)
        assert everything(through_json(flow, secrets=True)) == everything(flow)


def test_record_of_each_hand_over_comes_back_whole(waiting: Waiting) -> None:
    for then in (Flow.collect, Flow.acknowledge, Flow.purge):
        flow = authorized(waiting)
        then(flow, NOW + 2)
        assert everything(through_json(flow, secrets=True)) == everything(flow)


def test_secrets_are_in_the_record_by_kind_and_nowhere_else(waiting: Waiting) -> None:
    flow = waiting(NOW)
    flow.verifier = Secret("VERIFIER-CANARY")
    record = export.to_dict(flow, secrets=True)
    assert record.pop("secrets") == {
        "code": ["DEVICE-CANARY", "VERIFIER-CANARY"],
        "token": None,
        "revoke": None,
    }
    assert record == export.to_dict(flow)

    flow.poll(NOW, HTTP_TIMEOUT)
    flow.receive(GRANTED, NOW)
    flow.to_revoke = (("access_token", Secret("STRAY-CANARY")),)
    flow.revocations = 1
    secrets = export.to_dict(flow, secrets=True)["secrets"]

    assert secrets["code"] is None
    assert secrets["token"]["access_token"] == "TOKEN-CANARY"
    assert secrets["revoke"] == [["access_token", "STRAY-CANARY"]]


def test_record_of_a_new_flow_comes_back_whole() -> None:
    provider = Studio("https://studio.example.com").with_request(
        client_name="robot", scopes=["experiments", "MODELS"], team_names="a, b", expires_in_days=3
    )
    flow = Flow("f1", provider, NOW, name="nightly")

    assert everything(through_json(flow, secrets=False)) == everything(flow)


def test_possibly_revoked_is_kept(waiting: Waiting) -> None:
    flow = waiting(NOW)
    polled(flow, EXPIRED)
    flow.attempt = 2
    flow.late_token(token(), 1, NOW)

    back = through_json(flow, secrets=True)

    assert back.token is not None
    assert back.token.access_token == Secret("LATE-CANARY")
    assert back.token.possibly_revoked


@pytest.mark.parametrize("end", [None, GRANTED, LOST])
def test_record_without_secrets_has_none(waiting: Waiting, end: Result | None) -> None:
    flow = waiting(NOW)
    if end is not None:
        polled(flow, end)

    record = export.to_dict(flow)

    assert "secrets" not in record
    text = json.dumps(record)
    assert "DEVICE-CANARY" not in text
    assert "TOKEN-CANARY" not in text


def test_flow_without_its_secrets_can_be_read_but_not_polled(waiting: Waiting) -> None:
    flow = through_json(waiting(NOW), secrets=False)
    assert flow.user_code == "USER-CANARY"

    with pytest.raises(UsageError, match="without its device code") as caught:
        flow.request()

    assert (caught.value.flow_id, caught.value.state) == ("f1", "awaiting-user")
    assert "to_dict(secrets=True)" in str(caught.value)


def test_flow_that_came_back_goes_on(waiting: Waiting) -> None:
    flow = waiting(NOW)
    flow.poll(NOW, HTTP_TIMEOUT)

    back = through_json(flow, secrets=True)

    assert back.receive(GRANTED, NOW + 1).action == "issue_token"


def test_fields_of_a_newer_version_are_passed_over(waiting: Waiting) -> None:
    record = export.to_dict(waiting(NOW), secrets=True) | {"invented_later": {"a": 1}}

    assert everything(export.from_dict(record)) == everything(waiting(NOW))


@pytest.mark.parametrize("schema", [None, "", "deviceflow.flow/2", "deviceflow.flow/0", 1])
def test_other_schema_is_refused_by_name(waiting: Waiting, schema: Any) -> None:
    record = export.to_dict(waiting(NOW), secrets=True) | {"schema": schema}

    with pytest.raises(UsageError, match=r"deviceflow\.flow/1") as caught:
        export.from_dict(record)

    assert repr(schema) in str(caught.value)


DAMAGE: Final[Mapping[str, Any]] = {
    "id": [None, 5, ["f1"]],
    "state": [None, "", "running", 3, []],
    "reason": ["bored", 0, "denied"],
    "provider": [None, 5, "studio", [], {}, {"dialect": "nobody's"}, {"dialect": ["studio"]}],
    "extra": [None, [], "token_name"],
    "created_at": [None, "now", math.nan, math.inf, -1, True, 10**400],
    "due_at": [None, "soon", math.nan, [], False],
    "expires_at": ["never", math.nan, math.inf, {}],
    "interval": [None, "5", 0, -5, math.nan, math.inf],
    "attempt": [None, "1", 1.5, -1, True],
    "seq": [None, "1", -1, 2.0],
    "failures": [None, "1"],
    "unreadable": [None, []],
    "slow_downs": [None, "2"],
    "orphaned_tokens": [None, False],
    "in_doubt": [None, 0, "no"],
    "last_poll_owed": [None, 1],
    "handover": ["lost", True, None, "ready", "purged"],
    "ended_at": ["then", math.nan],
    "secrets": [
        None,
        ["DEVICE-CANARY"],
        "DEVICE-CANARY",
        {"code": 17},
        {"code": ["DEVICE-CANARY"]},
        {"code": ["DEVICE-CANARY", 17]},
        {"code": {"text": "DEVICE-CANARY"}},
        {"token": "TOKEN-CANARY"},
        {"token": ["TOKEN-CANARY"]},
        {"token": {"access_token": "TOKEN-CANARY"}},
        {"token": {"a": 1}},
        {"revoke": "TOKEN-CANARY"},
        {"revoke": [["access_token"]]},
        {"revoke": [["access_token", ["TOKEN-CANARY"]]]},
    ],
    "token_endpoint": [17, ["https://studio.example.com"]],
    "user_code": [17],
    "verification_uri": [17],
    "verification_uri_complete": [["https://studio.example.com"]],
    "detail": [17],
    "name": [17],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in DAMAGE.items() for value in values]
)
def test_damaged_record_is_refused_and_shows_no_secret(
    waiting: Waiting, rendered: Callable[[BaseException], str], name: str, value: Any
) -> None:
    record = export.to_dict(waiting(NOW), secrets=True) | {name: value}

    with pytest.raises(UsageError) as caught:
        export.from_dict(record)

    assert "CANARY" not in rendered(caught.value)


# What a store keeps beside a record: its own copy, its secrets, and what its trail leaves out.
APART = {
    *("as_stored", "clock_ahead", "device_code", "omitted", "to_revoke", "token", "verifier"),
    *("driver", "reserved", "skipped"),
}


@pytest.mark.parametrize("name", sorted({*Flow.__slots__} - APART))
def test_record_with_a_part_missing_is_refused(waiting: Waiting, name: str) -> None:
    record = export.to_dict(waiting(NOW), secrets=True)
    del record[name]

    with pytest.raises(UsageError, match="incomplete or damaged"):
        export.from_dict(record)


@pytest.mark.parametrize("record", [[], "DEVICE-CANARY", None, 5, [("id", "DEVICE-CANARY")]])
def test_what_is_no_record_is_refused(
    rendered: Callable[[BaseException], str], record: Any
) -> None:
    with pytest.raises(UsageError) as caught:
        export.from_dict(record)

    assert "CANARY" not in rendered(caught.value)


def test_failed_record_needs_a_reason(waiting: Waiting) -> None:
    flow = waiting(NOW)
    flow.cancel(NOW)

    with pytest.raises(UsageError):
        export.from_dict(export.to_dict(flow) | {"reason": None})


def test_provider_that_cannot_be_read_is_named(waiting: Waiting) -> None:
    record = export.to_dict(waiting(NOW), secrets=True) | {
        "provider": {"dialect": "later", "url": "x"}
    }

    with pytest.raises(UsageError, match="cannot be read: dialect 'later'"):
        export.from_dict(record)


def test_key_that_is_an_enums_member_is_kept_as_its_text() -> None:
    flow = Flow("f1", Studio("https://studio.example.com"), NOW, name=State.INIT)

    assert type(flow.name) is str
    assert flow.name == "init"


@pytest.mark.parametrize("back", [0.0, 0.9, 60.0])
def test_flow_follows_a_clock_that_was_set_back_by_more_than_clocks_differ(back: float) -> None:
    flow = Flow("f1", Studio("https://studio.example.com"), NOW)

    assert flow.follow_clock(NOW - back) is (back > 1)
    assert flow.moved_at == (NOW - back if back > 1 else NOW)
    assert flow.expires_at is None
    assert flow.wait_seconds(NOW) <= max(0.0, back)
