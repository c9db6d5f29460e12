"""The machine of a login: its states, its triggers, and the one table that says what is legal.

The rules, in short:

* `polling` means that a token request may be in flight. It is stored before the request leaves,
  and left once the answer is understood.
* `authorized`, `expired` and `failed` are ends. One transition leads out of an end: `late_grant`,
  for a token that was really issued and must not be dropped. Where somebody said no (`denied`) or
  gave up (`cancelled`), not even that.
* A trigger that the table does not allow is an error, never a silent no.

The table below *is* the machine: `transitions` runs it, the diagram in the documentation is drawn
from it, and nothing else decides what may follow what.

One machine serves the whole process. A flow is any object with a `state`; it is never registered,
so that a waiting flow costs its record and nothing more.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol, cast, get_args

import transitions
from transitions import EventData, Machine, MachineError

from deviceflow.errors import IllegalTransitionError

if TYPE_CHECKING:
    from collections.abc import Callable


class State(StrEnum):
    """Where a login stands."""

    INIT = "init"
    AWAITING_USER = "awaiting-user"
    POLLING = "polling"
    AUTHORIZED = "authorized"
    EXPIRED = "expired"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether nothing more is to be done."""
        return self in ENDS


class Reason(StrEnum):
    """Why a login failed: a closed set."""

    DENIED = "denied"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    PROTOCOL = "protocol"
    UNREACHABLE = "unreachable"
    WRONG_APPROVER = "wrong_approver"
    OUTCOME_UNKNOWN = "outcome_unknown"


Trigger = Literal[
    "issue_code",
    "poll",
    "pending",
    "slow_down",
    "retry",
    "recover",
    "grant",
    "late_grant",
    "expire",
    "deny",
    "fail",
    "cancel",
]
TRIGGERS: Final[tuple[Trigger, ...]] = get_args(Trigger)

INIT, AWAITING_USER, POLLING, AUTHORIZED, EXPIRED, FAILED = State
ENDS: Final = frozenset({AUTHORIZED, EXPIRED, FAILED})


class HasState(Protocol):
    """What the machine needs of a flow."""

    id: str
    state: State
    reason: Reason | None


def takes_late_token(flow: HasState) -> bool:
    """Tell whether a token may still be taken: not once somebody said no, or gave up."""
    return flow.reason not in (Reason.DENIED, Reason.CANCELLED)


class Row(NamedTuple):
    """One row of the table: `trigger` leads from each of `sources` to `dest`."""

    trigger: Trigger
    sources: tuple[State, ...]
    dest: State
    meaning: str
    condition: Callable[[HasState], bool] | None = None


TABLE: Final[tuple[Row, ...]] = (
    Row("issue_code", (INIT,), AWAITING_USER, "a device code was issued, or adopted"),
    Row("poll", (AWAITING_USER,), POLLING, "a token request is about to be sent"),
    Row("pending", (POLLING,), AWAITING_USER, "not approved yet"),
    Row("slow_down", (POLLING,), AWAITING_USER, "polled too fast: the interval grows for good"),
    Row("retry", (INIT,), INIT, "no usable answer: back off"),
    Row("retry", (POLLING,), AWAITING_USER, "no usable answer: back off, keep the code"),
    Row("recover", (POLLING,), AWAITING_USER, "the process that polled died: outcome in doubt"),
    Row("grant", (POLLING,), AUTHORIZED, "the server issued a token"),
    Row(
        "late_grant",
        (AWAITING_USER, POLLING, EXPIRED, FAILED),
        AUTHORIZED,
        "a stalled worker brings a token; not after denied or cancelled",
        takes_late_token,
    ),
    Row("expire", (AWAITING_USER, POLLING), EXPIRED, "the code's lifetime is over"),
    Row("deny", (POLLING,), FAILED, "the person said no"),
    Row("fail", (INIT, AWAITING_USER, POLLING), FAILED, "the server refused for good"),
    Row("cancel", (INIT, AWAITING_USER, POLLING), FAILED, "the program or its owner gave up"),
)


LEADS_TO: Final = {(row.trigger, source): row.dest for row in TABLE for source in row.sources}
"""The same, to look up: where a trigger leads from a state."""


def _condition(test: Callable[[HasState], bool]) -> Callable[[EventData], bool]:
    return lambda event: test(cast("HasState", event.model))


class _QuietState(transitions.State):
    """A state that has no callbacks, and does not log at INFO that it has run none."""

    def enter(self, event_data: EventData) -> None:
        """Do nothing."""

    def exit(self, event_data: EventData) -> None:
        """Do nothing."""


class _Machine(Machine):
    state_cls = _QuietState


_MACHINE: Final = _Machine(
    model=None,
    states=State,
    initial=INIT,
    transitions=[
        {
            "trigger": row.trigger,
            "source": list(row.sources),
            "dest": row.dest,
            "conditions": [_condition(row.condition)] if row.condition else [],
        }
        for row in TABLE
    ],
    auto_transitions=False,
    send_event=True,
)


def fire(flow: HasState, trigger: Trigger) -> None:
    """Move `flow` along the table by `trigger`.

    Raises:
        IllegalTransitionError: The table has no such transition from the flow's state, or its
            condition does not hold. The flow is as it was.
    """
    try:
        happened = _MACHINE.events[trigger].trigger(flow)
    except MachineError:
        happened = False
    if not happened:
        raise refusal(flow, trigger)


def refusal(flow: HasState, action: str) -> IllegalTransitionError:
    """Return the error for what cannot happen to a flow in its state."""
    return IllegalTransitionError(
        f"A flow that is {flow.state} cannot {action.replace('_', ' ')}.",
        flow_id=flow.id,
        state=flow.state,
        reason=flow.reason,
        trigger=action,
    )
