"""The types of the public signatures: protocols to implement, and values that calls return.

A program may implement the protocols. A `Store` keeps logins, a `Transport` sends requests, a
`Clock` tells the time, a `Provider` speaks a server's dialect, an `Approver` decides whether the
approver is accepted, and `OnTransition` is called for each transition. `AsyncStore`,
`AsyncTransport` and `AsyncClock` are the same for an `AsyncClient`.

All other types are values. A program creates an `Origin` for a client. Your own transport creates
`Response` and `Failure`, your own provider `DeviceCode` and `Answer`, and your own store `Claim`,
`LeaseHeld`, `Stored`, `Page`, `Unreadable` and `Use`. deviceflow creates all other values.
"""

from __future__ import annotations

from deviceflow.audit.log import OnTransition
from deviceflow.client.grant_check import GrantCheck
from deviceflow.client.grant_end import SweptGrants
from deviceflow.client.purge import Purged
from deviceflow.client.sweep import Swept
from deviceflow.core.access_token import AccessToken
from deviceflow.core.flow import Flow, Transition
from deviceflow.core.grant import Grant
from deviceflow.core.grant_view import GrantView
from deviceflow.core.login import Login
from deviceflow.core.notice import LoginNeed
from deviceflow.core.ports import (
    AsyncClock,
    AsyncStore,
    AsyncTransport,
    Claim,
    Clock,
    GrantLease,
    LeaseHeld,
    Moment,
    Origin,
    Page,
    Store,
    Stored,
    StoredFlow,
    StoreEvent,
    Transport,
    Unreadable,
    UpcomingFlow,
)
from deviceflow.core.provider import Answer, Approver, DeviceCode, LoginRequest, Provider, Token
from deviceflow.core.queries import Query
from deviceflow.core.secret import Secret
from deviceflow.core.states import GrantState, Loss, Reason, State
from deviceflow.core.uses import Use
from deviceflow.core.wire import Failure, Fields, Request, Response

__all__ = [
    "AccessToken",
    "Answer",
    "Approver",
    "AsyncClock",
    "AsyncStore",
    "AsyncTransport",
    "Claim",
    "Clock",
    "DeviceCode",
    "Failure",
    "Fields",
    "Flow",
    "Grant",
    "GrantCheck",
    "GrantLease",
    "GrantState",
    "GrantView",
    "LeaseHeld",
    "Login",
    "LoginNeed",
    "LoginRequest",
    "Loss",
    "Moment",
    "OnTransition",
    "Origin",
    "Page",
    "Provider",
    "Purged",
    "Query",
    "Reason",
    "Request",
    "Response",
    "Secret",
    "State",
    "Store",
    "StoreEvent",
    "Stored",
    "StoredFlow",
    "Swept",
    "SweptGrants",
    "Token",
    "Transition",
    "Transport",
    "Unreadable",
    "UpcomingFlow",
    "Use",
]
