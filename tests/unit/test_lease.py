"""How much is left of a lease, by two clocks that need not agree."""

from __future__ import annotations

from typing import Final

import pytest

from deviceflow.client.lease import LEASE_MARGIN, Clocks, Lease

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


def test_stores_time_that_was_looked_at_again_counts_from_then() -> None:
    corrected = LEASE.corrected(1_600_000_000.0, TAKEN.steady + 2)

    assert corrected.time_at(TAKEN.steady + 2) == 1_600_000_000
    assert corrected.time_at(TAKEN.steady + 5) == 1_600_000_003
    assert corrected.left(passed(7, 7)) == LEASE.left(passed(7, 7))
