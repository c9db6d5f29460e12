"""A world whose calls a test sees one by one: it counts them, and makes some of them fail."""

from __future__ import annotations

from functools import partial
from inspect import iscoroutinefunction
from types import coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    Around = Callable[..., Coroutine[Any, Any, Any]]


class Tapped:
    """A world, or its store.

    Args:
        part: The world of a client.
        around: Called with the name, the method and the arguments of each call that is awaited, in
            the place of the method.
    """

    def __init__(self, part: Any, around: Around) -> None:
        self._part = part
        self._around = around

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        if name == "store":
            return Tapped(found, self._around)
        return partial(self._around, name, found) if iscoroutinefunction(found) else found


@coroutine
def suspend() -> Generator[None, None, None]:
    """Return to who runs the operation, who may close it."""
    yield
