"""The types of the public signatures: protocols to implement, and values that come back.

Protocols, which a program may implement for itself: `Store` keeps logins, `Transport` sends
requests, `Clock` tells the time, `Provider` speaks a server's dialect, `Approver` decides on who
approved, `OnTransition` is told of each transition. `AsyncStore`, `AsyncTransport` and `AsyncClock`
are the same for an `AsyncClient`.

Values: everything else. None of them needs to be made by a program, except `Origin`, which a client
takes; `Response` and `Failure`, which a transport returns; `DeviceCode` and `Answer`, which a
provider returns; and `Claim`, `LeaseHeld` and `StoredGrant`, which a store returns.
"""

from __future__ import annotations

from deviceflow.audit.log import OnTransition
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
    Origin,
    Store,
    StoredFlow,
    StoredGrant,
    StoreEvent,
    Transport,
    UpcomingFlow,
)
from deviceflow.core.provider import Answer, Approver, DeviceCode, LoginRequest, Provider, Token
from deviceflow.core.secret import Secret
from deviceflow.core.states import GrantState, Loss, Reason, State
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
    "GrantLease",
    "GrantState",
    "GrantView",
    "LeaseHeld",
    "Login",
    "LoginNeed",
    "LoginRequest",
    "Loss",
    "OnTransition",
    "Origin",
    "Provider",
    "Purged",
    "Reason",
    "Request",
    "Response",
    "Secret",
    "State",
    "Store",
    "StoreEvent",
    "StoredFlow",
    "StoredGrant",
    "Swept",
    "SweptGrants",
    "Token",
    "Transition",
    "Transport",
    "UpcomingFlow",
]
