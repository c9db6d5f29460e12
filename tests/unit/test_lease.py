"""How much is left of a lease, by two clocks that need not agree."""

from __future__ import annotations

from typing import Final

import pytest

from deviceflow.client.lease import LEASE_MARGIN, Clocks, Lease
from deviceflow.client.store_clock import Seen, StoreClock

TAKEN: Final = Clocks(wall=1_800_000_000.0, steady=1000.0)
LEASE: Final = Lease("w1", 20.0, TAKEN, 1_700_000_000.0)  # the store's clock is another one


def passed(wall: float, steady: float) -> Clocks:
    return Clocks(TAKEN.wall + wall, TAKEN.steady + steady)


@pytest.mark.parametrize(("wall", "steady"), [(7.0, 7.0), (7.0, 0.0), (0.0, 7.0), (7.0, -3.0)])
def test_clock_that_says_less_decides_what_is_left(wall: float, steady: float) -> None:
    assert LEASE.left(passed(wall, steady)) == 13


@pytest.mark.parametrize(("seconds", "covered"), [(0.0, True), (5.0, True), (5.1, False)])
def test_lease_covers_a_request_only_with_half_of_the_margin_to_spare(
    seconds: float, covered: bool
) -> None:
    timeout = LEASE.seconds - LEASE_MARGIN

    assert LEASE.covers(timeout, passed(seconds, seconds)) is covered


def test_stores_time_goes_on_with_the_monotonic_clock() -> None:
    assert LEASE.time_at(TAKEN.steady + 3) == 1_700_000_003


def test_stores_time_is_never_ahead_of_the_store() -> None:
    slow = LEASE._replace(uncertainty=2.0)  # the answer took two seconds

    assert slow.time_at(TAKEN.steady + 3) == 1_700_000_001
    assert slow.time_at(TAKEN.steady + 3) + slow.uncertainty == LEASE.time_at(TAKEN.steady + 3)


def test_stores_time_is_known_better_by_faster_answers() -> None:
    clock = StoreClock()
    # The store's time is 1,699,998,999 seconds ahead of the monotonic one.
    clock.observe(Seen(1_699_999_989.125, TAKEN.steady - 10, TAKEN.steady - 9.75))
    slow = LEASE._replace(uncertainty=2.0)
    better = slow.narrowed(clock)

    assert better.uncertainty == pytest.approx(0.25, abs=0.03)
    earliest = better.time_at(TAKEN.steady + 3)
    assert earliest <= 1_700_000_002 <= earliest + better.uncertainty
    assert better.left(passed(7, 7)) == LEASE.left(passed(7, 7))
    assert LEASE.narrowed(clock) is LEASE


def test_stores_time_that_was_looked_at_again_counts_from_then() -> None:
    corrected = LEASE.corrected(1_600_000_000.0, TAKEN.steady + 2)

    assert corrected.uncertainty == 2
    assert corrected.time_at(TAKEN.steady + 2) == 1_600_000_000
    assert corrected.time_at(TAKEN.steady + 5) == 1_600_000_003
    assert corrected.left(passed(7, 7)) == LEASE.left(passed(7, 7))
