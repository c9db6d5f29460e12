"""The rules of a login that is held: what others make of it, and what nobody knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deviceflow.audit.events import render
from deviceflow.core.actions import PENDING
from deviceflow.core.omitted import Reservation, dead_driver
from deviceflow.core.states import State
from deviceflow.testing import answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.core.flow import Flow

    Waiting = Callable[..., Flow]

NOW = 1_800_000_000.0
PENDING_ANSWER = answer(400, {"detail": "authorization_pending"})


def held(waiting: Waiting, reserve: int = 5) -> Flow:
    flow = waiting(NOW)
    flow.driver = "driver"
    flow.poll(NOW + 5, 10.0, reserve)
    return flow


def test_poll_says_how_many_may_follow_and_each_of_them_is_one_less(
    waiting: Waiting,
) -> None:
    flow = held(waiting)
    pending = flow.receive(PENDING_ANSWER, NOW + 6)
    assert flow.is_routine(pending)
    again = flow.poll(NOW + 11, 10.0, None)

    assert (pending.seq, again.seq, again.detail) == (3, 4, None)
    assert (flow.attempt, flow.reserved) == (2, 4)
    assert flow.wake_at is None


def test_others_go_on_behind_all_numbers_that_were_reserved(waiting: Waiting) -> None:
    flow = held(waiting)
    flow.driver = None  # as it is read from the store

    recovered = flow.recover(NOW + 60, "driver")

    assert (recovered.seq, flow.attempt) == (2 + 2 * 5 + 1, 1 + 5)
    assert (flow.reserved, flow.skipped) == (0, (NOW + 5, 5))
    assert flow.in_doubt
    assert recovered.detail == "driver held the login and died: its last polls are unknown"
    assert 5 <= flow.wait_seconds(NOW + 60) <= 5 * 1.25


def test_held_login_is_given_back_between_two_polls(
    waiting: Waiting,
) -> None:
    flow = held(waiting)
    flow.receive(PENDING_ANSWER, NOW + 6)

    let_go = flow.let_go(NOW + 7)
    flow.end_hold()

    assert (let_go.seq, let_go.source, let_go.dest) == (4, *[State.AWAITING_USER] * 2)
    assert flow.wake_at == flow.due_at


def test_answer_that_asks_for_more_patience_is_stored(
    waiting: Waiting,
) -> None:
    flow = held(waiting)
    patient = answer(400, {"detail": "authorization_pending"}, **{"Retry-After": "60"})

    pending = flow.receive(patient, NOW + 6)

    assert pending.action is PENDING
    assert not flow.is_routine(pending)


def test_events_say_who_holds_the_login_and_who_held_it(waiting: Waiting) -> None:
    flow = waiting(NOW)
    flow.driver = "0123456789ab.7.1"
    poll = render(flow, flow.poll(NOW + 5, 10.0, 1000))
    other = render(flow, flow.receive(PENDING_ANSWER, NOW + 6))
    flow.poll(NOW + 11, 10.0, None)
    flow.driver = None
    recovered = render(flow, flow.recover(NOW + 60, "0123456789ab.7.1"))

    assert Reservation.of(poll) == ("0123456789ab.7.1", 1000)
    assert Reservation.of(other) is Reservation.of(recovered) is None
    assert dead_driver(recovered) == "0123456789ab.7.1"
    assert dead_driver(poll) is dead_driver(other) is None


def test_what_is_unknown_begins_with_the_stored_poll_though_the_clock_was_set_back(
    waiting: Waiting,
) -> None:
    flow = held(waiting)
    flow.driver = None

    assert flow.follow_clock(NOW - 600)
    recovered = flow.recover(NOW - 600, "driver")

    assert flow.skipped == (NOW + 5, 5)
    assert recovered.ahead == 605
