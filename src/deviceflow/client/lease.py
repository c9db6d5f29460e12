"""How long a lease lasts, by the slower of two clocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from deviceflow.client.store_clock import Seen
from deviceflow.core.ports import Moment

if TYPE_CHECKING:
    from deviceflow.client.store_clock import StoreClock

LEASE_MARGIN: Final = 10.0
"""Seconds that a lease outlives the deadline of the request that is sent under it."""


GRANT_MARGIN: Final = 4.0
"""The same for a grant. Others wait for as long, where a refresh got no answer."""


class Clocks(NamedTuple):
    """What both clocks showed at one moment.

    Attributes:
        wall: The wall clock, in seconds since 1970; never set back (see `Timeline`).
        steady: The monotonic clock, in seconds.
        added: By how many seconds `wall` is ahead of the wall clock, as that was set back.
        set_at: What the wall clock showed when it was last set back.
        clock: The monotonic clock's name, as in `Moment`.
        uptime: Seconds since the machine started, also of those that it slept, if they are known.
    """

    wall: float
    steady: float
    added: float = 0.0
    set_at: float = 0.0
    clock: str = ""
    uptime: float | None = None

    @property
    def now(self) -> Moment:
        """The client's time, for a store."""
        return Moment(self.wall, self.steady, self.clock)

    @property
    def shared(self) -> Moment:
        """The wall clock as it is: the only time that all processes of a machine agree on.

        The rules of a grant know what to do where it was set back.
        """
        return Moment(self.wall - self.added, self.steady, self.clock)

    def clock_was_reset_unseen(self, moved_at: float) -> bool:
        """Tell whether a login was moved by a process that did not see the clock set back.

        Such a process uses the wall clock unchanged. A login that nobody moved for longer than the
        time that the clock lost looks the same: the login then waits once, for that time longer.
        """
        return self.added > 0 and self.set_at <= moved_at <= self.shared


class Lease(NamedTuple):
    """A lease that this process holds.

    The clocks are read before the lease is taken: the time that taking it lasted belongs to the
    lease.

    Attributes:
        owner: Who holds it.
        seconds: For how long it was taken.
        taken: What both clocks showed right before.
        now: What time it was then for the store, in seconds since 1970.
        margin: Seconds that it outlives the deadline of the request that is sent under it.
        uncertainty: How many seconds after `taken` it may have been `now` at the latest; 0 if
            the store uses the client's clock.
    """

    owner: str
    seconds: float
    taken: Clocks
    now: float
    margin: float = LEASE_MARGIN
    uncertainty: float = 0.0

    def left(self, clocks: Clocks) -> float:
        """Return the seconds that are left of it.

        The clock that says less decides: the other one may have stood still meanwhile.
        """
        passed = max(clocks.steady - self.taken.steady, clocks.wall - self.taken.wall)
        return self.seconds - passed

    def covers(self, timeout: float, clocks: Clocks) -> bool:
        """Tell whether a request that takes up to `timeout` seconds may still be sent."""
        return self.left(clocks) >= timeout + self.margin / 2

    def time_at(self, steady: float) -> float:
        """Return what time it is for the store when the monotonic clock says `steady`.

        It may be later, by up to `uncertainty` seconds. It is not earlier: otherwise a store would
        find what was stored with this time in the future.
        """
        return self.now + (steady - self.taken.steady) - self.uncertainty

    def narrowed(self, clock: StoreClock) -> Lease:
        """Return it by what other observations of the store's clock say of it, too."""
        if not self.uncertainty:
            return self
        began = self.taken.steady
        least, most = clock.observe(Seen(self.now, began, began + self.uncertainty))
        return self._replace(now=began + most, uncertainty=most - least)

    def corrected(self, now: float, steady: float) -> Lease:
        """Return it by a clock of the store that says `now` when the monotonic one says `steady`.

        Args:
            now: In seconds since 1970, looked at after the lease was taken.
            steady: The monotonic clock.
        """
        return self._replace(now=now, uncertainty=steady - self.taken.steady)


class HeldLease:
    """For how long others hold the lease of a grant, as seen by one that waits.

    No longer than its whole duration from when it was first seen: two machines that share a file
    may each restart it by its own clock.
    """

    def __init__(self) -> None:
        self._seq = -1
        self._until = 0.0

    def left(self, seq: int, held: float, steady: float) -> float:
        """Return the seconds that are left of it.

        Args:
            seq: The grant's last transition: the next one takes another lease, or none.
            held: What the store says.
            steady: The monotonic clock, right before the store was asked.
        """
        if seq != self._seq and held > 0:
            self._seq, self._until = seq, steady + held
        return max(0.0, min(held, self._until - steady))
