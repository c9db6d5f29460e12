"""A driver that is a list: of the effects that an operation is expected to yield, and the answers.

No store, no transport and no clock takes part: what a test shows with it, the operation alone does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from deviceflow.client import sweep
from deviceflow.client.context import context_of
from deviceflow.client.effects import (
    CheckCredentials,
    ClaimFlow,
    Commit,
    CommitGrant,
    Emit,
    Exchange,
    Load,
    Prepare,
    Prepared,
    ReadClocks,
    Release,
    Send,
    StoreNow,
)
from deviceflow.client.lease import Clocks
from deviceflow.core.ports import Claim, LeaseHeld, Origin

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.client.context import Context
    from deviceflow.client.effects import Effect, Op
    from deviceflow.client.sweep import Swept
    from deviceflow.core.flow import Flow
    from deviceflow.core.provider import Approver
    from deviceflow.core.wire import Failure, Response

NOW: Final = 1_800_000_000.0
STEADY: Final = 1000.0
TIMEOUT: Final = 10.0

_T = TypeVar("_T")

Expected = tuple[type[Any], Any]
"""An effect's type, and its answer; a function makes the answer of the effect."""


class Raised(NamedTuple):
    """An answer that is no answer: performing the effect raised this."""

    error: BaseException


USUAL: Final[dict[type[Any], Callable[[Any], Any]]] = {
    CheckCredentials: lambda _: None,
    Emit: lambda _: None,
    Prepare: lambda effect: Prepared(effect.request),
    ReadClocks: lambda _: Clocks(NOW, STEADY),
}
"""How effects are answered that a list leaves out."""


class Listed:
    """Drives operations by a list.

    Args:
        *script: The effects that are expected, and their answers. Those of `USUAL` may be left out.

    Attributes:
        effects: All effects that were yielded, in order.
        names: The same without those of `USUAL`; commits by their actions.
    """

    def __init__(self, *script: Expected) -> None:
        self._script = list(script)
        self.effects: list[Effect] = []
        self.names: list[str] = []

    def run(self, operation: Op[_T]) -> _T:
        """Drive an operation to its end."""
        answer: Any = None
        while True:
            try:
                if isinstance(answer, Raised):
                    effect = operation.throw(answer.error)
                else:
                    effect = operation.send(answer)
            except StopIteration as stop:
                assert not self._script, f"it did not ask for {self._script}"
                result: _T = stop.value
                return result
            self.effects.append(effect)
            answer = self._answer(effect)

    def _answer(self, effect: Effect) -> Any:
        kind = type(effect)
        if kind in USUAL and not (self._script and self._script[0][0] is kind):
            return USUAL[kind](effect)
        assert self._script, f"nothing was to follow, and there is {effect}"
        expected, answer = self._script.pop(0)
        assert kind is expected, f"expected {expected.__name__}, got {effect}"
        self.names.append(
            effect.event["action"] if isinstance(effect, Commit | CommitGrant) else kind.__name__
        )
        if callable(answer):
            answer = answer(effect)
        if isinstance(answer, Claim) and answer.event is not None:
            self.names.append(answer.event["action"])
        return answer


def sweep_each(context: Context, limit: int) -> Op[Swept]:
    """Take the steps that are due, one after the other."""
    swept, steps = yield from sweep.due(context)
    for one in steps[:limit]:
        swept.add((yield from one.item()))
    return swept


def context(
    *, durable: bool = False, approver: Approver | None = None, deadline: float = TIMEOUT
) -> Context:
    """Make the context of a client whose store keeps the trail."""
    return context_of(
        durable=durable,
        keeps_trail=True,
        audit=None,
        origin=Origin(actor="tester"),
        deadline=deadline,
        approver=approver,
    )


def claims(flow: Flow, now: float = NOW, previous_owner: str | None = None) -> Expected:
    """Have a lease taken; what was to be decided with it is."""
    return ClaimFlow, _decided(flow, now, previous_owner)


def _decided(flow: Flow, now: float, previous_owner: str | None) -> Callable[[ClaimFlow], Claim]:
    def answer(effect: ClaimFlow) -> Claim:
        claim = Claim(flow, now, previous_owner)
        return claim._replace(event=effect.decide(claim) if effect.decide else None)

    return answer


def held(flow: Flow, seconds: float, since: float | None = None) -> Expected:
    """Have the lease be somebody else's."""
    return ClaimFlow, LeaseHeld(flow, seconds, since)


def commits(committed: bool = True) -> Expected:  # it is the answer
    """Have a commit succeed, or be refused since others went on."""
    return Commit, committed


def sends(result: Response | Failure | BaseException, seconds: float = 0.0) -> Expected:
    """Have a request answered after so many seconds."""
    return Send, Exchange(result, STEADY + seconds)


def loads(flow: Flow) -> Expected:
    """Have a flow be stored like this."""
    return Load, flow


def releases() -> Expected:
    """Have a lease given back."""
    return Release, None


def tells(now: float = NOW) -> Expected:
    """Have it be that time for the store."""
    return StoreNow, now
