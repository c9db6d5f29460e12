"""No traceback shows, with local variables, what a public function was given as a secret or URL.

Which functions take one is read from what is public, by the names of their parameters, so a new
function is called here as well. It is stopped at each call that it makes, and rendered there.
"""

from __future__ import annotations

import inspect
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import deviceflow
from deviceflow import Client, OAuth
from deviceflow.core import secret
from deviceflow.stores.memory import MemoryStore
from tests import public

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

SOURCE: Final = str(Path(deviceflow.__file__).parent)
WRAPS: Final = secret.__file__
"""Here secrets are wrapped; it calls nothing that could fail."""

CANARY: Final = "CANARY5f8Kq2Wz"
URL: Final = f"postgresql://user:{CANARY}@127.0.0.1:1/none"
GIVEN: Final[dict[str, Any]] = {
    "keys": [CANARY],
    "refresh_token": CANARY,
    "client_secret": CANARY,
    "private_key": CANARY,
    "password": CANARY,
}
"""Parameters that carry secrets as texts, with a value for each."""

OF_A_STORE: Final = ("open_store", "open_async_store", "PostgresStore", "AsyncPostgresStore")
BY_FUNCTION: Final[dict[str, dict[str, Any]]] = {
    **{name: {"url": URL, "keys": [CANARY]} for name in OF_A_STORE},
    "Client": {"store": URL},
    "AsyncClient": {"store": URL},
    "NotifyURL": {"url": f"ftp://hooks.example.com/{CANARY}"},
    "invalidate": {"token": CANARY},
    "notifier": {"setting": f"https://hooks.example.com/{CANARY}"},
}
"""What has a name that elsewhere means no secret."""

OAUTH: Final = OAuth(
    client_id="robot",
    device_authorization_endpoint="https://as.example.com/code",
    token_endpoint="https://as.example.com/token",
)
OTHERS: Final[dict[str, Any]] = {
    "name": "nightly",
    "flow_id": "f1",
    "client_id": "robot",
    "provider": OAUTH,
    "text": "df1.x",
    "flow": deviceflow.core.flow.Flow("f1", OAUTH, 0.0),
    "path": "/nowhere/x",
    "token_endpoint": "https://as.example.com/token",
    "entry": "github",
}


def _callables() -> Iterator[tuple[str, Any, Any]]:
    """Yield what is public and can be called, each with the class that it is a method of."""
    known = {one.path: one for one in public.documented()}
    for module in public.WHOLE:
        for name in public.own_names(module):
            known.setdefault(f"{module}.{name}", public.Documented(f"{module}.{name}", None))
    for path, one in known.items():
        if inspect.isfunction(one.value):
            yield path, one.value, None
        elif inspect.isclass(one.value) and one.value.__module__.startswith("deviceflow"):
            yield path, one.value, None
            for name, member in public._members(one.value, one.members):
                if inspect.isfunction(member):
                    yield f"{path}.{name}", member, one.value


def _given(path: str, function: Any) -> dict[str, Any]:
    """Return what a function takes that may be a secret."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    own = BY_FUNCTION.get(path.rpartition(".")[2], {})
    texts = {name for name, one in parameters.items() if "str" in str(one.annotation)}
    return {name: GIVEN[name] for name in texts & GIVEN.keys()} | own


CALLS: Final = {
    path: (function, owner, given)
    for path, function, owner in _callables()
    if (given := _given(path, function)) and owner in (None, Client)
}


def _call(path: str) -> None:
    function, owner, given = CALLS[path]
    arguments = dict(given)
    for name, one in inspect.signature(function).parameters.items():
        if one.default is one.empty and name in OTHERS and name not in arguments:
            arguments[name] = OTHERS[name]
    if owner is None:
        function(**arguments)
    else:
        getattr(Client(MemoryStore()), path.rpartition(".")[2])(**arguments)


def _stopped_at(number: int, call: Callable[[], None]) -> tuple[BaseException | None, bool]:
    """Return what came out, and whether the call of that number was reached, and stopped."""
    left = number

    def stop(frame: FrameType, event: str, _: object) -> None:
        nonlocal left
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(SOURCE) and file != WRAPS:
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

    sys.setprofile(stop)
    try:
        call()
    except BaseException as error:  # noqa: BLE001
        return error, left <= 0
    finally:
        sys.setprofile(None)
    return None, left <= 0


def _shown(error: BaseException) -> list[str]:
    """Return the frames of ours that show the canary; not that of the call that was stopped."""
    try:
        trace = traceback.TracebackException.from_exception(error, capture_locals=True)
    except AttributeError:  # an object that was stopped in its making has no repr
        return []
    return [
        f"{frame.name}: {name} = {value}"
        for frame in trace.stack
        if frame.filename.startswith(SOURCE)
        for name, value in (frame.locals or {}).items()
        if CANARY in value
    ] + [line for line in trace.format_exception_only() if CANARY in line]


def test_functions_that_take_secrets_are_found() -> None:
    found = {path.rpartition(".")[2] for path in CALLS}

    assert {*BY_FUNCTION} - {"notifier", "open_async_store"} <= found
    assert {"SQLiteStore", "adopt_grant", "export_login", "import_login", "OAuth"} <= found


@pytest.mark.parametrize("path", CALLS)
def test_no_traceback_of_a_public_function_shows_its_secret(path: str) -> None:
    shown, number = [], 1
    while number < 40:
        error, stopped = _stopped_at(number + 1, lambda: _call(path))
        shown += [] if error is None else _shown(error)
        if not stopped:
            break
        number += 1

    assert shown == []
