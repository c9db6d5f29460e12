"""The states of a login and of the hand-over of its token. No rule is here, and no machine."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Protocol


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


class Handover(StrEnum):
    """How far the token of a login is handed over."""

    NONE = "none"
    READY = "ready"
    COLLECTED = "collected"
    ACKNOWLEDGED = "acknowledged"
    PURGED = "purged"

    @property
    def token_kept(self) -> bool:
        """Whether the token is still kept here."""
        return self in KEPT


class Reason(StrEnum):
    """Why a login failed: a closed set."""

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
    """What the machines need of a flow."""

    id: str
    state: State
    handover: Handover
    reason: Reason | None
