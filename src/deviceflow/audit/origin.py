"""The origin of events, set for a block of code, so that one client can serve many tasks.

A client has an origin of its own for all its events. A worker that runs one task after another sets
the task's part of the origin around each task::

    with deviceflow.origin(engine="celery", task=self.name, task_id=self.request.id):
        client.step(flow_id)

The values are stored in a context variable (PEP 567). An asyncio task inherits a copy from the code
that created it. A new thread inherits nothing; run it with `contextvars.copy_context().run`, as for
structlog's context variables.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import Final, Self

from deviceflow.core.ports import Origin
from deviceflow.errors import UsageError

_NOBODY: Final = Origin()
_CURRENT: Final[ContextVar[Origin]] = ContextVar("deviceflow_origin", default=_NOBODY)


class origin:  # noqa: N801  # reads as a function in a `with` statement
    """Set the origin of the events in a `with` block.

    Blocks nest: an omitted argument keeps the value of the outer block, or else of the client's
    own origin. Use an object for one block only.

    Args:
        actor: The person or account that the work is done for.
        engine: The system that runs the task, such as a task queue.
        task: The task's name.
        task_id: The engine's id of this run of the task.
        address: From where a person asked for it, for pages of the program's own.

    Raises:
        UsageError: An argument is not a string.
    """

    __slots__ = ("_origin", "_token")

    def __init__(
        self,
        *,
        actor: str | None = None,
        engine: str | None = None,
        task: str | None = None,
        task_id: str | None = None,
        address: str | None = None,
    ) -> None:
        given = {
            "actor": actor,
            "engine": engine,
            "task": task,
            "task_id": task_id,
            "address": address,
        }
        for name, value in given.items():
            if not isinstance(value, str | None):
                raise UsageError(
                    f"The origin's {name} must be a string, not {type(value).__name__}.",
                    hint=f"Pass {name}=str(…).",
                )
        self._origin = Origin(
            engine=engine, task=task, task_id=task_id, actor=actor, address=address
        )
        self._token: Token[Origin] | None = None

    def __enter__(self) -> Self:
        if self._token is not None:
            raise UsageError("This origin is in use.", hint="Create a new one for each block.")
        self._token = _CURRENT.set(_merged(self._origin, _CURRENT.get()))
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _CURRENT.reset(self._token)
            self._token = None


def current(default: Origin) -> Origin:
    """Return the current origin: the values of the enclosing blocks, else the client's own.

    Args:
        default: The client's own origin.
    """
    current = _CURRENT.get()
    return default if current is _NOBODY else _merged(current, default)


def _merged(current: Origin, default: Origin) -> Origin:
    given = {name: value for name, value in current._asdict().items() if value is not None}
    return default._replace(**given)
