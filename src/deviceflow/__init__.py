"""Logs programs in by the OAuth device grant, as a state machine that is stepped and audited.

The names below are loaded on first use: importing this package costs next to nothing.
"""

from __future__ import annotations

from deviceflow._version import __version__ as __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from deviceflow.client._sync import Client as Client
    from deviceflow.client.clock import Clock as Clock
    from deviceflow.client.clock import SystemClock as SystemClock
    from deviceflow.client.step import Step as Step
    from deviceflow.core.flow import Flow as Flow
    from deviceflow.core.machine import Reason as Reason
    from deviceflow.core.machine import State as State
    from deviceflow.core.provider import Token as Token
    from deviceflow.core.secret import Secret as Secret
    from deviceflow.errors import DeniedError as DeniedError
    from deviceflow.errors import DeviceFlowError as DeviceFlowError
    from deviceflow.errors import ExpiredError as ExpiredError
    from deviceflow.errors import FlowBusyError as FlowBusyError
    from deviceflow.errors import IllegalTransitionError as IllegalTransitionError
    from deviceflow.errors import InsecureURLError as InsecureURLError
    from deviceflow.errors import LoginCancelledError as LoginCancelledError
    from deviceflow.errors import LoginError as LoginError
    from deviceflow.errors import OutcomeUnknownError as OutcomeUnknownError
    from deviceflow.errors import ProtocolError as ProtocolError
    from deviceflow.errors import RejectedError as RejectedError
    from deviceflow.errors import SealError as SealError
    from deviceflow.errors import ServerError as ServerError
    from deviceflow.errors import StoreError as StoreError
    from deviceflow.errors import TokenGoneError as TokenGoneError
    from deviceflow.errors import UnknownFlowError as UnknownFlowError
    from deviceflow.errors import UnreachableError as UnreachableError
    from deviceflow.errors import UsageError as UsageError
    from deviceflow.errors import WaitTimeoutError as WaitTimeoutError
    from deviceflow.errors import WrongApproverError as WrongApproverError
    from deviceflow.integrations.requests import DeviceFlowAuth as DeviceFlowAuth
    from deviceflow.providers.known import provider as provider
    from deviceflow.providers.oauth import OAuth as OAuth
    from deviceflow.providers.studio import Studio as Studio
    from deviceflow.stores.memory import MemoryStore as MemoryStore
    from deviceflow.stores.postgres import PostgresStore as PostgresStore
    from deviceflow.stores.sqlite import SQLiteStore as SQLiteStore
    from deviceflow.stores.url import open_store as open_store

_HOMES = {
    "client._sync": ("Client",),
    "client.clock": ("Clock", "SystemClock"),
    "errors": (
        "LoginCancelledError",
        "DeniedError",
        "DeviceFlowError",
        "ExpiredError",
        "FlowBusyError",
        "IllegalTransitionError",
        "InsecureURLError",
        "LoginError",
        "OutcomeUnknownError",
        "ProtocolError",
        "RejectedError",
        "SealError",
        "ServerError",
        "StoreError",
        "TokenGoneError",
        "UnknownFlowError",
        "UnreachableError",
        "UsageError",
        "WaitTimeoutError",
        "WrongApproverError",
    ),
    "core.flow": ("Flow",),
    "integrations.requests": ("DeviceFlowAuth",),
    "core.machine": ("Reason", "State"),
    "core.provider": ("Token",),
    "providers.known": ("provider",),
    "providers.oauth": ("OAuth",),
    "providers.studio": ("Studio",),
    "core.secret": ("Secret",),
    "client.step": ("Step",),
    "stores.url": ("open_store",),
    "stores.memory": ("MemoryStore",),
    "stores.postgres": ("PostgresStore",),
    "stores.sqlite": ("SQLiteStore",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME_OF]  # noqa: PLE0604  # they are texts


if not TYPE_CHECKING:  # or a type checker would take any name for one that is there

    def __getattr__(name: str) -> object:
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module  # noqa: PLC0415  # costs, so not before it is needed

        value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
