"""What used a grant lately: the last noted use of each task. It is noted once a minute at most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from deviceflow.core.ports import Origin

NOTED_EACH: Final = 60.0
"""Seconds after which the use of a grant is noted again."""

TASK_NOTED_EACH: Final = 3600.0
"""Seconds after which a task's use is noted, however lately other tasks' uses were."""

MOST_USES: Final = 8
"""How many tasks are remembered, those that were noted last."""


class Use(NamedTuple):
    """A use of a grant.

    Attributes:
        at: When it was noted, in seconds since 1970.
        actor: The person or account that used the grant.
        host: The host name.
        engine: The system that ran the task, if the program named it.
        task: The task's name.
        task_id: The engine's id of the run.
    """

    at: float
    actor: str | None = None
    host: str | None = None
    engine: str | None = None
    task: str | None = None
    task_id: str | None = None

    @property
    def task_key(self) -> tuple[str | None, ...]:
        """What the uses of one task have in common."""
        return self.engine, self.task, self.actor


def noted(
    uses: tuple[Use, ...], used_at: float | None, origin: Origin, now: float
) -> tuple[Use, ...] | None:
    """Return the uses with one more, the latest first; None if it is too early to note it.

    A task that was not noted for an hour is noted at once. Otherwise a task that always runs just
    after another one would never be noted.

    Args:
        uses: The uses that are noted.
        used_at: When the last one was noted.
        origin: What uses the grant now.
        now: The time.
    """
    use = Use(now, origin.actor, origin.host, origin.engine, origin.task, origin.task_id)
    others = tuple(one for one in uses if one.task_key != use.task_key)
    known = [one.at for one in uses if one.task_key == use.task_key]
    if len(others) >= MOST_USES:
        known.append(min(one.at for one in others))  # it would take that one's place
    early = any(0 <= now - at < TASK_NOTED_EACH for at in known)
    if early and used_at is not None and 0 <= now - used_at < NOTED_EACH:
        return None
    return (use, *sorted(others, reverse=True, key=lambda one: one.at)[: MOST_USES - 1])


def to_json(uses: tuple[Use, ...]) -> list[list[Any]]:
    """Return uses as JSON types."""
    return [[*use] for use in uses]


def of_json(value: object) -> tuple[Use, ...]:
    """Return uses of JSON types, without those that are damaged: they are not authenticated."""
    found = value if isinstance(value, list) else []
    return tuple(Use(*one) for one in found[:MOST_USES] if _is_use(one))


def _is_use(value: object) -> bool:
    if not isinstance(value, list) or len(value) != len(Use._fields):
        return False
    at, *texts = value
    if type(at) not in (int, float) or not 0 <= at < 2**53:
        return False
    return all(text is None or isinstance(text, str) for text in texts)
