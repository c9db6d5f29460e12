"""The states of a login, of the hand-over of its token, and of a grant. Rules are elsewhere."""

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


class GrantState(StrEnum):
    """The state of a grant: whether it gives tokens."""

    WANTED = "wanted"
    ACTIVE = "active"
    REFRESHING = "refreshing"
    IN_DOUBT = "in-doubt"
    LOST = "lost"
    REVOKED = "revoked"

    @property
    def gives_tokens(self) -> bool:
        """Whether the grant has tokens. Without them, a person must log in."""
        return self in GIVING


class Loss(StrEnum):
    """Why a grant gives no tokens any more. The set is closed."""

    REFUSED = "refused"
    UNKNOWN = "refresh_unknown"
    LAPSED = "lapsed"
    INVALIDATED = "invalidated"
    WRONG_SUBJECT = "wrong_subject"


class NeedEnd(StrEnum):
    """Why a need, or an outage, ended. The set is closed."""

    LOGGED_IN = "logged_in"
    LATE_ANSWER = "late_answer"
    LOGGED_OUT = "logged_out"
    ANSWERED = "answered"


INIT, AWAITING_USER, POLLING, AUTHORIZED, EXPIRED, FAILED = State
ENDS: Final = frozenset({AUTHORIZED, EXPIRED, FAILED})

NONE, READY, COLLECTED, ACKNOWLEDGED, PURGED = Handover
KEPT: Final = frozenset({READY, COLLECTED})


WANTED, ACTIVE, REFRESHING, IN_DOUBT, LOST, REVOKED = GrantState
GIVING: Final = frozenset({ACTIVE, REFRESHING, IN_DOUBT})


class HasState(Protocol):
    """The part of a flow that the machines use."""

    id: str
    state: State
    handover: Handover
    reason: Reason | None


class HasGrantState(Protocol):
    """The part of a grant that its machine uses."""

    id: str
    state: GrantState
    reason: Loss | None
