"""The state machines of a login, of its token's hand-over, and of a grant, run by `transitions`.

All are built from the table in `deviceflow.core.actions`, which alone decides what is allowed. The
login's machine checks every action, even one that does not change the state, and also checks the
state of the hand-over. So the hand-over's machine, which is triggered second, cannot refuse.

The process has one object of each machine. A flow is any object with the states. It is never
registered with a machine, so a waiting flow costs only the memory of its record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import transitions
from transitions import EventData, Machine

from deviceflow.core.actions import ACTIONS, HANDOVER_TRIGGERS, Kind
from deviceflow.core.states import INIT, NONE, WANTED
from deviceflow.errors import IllegalTransitionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from enum import StrEnum

    from deviceflow.core.actions import Action
    from deviceflow.core.states import HasGrantState, HasState


# What follows does for machines without callbacks and without a queue what `transitions` does in
# general. Each step of each login goes through it: `transitions` would look for callbacks, log that
# it did, and look each state up several times, at six times the cost.


class _Transition(transitions.Transition):
    """A transition without callbacks."""

    def execute(self, event_data: EventData) -> bool:
        """Change the model's state if the conditions hold, and return whether they do."""
        for condition in self.conditions:
            holds: Any = condition.func  # never a method's name here
            if not holds(event_data):
                return False
        if self.dest:
            machine = event_data.machine
            setattr(event_data.model, machine.model_attribute, machine.states[self.dest].value)
        return True


class _Event(transitions.Event):
    """A trigger that refuses, instead of raising, where it leads nowhere from a state."""

    def trigger(self, model: Any, *args: Any, **kwargs: Any) -> bool:
        """Execute the first transition from the model's state whose conditions hold.

        Returns:
            Whether there is one.
        """
        machine = self.machine
        found = self.transitions.get(getattr(model, machine.model_attribute)._name_)
        if found is None:
            return False
        event_data = EventData(None, self, machine, model, args, kwargs)
        for transition in found:  # noqa: SIM110  # `any` takes twice as long
            if transition.execute(event_data):
                return True
        return False


class _Machine(Machine):
    transition_cls = _Transition
    event_cls = _Event


def _machine(attribute: str, initial: StrEnum, moves: list[dict[str, Any]]) -> _Machine:
    return _Machine(
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
    event = _LOGIN.events.get(action)
    if event is None or not event.trigger(flow):
        raise refusal(flow, action)
    if (event := _HANDOVER.events.get(action)) is not None:
        event.trigger(flow)


def fire_grant(grant: HasGrantState, action: Action) -> None:
    """Fire an action on a grant: change its state as the table says.

    Raises:
        IllegalTransitionError: The table does not allow the action in the grant's state. The grant
            is unchanged.
    """
    event = _GRANT.events.get(action)
    if event is None or not event.trigger(grant):
        raise grant_refusal(grant, action)


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
