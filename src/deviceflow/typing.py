"""The types of the public signatures: protocols to implement, and values that come back.

Protocols, which a program may implement for itself: `Store` keeps logins, `Transport` sends
requests, `Clock` tells the time, `Provider` speaks a server's dialect, `Approver` decides on who
approved, `OnTransition` is told of each transition. `AsyncStore`, `AsyncTransport` and `AsyncClock`
are the same for an `AsyncClient`.

Values: everything else. None of them needs to be made by a program, except `Origin`, which a client
takes; `Response` and `Failure`, which a transport returns; `DeviceCode` and `Answer`, which a
provider returns; and `Claim` and `LeaseHeld`, which a store returns.
"""

from __future__ import annotations

from deviceflow.audit.log import OnTransition
from deviceflow.client.purge import Purged
from deviceflow.client.sweep import Swept
from deviceflow.core.flow import Flow, Transition
from deviceflow.core.login import Login
from deviceflow.core.ports import (
    AsyncClock,
    AsyncStore,
    AsyncTransport,
    Claim,
    Clock,
    LeaseHeld,
    Origin,
    Store,
    StoredFlow,
    StoreEvent,
    Transport,
)
from deviceflow.core.provider import Answer, Approver, DeviceCode, LoginRequest, Provider, Token
from deviceflow.core.secret import Secret
from deviceflow.core.states import Reason, State
from deviceflow.core.wire import Failure, Fields, Request, Response

__all__ = [
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
    "LeaseHeld",
    "Login",
    "LoginRequest",
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
    "Swept",
    "Token",
    "Transition",
    "Transport",
]
