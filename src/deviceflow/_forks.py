"""Hooks for `os.fork`: a child must not share connections, random names or locks with its parent.

A lock that another thread holds during the fork is never released in the child. Two processes that
use one connection read each other's responses. Python calls these hooks within `os.fork`, before
any other code of the child runs. Comparing process ids is not enough: ids are reused, and the same
id can exist in several namespaces.
"""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import MethodType

# By the object that the method is bound to. The reference is weak.
_renewals: weakref.WeakKeyDictionary[Any, Callable[[Any], object]]
_renewals = weakref.WeakKeyDictionary()
_around: weakref.WeakKeyDictionary[Any, Callable[[Any], AbstractContextManager[object]]]
_around = weakref.WeakKeyDictionary()
_abandoned: Final[list[object]] = []


def in_child(renew: Callable[[], object]) -> None:
    """Call a bound method in each forked child, for as long as its object exists."""
    method = cast("MethodType", renew)
    _renewals[method.__self__] = method.__func__


def around(hold: Callable[[], AbstractContextManager[object]]) -> None:
    """Hold a context around each fork: enter it before, and leave it in both processes.

    Args:
        hold: The bound method that returns the context. It is called for as long as its object
            exists.
    """
    method = cast("MethodType", hold)
    _around[method.__self__] = method.__func__


def abandon(*parts: object) -> None:
    """Keep objects of the parent, so that the garbage collector does not close them here."""
    _abandoned.extend(parts)


class _Fork:
    def __init__(self) -> None:
        self._alone = threading.RLock()
        self._held = ExitStack()

    def before(self) -> None:
        self._alone.acquire()
        for owner, hold in list(_around.items()):
            self._held.enter_context(hold(owner))

    def after(self) -> None:
        self._held.close()
        self._alone.release()

    def after_in_child(self) -> None:
        self.after()
        for owner, renew in list(_renewals.items()):
            renew(owner)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    _fork: Final = _Fork()
    os.register_at_fork(
        before=_fork.before,
        after_in_parent=_fork.after,
        after_in_child=_fork.after_in_child,
    )
