"""What a job comes to, told before it is performed: from operations that a test makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from deviceflow.stores.sql.foreseen import Foreseen, foresee
from deviceflow.stores.sql.methods import Job

if TYPE_CHECKING:
    from collections.abc import Callable

MOVE = ("move", {"id": "f"})
EVENT = ("add_event", {"flow_id": "f"})
RELEASE = ("release", {"id": "f"})


def job(*statements: tuple[str, Any], fails: bool = False, **how: Any) -> Job:
    def operation(_now: float) -> Any:
        if fails:
            raise LookupError
        for statement in statements:
            if (yield statement).rowcount != 1:
                return False
        return True

    return Job(operation, **{"flow_id": "f", **how})


@pytest.mark.parametrize(("statements", "event"), [((MOVE,), None), ((MOVE, EVENT), EVENT[1])])
def test_move_is_foreseen(statements: Any, event: Any) -> None:
    assert foresee(job(*statements)) == Foreseen("move", MOVE[1], event, True)


@pytest.mark.parametrize(
    "unsure",
    [
        lambda: job(RELEASE),
        lambda: job(EVENT, MOVE),
        lambda: job(MOVE, RELEASE),
        lambda: job(MOVE, EVENT, RELEASE),
        job,
        lambda: job(MOVE, fails=True),
        lambda: job(MOVE, mode="read"),
        lambda: job(MOVE, mode="durable"),
        lambda: job(MOVE, flow_id=None),
    ],
)
def test_nothing_else_is(unsure: Callable[[], Job]) -> None:
    assert foresee(unsure()) is None
