"""The machine's clocks, and the one time that a client goes by."""

from __future__ import annotations

import threading
import time

import pytest

from deviceflow.client.clock import SystemClock, Timeline
from deviceflow.client.lease import HeldLease
from deviceflow.testing import VirtualClock


class Two(VirtualClock):
    """Two clocks that can be moved apart."""

    def steady_alone(self, seconds: float) -> None:
        self.advance(seconds)
        self.set_wall(-seconds)


def timeline(clock: VirtualClock) -> tuple[Timeline, list[float]]:
    jumps: list[float] = []
    return Timeline(clock, jumps.append), jumps


def test_system_clock_tells_both_times() -> None:
    clock = SystemClock()

    assert time.time() <= clock.time() <= time.time()
    assert time.monotonic() <= clock.monotonic() <= time.monotonic()


def test_system_clock_sleeps_as_long_as_it_is_told() -> None:
    before = time.monotonic()

    SystemClock().sleep(0.02)

    assert time.monotonic() - before >= 0.02


def test_system_clock_does_not_sleep_for_less_than_nothing() -> None:
    SystemClock().sleep(-1)


def test_virtual_clock_takes_no_time() -> None:
    clock = VirtualClock(wall=100)
    steady = clock.monotonic()

    clock.sleep(3600)

    assert clock.time() == 3700
    assert clock.monotonic() == steady + 3600
    assert clock.slept == [3600]


def test_time_is_the_wall_clocks() -> None:
    clock = VirtualClock(wall=100)
    line, jumps = timeline(clock)

    clock.advance(7)

    assert line.now() == 107
    assert jumps == []


def test_wall_clock_set_back_makes_nobody_wait_longer() -> None:
    clock = VirtualClock(wall=10_000)
    line, jumps = timeline(clock)

    clock.advance(5)
    clock.set_wall(-3600)

    assert line.now() == 10_005
    assert jumps == [-3600]
    clock.advance(5)
    assert line.now() == 10_010
    assert jumps == [-3600]


def test_wall_clock_set_back_twice_is_made_up_for_twice() -> None:
    clock = VirtualClock(wall=10_000)
    line, jumps = timeline(clock)

    for _ in range(2):
        clock.set_wall(-100)
        line.now()

    assert line.now() == 10_000
    assert jumps == [-100, -100]


def test_wall_clock_set_forward_is_right() -> None:
    # So it looks after a machine was suspended, too, where the monotonic clock stood still.
    clock = VirtualClock(wall=10_000)
    line, jumps = timeline(clock)

    clock.set_wall(3600)

    assert line.now() == 13_600
    assert jumps == [3600]


@pytest.mark.parametrize("moved", [0.9, -0.9])
def test_small_correction_is_no_jump(moved: float) -> None:
    clock = VirtualClock(wall=10_000)
    line, jumps = timeline(clock)

    clock.advance(1)
    clock.set_wall(moved)

    assert line.now() == 10_001 + moved
    assert jumps == []


def test_monotonic_clock_that_runs_fast_is_no_jump_and_not_followed() -> None:
    clock = Two(wall=10_000)
    line, jumps = timeline(clock)

    for _ in range(100):
        clock.advance(60)
        clock.steady_alone(6)
        line.now()

    assert line.now() == 16_000
    assert jumps == []


def test_time_never_runs_backwards_by_more_than_a_small_correction() -> None:
    clock = VirtualClock(wall=1_000_000)
    line, _ = timeline(clock)
    before = line.now()

    for passed, moved in [(1, -500), (7200, -3500), (0, -2), (10_000, -4999), (3, 900), (0, -900)]:
        clock.advance(passed)
        clock.set_wall(moved)
        assert line.now() >= before
        before = line.now()


def test_jump_is_told_once_to_many_threads() -> None:
    clock = VirtualClock(wall=10_000)
    line, jumps = timeline(clock)
    clock.set_wall(-3600)
    threads = [threading.Thread(target=line.now) for _ in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert jumps == [-3600]
    assert line.now() == 10_000


def test_both_clocks_are_read_at_one_moment() -> None:
    class Held(VirtualClock):
        """A process that is suspended once while it reads the clocks."""

        def time(self) -> float:
            read = super().time()
            if not self.slept:
                self.sleep(30)
            return read

    clock = VirtualClock(wall=10_000)
    line, _ = timeline(clock)
    assert line.read()[:2] == (10_000, clock.monotonic())

    held = Held(wall=10_000)
    line, _ = timeline(held)
    held.slept.clear()

    assert line.read()[:2] == (10_060, held.monotonic())


def test_what_was_added_is_known_for_what_processes_share() -> None:
    clock = VirtualClock(wall=10_000)
    line, _ = timeline(clock)
    clock.set_wall(-3600)

    clocks = line.read()

    assert (clocks.wall, clocks.shared) == (10_000, clock.time())


def test_time_is_the_wall_clocks_again_once_others_are_seen_to_go_by_it() -> None:
    clock = VirtualClock(wall=10_000)
    line, jumps = timeline(clock)
    before = line.read()
    assert not before.clock_was_reset_unseen(10_000)  # nothing was added
    clock.set_wall(-3600)
    clock.advance(10)
    set_back = line.read()
    seen = [10_000, 6_411, 6_410, 6_409]  # before it, not yet, since it was seen, and earlier
    assert [set_back.clock_was_reset_unseen(at) for at in seen] == [False, False, True, False]
    clock.advance(10)
    later = line.read()
    assert [later.clock_was_reset_unseen(at) for at in (6_410, 6_420)] == [True, True]

    line.resync()

    assert line.read().wall == clock.time() == 6_420
    assert jumps == [-3600]
    assert not line.read().clock_was_reset_unseen(6_415)
    clock.set_wall(-100)
    assert line.now() == 6_420


def test_lease_that_was_seen_ends_by_the_monotonic_clock() -> None:
    lease = HeldLease()
    assert lease.left(3, 14.0, 100.0) == 14.0
    assert lease.left(3, 14.0, 110.0) == 4.0  # another machine has restarted it
    assert lease.left(3, 0.0, 112.0) == 0.0  # it was given back
    assert lease.left(3, 14.0, 115.0) == 0.0
    assert lease.left(4, 14.0, 115.0) == 14.0  # another one
    assert lease.left(5, 0.0, 116.0) == 0.0
