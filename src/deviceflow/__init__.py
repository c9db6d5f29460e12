"""Logs programs in by the OAuth device grant, as a stored and audited state machine.

This package has the names that most programs need. It loads each of them on first use, so importing
the package is cheap. Import exceptions from `deviceflow.errors`, protocols and value types from
`deviceflow.typing`, stores from `deviceflow.stores`, log pipelines from `deviceflow.logs`, and
parts for tests from `deviceflow.testing`.
"""

from __future__ import annotations

_HOME_OF = {
    "AsyncClient": "client._async",
    "Client": "client._sync",
    "DeniedError": "errors",
    "DeviceFlowAuth": "integrations.requests",
    "DeviceFlowError": "errors",
    "ExpiredError": "errors",
    "Login": "core.login",
    "LoginError": "errors",
    "LoginPending": "errors",
    "OAuth": "providers.oauth",
    "Secret": "core.secret",
    "State": "core.states",
    "Studio": "providers.studio",
    "Token": "core.provider",
    "WaitTimeoutError": "errors",
    "open_store": "stores.url",
    "origin": "audit.origin",
    "provider": "providers.known",
    "__version__": "_version",
}

__all__ = [*_HOME_OF]  # noqa: PLE0604  # they are texts

TYPE_CHECKING = False
if TYPE_CHECKING:  # the same names, for type checkers; a test compares the two
    from deviceflow._version import __version__ as __version__
    from deviceflow.audit.origin import origin as origin
    from deviceflow.client._async import AsyncClient as AsyncClient
    from deviceflow.client._sync import Client as Client
    from deviceflow.core.login import Login as Login
    from deviceflow.core.provider import Token as Token
    from deviceflow.core.secret import Secret as Secret
    from deviceflow.core.states import State as State
    from deviceflow.errors import DeniedError as DeniedError
    from deviceflow.errors import DeviceFlowError as DeviceFlowError
    from deviceflow.errors import ExpiredError as ExpiredError
    from deviceflow.errors import LoginError as LoginError
    from deviceflow.errors import LoginPending as LoginPending
    from deviceflow.errors import WaitTimeoutError as WaitTimeoutError
    from deviceflow.integrations.requests import DeviceFlowAuth as DeviceFlowAuth
    from deviceflow.providers.known import provider as provider
    from deviceflow.providers.oauth import OAuth as OAuth
    from deviceflow.providers.studio import Studio as Studio
    from deviceflow.stores.url import open_store as open_store
else:  # a type checker would take any name for one that is there

    def __getattr__(name: str) -> object:
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module  # noqa: PLC0415  # costs, so not before it is needed

        value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
