"""What a forked child must not share with its parent: connections, random names, held locks.

A lock that another thread holds at the moment of the fork is never released in the child, and two
processes that use one connection read each other's answers. Python calls these hooks within
`os.fork`, before any other code of the child runs. A comparison of process ids is no substitute:
ids are reused, and the same id exists in several namespaces.
"""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_renewals: Final[dict[weakref.WeakMethod[Any], None]] = {}
_around: Final[dict[weakref.WeakMethod[Any], None]] = {}
_abandoned: Final[list[object]] = []


def in_child(renew: Callable[[], object]) -> None:
    """Call a method in each child that is forked from now on, while its object lives."""
    _renewals[weakref.WeakMethod(renew, _forget)] = None


def around(hold: Callable[[], AbstractContextManager[object]]) -> None:
    """Enter the context that a method returns before each fork, and leave it on both sides.

    The method's object is held only weakly.
    """
    _around[weakref.WeakMethod(hold, _forget)] = None


def abandon(*parts: object) -> None:
    """Keep what belongs to the parent, so that the garbage collector does not close it here."""
    _abandoned.extend(parts)


def _forget(method: weakref.WeakMethod[Any]) -> None:
    _renewals.pop(method, None)
    _around.pop(method, None)


def _living(methods: dict[weakref.WeakMethod[Any], None]) -> list[Callable[[], Any]]:
    return [method for method in (known() for known in list(methods)) if method is not None]


class _Fork:
    def __init__(self) -> None:
        self._alone = threading.RLock()
        self._held = ExitStack()

    def before(self) -> None:
        self._alone.acquire()
        for hold in _living(_around):
            self._held.enter_context(hold())

    def after(self) -> None:
        self._held.close()
        self._alone.release()

    def after_in_child(self) -> None:
        self.after()
        for renew in _living(_renewals):
            renew()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    _fork: Final = _Fork()
    os.register_at_fork(
        before=_fork.before,
        after_in_parent=_fork.after,
        after_in_child=_fork.after_in_child,
    )
