"""One step, driven by a list: what it asks of the world, in which order, and what comes of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from deviceflow import export
from deviceflow.client.step import (
    LEASE_MARGIN,
    Commit,
    Exchange,
    Release,
    Reload,
    Send,
    Step,
    TakeLease,
    step,
)
from deviceflow.core.flow import Flow
from deviceflow.core.machine import Reason, State
from deviceflow.core.ports import Claim, LeaseHeld
from deviceflow.core.secret import Secret
from deviceflow.core.wire import Failure
from deviceflow.errors import UsageError
from deviceflow.providers.studio import Studio
from deviceflow.testing import answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from deviceflow.client.step import Effect
    from deviceflow.core.wire import Response

    Waiting = Callable[..., Flow]

NOW: Final = 1_800_000_000.0
TIMEOUT: Final = 10.0
PENDING: Final = answer(400, {"detail": "authorization_pending"})
GRANTED: Final = answer(200, {"access_token": "TOKEN-CANARY"})


class Listed:
    """A driver that answers from a list, and keeps what it was asked for."""

    def __init__(self, *results: Any) -> None:
        self._results = iter(results)
        self.asked: list[Effect] = []

    def run(self) -> Step:
        steps = step(TIMEOUT)
        result: Any = None
        while True:
            try:
                self.asked.append(steps.send(result))
            except StopIteration as stop:
                assert list(self._results) == []
                report: Step = stop.value
                return report
            result = next(self._results)

    @property
    def names(self) -> list[str]:
        return [
            effect.transition.action if isinstance(effect, Commit) else type(effect).__name__
            for effect in self.asked
        ]


def stored(flow: Flow) -> Flow:
    """Return the flow as a store would keep it and give it back."""
    return export.from_dict(json.loads(json.dumps(export.to_dict(flow, secrets=True))))


def left_polling(flow: Flow, now: float = NOW) -> Flow:
    flow.poll(now, TIMEOUT)
    return flow


def after(flow: Flow, *results: Response | Failure) -> Flow:
    for result in results:
        now = flow.due_at
        flow.poll(now, TIMEOUT)
        flow.receive(result, now)
    return flow


def test_poll_is_on_record_before_it_leaves_and_its_meaning_gives_the_lease_back(
    waiting: Waiting,
) -> None:
    driver = Listed(Claim(waiting(NOW), NOW), True, Exchange(PENDING, NOW + 2, 2.0), True)

    report = driver.run()

    lease, poll, send, meaning = driver.asked
    assert lease == TakeLease(TIMEOUT + LEASE_MARGIN)
    assert isinstance(poll, Commit)
    assert (poll.transition.action, poll.release) == ("poll", False)
    assert isinstance(send, Send)
    assert (send.request.purpose, send.timeout) == ("token", TIMEOUT)
    assert json.loads(send.request.body) == {"code": "DEVICE-CANARY"}
    assert isinstance(meaning, Commit)
    assert (meaning.transition.action, meaning.release) == ("pending", True)
    assert meaning.transition.duration == 2
    assert report == Step("f1", State.AWAITING_USER, 5)


def test_lease_outlives_the_request() -> None:
    assert LEASE_MARGIN == 10


def test_code_is_asked_for_first_without_a_poll() -> None:
    flow = Flow("f1", Studio("https://studio.example.com"), NOW)
    driver = Listed(Claim(flow, NOW), Exchange(answer(503, "busy"), NOW, 0.1), True)

    report = driver.run()

    assert driver.names == ["TakeLease", "Send", "retry"]
    assert report.state is State.INIT
    assert report.wait_seconds >= 1


def test_nothing_is_sent_before_it_is_due(waiting: Waiting) -> None:
    flow = after(waiting(NOW), PENDING)
    driver = Listed(Claim(flow, flow.due_at - 3), None)

    report = driver.run()

    assert driver.names == ["TakeLease", "Release"]
    assert report == Step("f1", State.AWAITING_USER, 3)


@pytest.mark.parametrize("end", [GRANTED, answer(400, {"detail": "access_denied"})])
def test_nothing_is_done_for_a_flow_that_has_ended(waiting: Waiting, end: Response) -> None:
    flow = after(waiting(NOW), end)
    driver = Listed(Claim(flow, NOW + 1e6), None)

    report = driver.run()

    assert driver.names == ["TakeLease", "Release"]
    assert report == Step("f1", flow.state, 0, flow.reason)


@pytest.mark.parametrize(("left", "wait"), [(17.0, 5.0), (2.0, 2.0)])
def test_held_flow_is_left_alone_until_the_lease_is_over_or_the_next_poll_is(
    waiting: Waiting, left: float, wait: float
) -> None:
    driver = Listed(LeaseHeld(left_polling(waiting(NOW)), left))

    report = driver.run()

    assert driver.names == ["TakeLease"]
    assert report == Step("f1", State.POLLING, wait)


def test_flow_left_behind_in_polling_is_recovered_and_not_polled_too_early(
    waiting: Waiting,
) -> None:
    driver = Listed(Claim(left_polling(waiting(NOW)), NOW + 12, "w1"), True, None)

    report = driver.run()

    assert driver.names == ["TakeLease", "recover", "Release"]
    commit = driver.asked[1]
    assert isinstance(commit, Commit)
    assert commit.flow.in_doubt
    assert commit.transition.detail == "left behind by w1"
    assert report == Step("f1", State.AWAITING_USER, 3)


def test_flow_left_behind_long_ago_is_recovered_and_polled_in_one_step(waiting: Waiting) -> None:
    driver = Listed(
        Claim(left_polling(waiting(NOW)), NOW + 60),
        True,
        True,
        Exchange(PENDING, NOW + 61, 1.0),
        True,
    )

    driver.run()

    assert driver.names == ["TakeLease", "recover", "poll", "Send", "pending"]


def test_flow_recovered_after_its_deadline_gets_one_poll(waiting: Waiting) -> None:
    flow = left_polling(waiting(NOW, expires_in=20))
    driver = Listed(Claim(flow, NOW + 60), True, True, Exchange(PENDING, NOW + 60, 0.0), True)

    report = driver.run()

    assert driver.names == ["TakeLease", "recover", "poll", "Send", "expire"]
    assert report == Step("f1", State.EXPIRED)


def test_flow_left_behind_between_two_polls_is_gone_on_with_on_record(waiting: Waiting) -> None:
    driver = Listed(
        Claim(waiting(NOW), NOW, "w1"), True, True, Exchange(PENDING, NOW + 1, 1.0), True
    )

    driver.run()

    assert driver.names == ["TakeLease", "take_over", "poll", "Send", "pending"]
    commit = driver.asked[1]
    assert isinstance(commit, Commit)
    assert commit.transition.detail == "left behind by w1"


def test_flow_that_moved_since_the_clock_was_read_is_not_polled_too_early(
    waiting: Waiting,
) -> None:
    flow = after(waiting(NOW), PENDING)
    driver = Listed(Claim(flow, flow.moved_at - 1, None), flow.moved_at, None)

    report = driver.run()

    assert driver.names == ["TakeLease", "Look", "Release"]
    assert report.wait_seconds == pytest.approx(5)


def test_clock_that_was_set_back_makes_nobody_wait_for_what_it_lost(waiting: Waiting) -> None:
    flow, now = waiting(NOW), NOW - 3600
    driver = Listed(Claim(flow, now, None), now, True, Exchange(PENDING, now + 1, 1.0), True)

    report = driver.run()

    assert driver.names == ["TakeLease", "Look", "poll", "Send", "pending"]
    assert flow.expires_at == now + 600
    assert report.wait_seconds == pytest.approx(5)


@pytest.mark.parametrize("end", [GRANTED, answer(400, {"detail": "access_denied"})])
def test_flow_left_behind_behind_its_end_is_given_back_on_record(
    waiting: Waiting, end: Response
) -> None:
    flow = after(waiting(NOW), end)
    driver = Listed(Claim(flow, NOW + 60, "w1"), True, None)

    report = driver.run()

    assert driver.names == ["TakeLease", "take_over", "Release"]
    assert report == Step("f1", flow.state, 0, flow.reason)


def test_flow_left_behind_before_it_asked_for_a_code_asks_for_it() -> None:
    flow = Flow("f1", Studio("https://studio.example.com"), NOW)
    driver = Listed(Claim(flow, NOW, "w1"), True, Exchange(answer(503, "busy"), NOW, 0.1), True)

    driver.run()

    assert driver.names == ["TakeLease", "take_over", "Send", "retry"]


def test_life_that_is_over_is_declared_so_without_a_request(waiting: Waiting) -> None:
    flow = after(waiting(NOW, expires_in=4), PENDING)
    driver = Listed(Claim(flow, NOW + 4), True)

    report = driver.run()

    assert driver.names == ["TakeLease", "expire"]
    commit = driver.asked[1]
    assert isinstance(commit, Commit)
    assert commit.release
    assert report == Step("f1", State.EXPIRED)


def test_wait_ends_at_the_deadline_where_no_poll_comes_before_it(waiting: Waiting) -> None:
    busy = answer(503, "busy", Retry_After="3600")
    flow = waiting(NOW, expires_in=100)
    driver = Listed(Claim(flow, NOW), True, Exchange(busy, NOW, 0.0), True)

    assert driver.run().wait_seconds == 100


def test_flow_without_its_code_gives_the_lease_back_and_says_why(waiting: Waiting) -> None:
    flow = export.from_dict(export.to_dict(waiting(NOW)))
    driver = Listed(Claim(flow, NOW), None)

    with pytest.raises(UsageError, match="without its device code"):
        driver.run()

    assert driver.names == ["TakeLease", "Release"]


# Others went on meanwhile.


@pytest.mark.parametrize(
    ("end", "wait"), [(None, 5.0), (answer(400, {"detail": "access_denied"}), 0.0)]
)
def test_poll_that_could_not_be_stored_is_not_sent(
    waiting: Waiting, end: Response | None, wait: float
) -> None:
    theirs = after(waiting(NOW), *([end] if end else []))
    driver = Listed(Claim(waiting(NOW), NOW), False, theirs, None)

    report = driver.run()

    assert driver.names == ["TakeLease", "poll", "Reload", "Release"]
    assert report == Step("f1", theirs.state, wait, theirs.reason)


@pytest.mark.parametrize("action", ["recover", "take_over"])
def test_recovery_that_came_second_is_not_gone_on_with(waiting: Waiting, action: str) -> None:
    theirs = after(waiting(NOW), PENDING)
    flow = left_polling(waiting(NOW)) if action == "recover" else waiting(NOW)
    driver = Listed(Claim(flow, NOW + 60, "w1"), False, theirs, None)

    driver.run()

    assert driver.names == ["TakeLease", action, "Reload", "Release"]


def test_expiry_that_came_second_is_not_reported(waiting: Waiting) -> None:
    flow = after(waiting(NOW, expires_in=4), PENDING)
    theirs = stored(flow)
    theirs.cancel(NOW + 4)
    driver = Listed(Claim(flow, NOW + 4), False, theirs, None)

    report = driver.run()

    assert driver.names == ["TakeLease", "expire", "Reload", "Release"]
    assert report == Step("f1", State.FAILED, 0, Reason.CANCELLED)


def test_answer_that_came_too_late_and_brings_no_token_is_dropped(waiting: Waiting) -> None:
    theirs = after(waiting(NOW), PENDING)
    driver = Listed(
        Claim(waiting(NOW), NOW), True, Exchange(PENDING, NOW + 60, 60.0), False, theirs, None
    )

    report = driver.run()

    assert driver.names == ["TakeLease", "poll", "Send", "pending", "Reload", "Release"]
    assert report == Step("f1", State.AWAITING_USER, 5)


def test_token_that_came_too_late_is_brought_to_the_flow_as_it_stands_now(
    waiting: Waiting,
) -> None:
    theirs = left_polling(waiting(NOW))
    theirs.recover(NOW + 30)
    driver = Listed(
        Claim(waiting(NOW), NOW), True, Exchange(GRANTED, NOW + 60, 60.0), False, theirs, True
    )

    report = driver.run()

    assert driver.names == ["TakeLease", "poll", "Send", "grant", "Reload", "late_grant"]
    assert report == Step("f1", State.AUTHORIZED)
    assert theirs.token is not None
    assert theirs.token.access_token == Secret("TOKEN-CANARY")
    assert not theirs.token.possibly_revoked


def test_late_token_is_brought_until_it_is_taken(waiting: Waiting) -> None:
    first = left_polling(waiting(NOW))
    first.recover(NOW + 30)
    second = stored(first)
    left_polling(second, NOW + 30)
    driver = Listed(
        Claim(waiting(NOW), NOW),
        True,
        Exchange(GRANTED, NOW + 60, 60.0),
        False,
        first,
        False,
        second,
        True,
    )

    driver.run()

    assert driver.names[-4:] == ["Reload", "late_grant", "Reload", "late_grant"]
    assert second.token is not None
    assert second.token.possibly_revoked


def test_late_token_of_a_cancelled_flow_is_recorded(waiting: Waiting) -> None:
    theirs = left_polling(waiting(NOW))
    theirs.cancel(NOW + 1)
    driver = Listed(
        Claim(waiting(NOW), NOW), True, Exchange(GRANTED, NOW + 2, 2.0), False, theirs, True
    )

    report = driver.run()

    assert driver.names[-2:] == ["Reload", "stray_token"]
    assert report == Step("f1", State.FAILED, 0, Reason.CANCELLED)
    assert theirs.stray_tokens == 1


# In general.


@pytest.mark.parametrize(
    "result",
    [PENDING, GRANTED, answer(200, "cut"), Failure("timeout", sent=True), answer(503, "busy")],
)
@pytest.mark.parametrize("kept", [True, False])
def test_step_sends_at_most_once_whatever_comes_of_it(
    waiting: Waiting, result: Response | Failure, kept: bool
) -> None:
    flow = waiting(NOW)
    theirs: Iterable[Any] = () if kept else (after(waiting(NOW), PENDING), True)
    driver = Listed(Claim(flow, NOW), True, Exchange(result, NOW, 0.0), kept, *theirs)

    driver.run()

    assert driver.names.count("Send") == 1


@pytest.mark.parametrize("result", [PENDING, GRANTED])
def test_effects_show_no_secret(waiting: Waiting, result: Response) -> None:
    driver = Listed(Claim(waiting(NOW), NOW), True, Exchange(result, NOW, 0.0), True)

    report = driver.run()

    assert "CANARY" not in repr([driver.asked, report, Release(), Reload()])
