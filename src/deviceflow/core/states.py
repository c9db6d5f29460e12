"""The states of a login and of the hand-over of its token. Rules and machines are elsewhere."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Protocol


class State(StrEnum):
    """The state of a login."""

    INIT = "init"
    AWAITING_USER = "awaiting-user"
    POLLING = "polling"
    AUTHORIZED = "authorized"
    EXPIRED = "expired"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether the login has ended."""
        return self in ENDS


class Handover(StrEnum):
    """The state of the hand-over of a login's token."""

    NONE = "none"
    READY = "ready"
    COLLECTED = "collected"
    ACKNOWLEDGED = "acknowledged"
    PURGED = "purged"

    @property
    def token_kept(self) -> bool:
        """Whether the store still has the token."""
        return self in KEPT


class Reason(StrEnum):
    """Why a login failed. The set is closed."""

    DENIED = "denied"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    PROTOCOL = "protocol"
    UNREACHABLE = "unreachable"
    WRONG_APPROVER = "wrong_approver"
    OUTCOME_UNKNOWN = "outcome_unknown"


INIT, AWAITING_USER, POLLING, AUTHORIZED, EXPIRED, FAILED = State
ENDS: Final = frozenset({AUTHORIZED, EXPIRED, FAILED})

NONE, READY, COLLECTED, ACKNOWLEDGED, PURGED = Handover
KEPT: Final = frozenset({READY, COLLECTED})


class HasState(Protocol):
    """The part of a flow that the machines use."""

    id: str
    state: State
    handover: Handover
    reason: Reason | None
