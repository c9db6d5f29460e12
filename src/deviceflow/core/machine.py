"""The state machines of a login, of its token's hand-over, and of a grant, run by `transitions`.

All are built from the table in `deviceflow.core.actions`, which alone decides what is allowed. The
login's machine checks every action, even one that does not change the state, and also checks the
state of the hand-over. So the hand-over's machine, which is triggered second, cannot refuse.

The process has one object of each machine. A flow is any object with the states. It is never
registered with a machine, so a waiting flow costs only the memory of its record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from transitions import EventData, Machine, MachineError

from deviceflow.core.actions import ACTIONS, HANDOVER_TRIGGERS, Kind
from deviceflow.core.states import INIT, NONE, WANTED
from deviceflow.errors import IllegalTransitionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from enum import StrEnum

    from deviceflow.core.actions import Action
    from deviceflow.core.states import HasGrantState, HasState


def _machine(attribute: str, initial: StrEnum, moves: list[dict[str, Any]]) -> Machine:
    return Machine(
        model=None,
        model_attribute=attribute,
        states=type(initial),
        initial=initial,
        transitions=moves,
        auto_transitions=False,
        send_event=True,
    )


def _guard(action: Action) -> Callable[[EventData], bool]:
    """Return the condition of an action on the hand-over's state and on the flow."""
    handover, condition = action.handover, action.condition
    if condition is None:
        return lambda event: cast("HasState", event.model).handover in handover
    return lambda event: action.allowed(cast("HasState", event.model))


def _login() -> Iterator[dict[str, Any]]:
    for action in ACTIONS.values():
        for source, dest in action.login.items():
            # An action that does not change the login's state is an internal transition.
            leads = dest if action.kind is Kind.LOGIN else None
            guard = _guard(action)
            yield {"trigger": action.name, "source": source, "dest": leads, "conditions": guard}


def _handover() -> Iterator[dict[str, Any]]:
    for action in HANDOVER_TRIGGERS:
        for source, dest in action.handover.items():
            yield {"trigger": action.name, "source": source, "dest": dest}


def _grant() -> Iterator[dict[str, Any]]:
    for action in ACTIONS.values():
        for source, dest in action.grant.items():
            leads = None if source is dest else dest
            yield {"trigger": action.name, "source": source, "dest": leads}


_LOGIN: Final = _machine("state", INIT, [*_login()])
_HANDOVER: Final = _machine("handover", NONE, [*_handover()])
_GRANT: Final = _machine("state", WANTED, [*_grant()])


def fire(flow: HasState, action: Action) -> None:
    """Fire an action on a flow: change its states as the table says.

    Raises:
        IllegalTransitionError: The table does not allow the action in the flow's states, or its
            condition does not hold. The flow is unchanged.
    """
    if not _trigger(_LOGIN, flow, action):
        raise refusal(flow, action)
    if action in _HANDOVER.events:
        _trigger(_HANDOVER, flow, action)


def fire_grant(grant: HasGrantState, action: Action) -> None:
    """Fire an action on a grant: change its state as the table says.

    Raises:
        IllegalTransitionError: The table does not allow the action in the grant's state. The grant
            is unchanged.
    """
    if not _trigger(_GRANT, grant, action):
        raise grant_refusal(grant, action)


def _trigger(machine: Machine, model: object, action: Action) -> bool:
    """Trigger an action on an object that is not registered with the machine.

    Returns:
        Whether the table allows it, and its condition holds.
    """
    event = machine.events.get(action)
    try:
        return event is not None and event.trigger(model)
    except MachineError:  # the action leads nowhere from the object's state
        return False


def grant_refusal(grant: HasGrantState, action: str) -> IllegalTransitionError:
    """Return the error for an action that is not allowed in the grant's state."""
    return IllegalTransitionError(
        f"The action {action.replace('_', ' ')!r} is not allowed: the grant is {grant.state}.",
        flow_id=grant.id,
        state=grant.state,
        reason=grant.reason,
        trigger=str(action),
    )


def refusal(flow: HasState, action: str) -> IllegalTransitionError:
    """Return the error for an action that is not allowed in the flow's states."""
    token = f" and its token {flow.handover}" if flow.handover is not NONE else ""
    return IllegalTransitionError(
        f"The action {action.replace('_', ' ')!r} is not allowed: the login is"
        f" {flow.state}{token}.",
        flow_id=flow.id,
        state=flow.state,
        reason=flow.reason,
        trigger=str(action),
    )
