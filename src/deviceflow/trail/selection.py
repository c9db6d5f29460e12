"""Which logins or grants a report shows one by one: all of a few; of many, those that matter."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from deviceflow.core.states import GrantState, Reason, State
from deviceflow.trail.grant_view import Grant

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from deviceflow.trail.login_view import Login

WHOLE: Final = 500
"""Up to how many logins, or grants, a report shows every one."""

EACH: Final = 100
"""How many it shows of each kind, if there are more."""

_UNHAPPY: Final = frozenset({State.FAILED, GrantState.LOST, GrantState.WANTED})


class Picked(NamedTuple):
    """A login or a grant that a report shows.

    Attributes:
        chain: The login or the grant.
        matters: Whether it has findings, is in doubt, failed or was lost, or needs a person.
    """

    chain: Login
    matters: bool


class Selection:
    """The newest logins or grants, and the newest of those that matter.

    Memory is bounded, however many there are.

    Args:
        suspects: The ids of those with findings.

    Attributes:
        taken: How many there were.
    """

    def __init__(self, suspects: Container[str | None] = ()) -> None:
        self.taken: int = 0
        self._suspects = suspects
        self._newest: deque[tuple[int, Picked]] = deque(maxlen=WHOLE)
        kinds = ("finding", "in doubt", "unhappy")
        self._concerns = {kind: deque[tuple[int, Picked]](maxlen=EACH) for kind in kinds}

    @classmethod
    def of(cls, chains: Iterable[Login], suspects: Container[str | None] = ()) -> Selection:
        """Return the selection of logins or grants, the oldest first."""
        selection = cls(suspects)
        for chain in chains:
            selection.take(chain)
        return selection

    def take(self, chain: Login) -> None:
        """Consider a login or a grant: newer than those before."""
        concerns = list(self._concerns_of(chain))
        one = self.taken, Picked(chain, bool(concerns))
        self._newest.append(one)
        for kind in concerns:
            self._concerns[kind].append(one)
        self.taken += 1

    def newest_first(self) -> list[Picked]:
        """Return what the report shows."""
        if self.taken <= WHOLE:
            return [picked for _, picked in reversed(self._newest)]
        shown = dict([*self._newest][-EACH:])
        for concern in self._concerns.values():
            shown.update(concern)
        return [shown[number] for number in sorted(shown, reverse=True)]

    def _concerns_of(self, chain: Login) -> Iterable[str]:
        if chain.id in self._suspects:
            yield "finding"
        if chain.in_doubt:
            yield "in doubt"
        needs = chain.needs() if isinstance(chain, Grant) else []
        failed = chain.state in _UNHAPPY and chain.reason != Reason.CANCELLED
        if failed or any(need.until is None for need in needs[-1:]):
            yield "unhappy"
