"""What a job comes to where no other process went on with its flow, known before it is performed.

A login that waits is polled by two jobs, and each of them moves its row and adds an event. A
statement that moves no row says that others went on with the login, which is rare. So an attempt
can be told that its statements have changed their rows before they are run; then they are run
together with those of many other jobs, in whatever way the database does so best. If one of them
does not change its row, nothing may be kept of them all, and the jobs are performed as any others.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deviceflow.stores.sql.methods import Job

MOVES: Final = ("poll_remembered", "move")
"""The statements that move a row, and by which a job can be foreseen."""

EVENT: Final = "add_event"
"""The statement that may follow one of them."""


class Foreseen(NamedTuple):
    """What a job comes to.

    Attributes:
        move: The statement that moves the flow's row.
        values: Its values.
        event: The values of the statement that adds the event; None if the trail leaves it out.
        result: The result of the job's operation.
    """

    move: str
    values: Mapping[str, Any]
    event: Mapping[str, Any] | None
    result: Any


_ONE_ROW: Final[Any] = SimpleNamespace(rowcount=1)
"""What comes of a statement that changes one row."""


def foresee(job: Job) -> Foreseen | None:
    """Return what a job comes to; None if that depends on what is in the database.

    Args:
        job: The job. What it is decided from must not change before it is performed.
    """
    if job.mode != "write" or job.flow_id is None:
        return None
    attempt = job.operation(job.client_now)
    wanted: list[tuple[str, Mapping[str, Any]]] = []
    try:
        wanted.append(next(attempt))
        for names in (MOVES, (EVENT,)):
            if wanted[-1][0] not in names:
                return None
            wanted.append(attempt.send(_ONE_ROW))
    except StopIteration as stop:
        if wanted:
            (move, values), *events = wanted
            return Foreseen(move, values, events[0][1] if events else None, stop.value)
    except Exception:  # noqa: BLE001  # raised again where the job is performed
        return None
    finally:
        attempt.close()
    return None
