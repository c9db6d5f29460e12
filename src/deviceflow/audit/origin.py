"""Who makes something happen, said for a block of code: one client then serves many tasks.

A client has an origin of its own, which holds for the whole client. A worker that runs one task
after another sets the rest around each task::

    with deviceflow.origin(engine="celery", task_id=self.request.id):
        client.step(flow_id)

The values live in a context variable (PEP 567). An asyncio task starts with those of the code that
created it, and changes none but its own. A new thread starts without any; hand them over by
`contextvars.copy_context().run`, as for structlog's context variables.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import Final, Self

from deviceflow.core.ports import Origin
from deviceflow.errors import UsageError

_NOBODY: Final = Origin()
_CURRENT: Final[ContextVar[Origin]] = ContextVar("deviceflow_origin", default=_NOBODY)


class origin:  # noqa: N801  # reads as a function in a `with` statement
    """Set who acts, for the events of a `with` block.

    Blocks nest: an argument that is left out keeps what the block around it has set, or else what
    the client's own `origin` says. An object is good for one block.

    Args:
        actor: The person or the account in whose name the work is done.
        engine: What runs the work, such as a task queue's name.
        task_id: The engine's own name for this piece of work.

    Raises:
        UsageError: An argument is not a text.
    """

    __slots__ = ("_said", "_token")

    def __init__(
        self,
        *,
        actor: str | None = None,
        engine: str | None = None,
        task_id: str | None = None,
    ) -> None:
        given = {"actor": actor, "engine": engine, "task_id": task_id}
        for name, value in given.items():
            if not isinstance(value, str | None):
                raise UsageError(
                    f"The origin's {name} must be a text, not {type(value).__name__}.",
                    hint=f"Pass {name}=str(…).",
                )
        self._said = Origin(actor=actor, engine=engine, task_id=task_id)
        self._token: Token[Origin] | None = None

    def __enter__(self) -> Self:
        if self._token is not None:
            raise UsageError("This origin is in use already.", hint="Make another for each block.")
        self._token = _CURRENT.set(_merged(self._said, _CURRENT.get()))
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _CURRENT.reset(self._token)
            self._token = None


def current(default: Origin) -> Origin:
    """Return a client's origin, with what the code that runs now has set instead.

    Args:
        default: The client's own.
    """
    said = _CURRENT.get()
    return default if said is _NOBODY else _merged(said, default)


def _merged(said: Origin, default: Origin) -> Origin:
    return default._replace(
        actor=said.actor or default.actor,
        engine=said.engine or default.engine,
        task_id=said.task_id or default.task_id,
    )
