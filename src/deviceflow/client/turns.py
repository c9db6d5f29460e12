"""Whose turn it is: how many operations run at a time, and of which servers.

A server that hangs, or a hundred of them, must not keep the others waiting. Nothing here does I/O.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from typing import Any

    from deviceflow.client.world import World

AT_ONCE: Final = 128
"""How many operations of a sweep run at a time at most."""

NOTIFIED_AT_ONCE: Final = 10
"""How many notifications are sent at a time at most."""

NOTIFY_FOR: Final = 20.0
"""Seconds after which a sweep starts no more notifications. The next sweep sends the rest."""

_T = TypeVar("_T")


class Turn(NamedTuple, Generic[_T]):
    """What may begin.

    Attributes:
        origin: The server that it is of.
        key: What tells it from others, such as a grant's name.
        item: The thing itself.
    """

    origin: str
    key: str
    item: _T


Work: TypeAlias = "Turn[Callable[[World], Coroutine[Any, Any, _T]]]"
"""An operation that begins when it is its turn."""


def by_turns(works: list[Work[_T]]) -> list[Work[_T]]:
    """Return works so that each server has its first one before any has its second."""
    seen = Counter[str]()

    def rank(work: Work[_T]) -> int:
        seen[work.origin] += 1
        return seen[work.origin]

    return sorted(works, key=rank)


class Turns(Generic[_T]):
    """Queues for each origin, which take turns.

    An origin may have no more under way than there are places free. So one that hangs takes half of
    the places, the next one half of the rest, and others still find one.

    Args:
        places: How many may be under way at a time.
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self._waiting: dict[str, deque[Turn[_T]]] = {}
        self._under_way: Counter[str] = Counter()
        self._busy = 0
        self._keys: set[str] = set()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    @property
    def free(self) -> int:
        """How many places are free."""
        return self.places - self._busy

    def longest_waiting(self) -> Iterator[_T]:
        """Yield what has waited the longest of each origin."""
        return (queue[0].item for queue in self._waiting.values())

    def put(self, origin: str, key: str, item: _T) -> None:
        """Have something wait for its turn, unless what has this key waits or is under way."""
        if key not in self._keys:
            self._keys.add(key)
            self._waiting.setdefault(origin, deque()).append(Turn(origin, key, item))

    def take(self) -> Turn[_T] | None:
        """Return what may begin; None if nothing may. `end` must follow."""
        free = self.free
        for origin in self._waiting if free > 0 else ():
            if self._under_way[origin] < free:
                queue = self._waiting.pop(origin)
                turn = queue.popleft()
                if queue:
                    self._waiting[origin] = queue  # behind the other origins
                self._under_way[origin] += 1
                self._busy += 1
                return turn
        return None

    def end(self, turn: Turn[_T]) -> None:
        """Say that what `take` returned is no longer under way."""
        self._keys.discard(turn.key)
        self._busy -= 1
        self._under_way[turn.origin] -= 1
        if not self._under_way[turn.origin]:
            del self._under_way[turn.origin]
