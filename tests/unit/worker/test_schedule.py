"""When a worker's logins are due: a heap, a clock that it estimates, and whom it leaves alone."""

from __future__ import annotations

import sys
from random import Random
from typing import Final

import pytest

from deviceflow.client.store_clock import Seen, StoreClock
from deviceflow.worker._schedule import Due, Schedule

SERVER: Final = "https://as.example.com"


def test_logins_come_in_the_order_in_which_they_are_due_and_none_before() -> None:
    schedule, rng = Schedule(), Random(1)
    times = [rng.uniform(0, 100) for _ in range(200)]
    for number, at in enumerate(times):
        schedule.put(Due(at, f"f{number}", 3, SERVER))

    taken = []
    for now in range(0, 101, 10):
        while due := schedule.take(float(now)):
            assert due.at <= now
            taken.append(due.at)
        assert schedule.next_at is None or schedule.next_at > now

    assert taken == sorted(times)
    assert len(schedule) == 0


def test_a_new_login_that_several_looks_find_is_driven_once() -> None:
    schedule = Schedule()
    for _ in range(3):
        schedule.put_found([Due(5.0, "new", 1, SERVER), Due(6.0, "other", 1, SERVER)])

    assert len(schedule) == 2
    assert schedule.take(5.0) == Due(5.0, "new", 1, SERVER)
    schedule.put_found([Due(5.0, "new", 1, SERVER)])  # its step failed, and nobody else took it
    assert schedule.take(5.0) == Due(5.0, "new", 1, SERVER)


def test_a_waiting_login_takes_few_bytes() -> None:
    due = Due(1_795_500_000.123, "dWnn2E-zC3LqZb0o", 1234, SERVER)
    schedule = Schedule()
    for number in range(1000):
        schedule.put(due._replace(at=due.at + number))

    record = sys.getsizeof(due) + sum(map(sys.getsizeof, due))
    slots = sys.getsizeof(schedule._heap) / len(schedule)
    assert record + slots < 300


class TestStoreClock:
    def test_it_goes_by_the_fastest_answer(self) -> None:
        clock = StoreClock()
        clock.observe(Seen(1000.250, 10.0, 10.5))
        clock.observe(Seen(1001.002, 11.0, 11.003))
        clock.observe(Seen(1002.100, 12.0, 14.0))

        assert clock.at(20.0) == pytest.approx(1010.0, abs=0.005)

    def test_no_login_is_stepped_before_it_is_due_however_slow_answers_are(self) -> None:
        clock, rng, ahead = StoreClock(), Random(2), 990.0
        for second in range(1000):
            asked, told, answered = sorted(rng.uniform(0, 5) for _ in range(3))
            clock.observe(Seen(second + told + ahead, second + asked, second + answered))
            assert clock.at(float(second)) <= second + ahead
        assert clock.at(1000.0) == pytest.approx(1000 + ahead, abs=0.5)

    def test_a_store_that_goes_by_our_clock_is_known_exactly(self) -> None:
        clock = StoreClock()
        for second in (1.0, 2.0, 3.5):
            clock.observe(Seen(500.0 + second, second, second))
            assert clock.at(second) == 500.0 + second

    @pytest.mark.parametrize("rate", [0.9995, 1.0005])
    def test_it_follows_a_clock_that_drifts(self, rate: float) -> None:
        clock = StoreClock()
        for second in range(1000):
            clock.observe(Seen(500.0 + second * rate, second - 0.001, second + 0.001))
        assert clock.at(1000.0) == pytest.approx(500.0 + 1000 * rate, abs=0.004)

    @pytest.mark.parametrize("jump", [-3600.0, 3600.0])
    def test_it_follows_a_clock_that_is_set(self, jump: float) -> None:
        clock = StoreClock()
        clock.observe(Seen(500.0, -0.01, 0.01))
        clock.observe(Seen(501.0 + jump, 0.99, 1.01))
        assert clock.at(2.0) == pytest.approx(502.0 + jump, abs=0.02)
