"""The changes of a login, as JSON objects on stdout, one a line: `--json-events`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deviceflow.audit.events import text_of
from deviceflow.cli import exits, streams
from deviceflow.core.explain import error_of
from deviceflow.core.states import Reason, State
from deviceflow.errors import WaitTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deviceflow.core.login import Login
    from deviceflow.errors import DeviceFlowError

_CODE: Final = (
    "user_code",
    "verification_uri",
    "verification_uri_complete",
    "expires_at",
    "interval",
    "purpose",
)
_WITHOUT_TOKEN: Final = ("denied", "expired", "failed")
_PROGRAM: Final = "deviceflow"


class Changes:
    """Prints one object for each change of a login that a command waits for.

    Args:
        go_on: Returns the arguments that continue the login; None if nothing can.
        until_saved: Whether an authorized login is still to be continued, since its token is not
            saved yet.

    Attributes:
        login: The login as it was last told of; None before.
    """

    def __init__(
        self, go_on: Callable[[Login], list[str] | None], *, until_saved: bool = False
    ) -> None:
        self._go_on = go_on
        self._until_saved = until_saved
        self._code: str | None = None
        self.login: Login | None = None
        self._said: tuple[str, float, int] | None = None

    def begin(self, login: Login) -> None:
        """Print the code, if there is one to enter and it was not printed before."""
        if login.user_code and not login.state.ended and login.user_code != self._code:
            self._code = login.user_code
            code = {name: getattr(login, name) for name in _CODE}
            self._show("code", login, code | {"issuer": login.provider.server})
        if self.login is None:
            self.login = login

    def step(self, login: Login) -> None:
        """Print what a step has changed, if anything."""
        self.begin(login)
        name = change(self.login or login, login)
        self.login = login
        said = name, login.interval, login.failures
        if said != self._said:
            self._said = said
            failed = login.state in (State.EXPIRED, State.FAILED)
            self._show(name, login, _failure(error_of(login)) if failed else {})

    def result(self, login: Login, facts: dict[str, Any]) -> None:
        """Print where the token was saved, or with an `error` among the facts, that it was not."""
        self._until_saved = "error" in facts
        if "error" in facts:
            self._show("error", login, {"reason": "not_saved"} | facts)
        else:
            self._show("saved", login, facts)

    def error(self, error: DeviceFlowError, login: Login) -> None:
        """Print an error, unless it only says how the login ended, which was printed."""
        if self._said is None or self._said[0] not in _WITHOUT_TOKEN:
            name = "timeout" if isinstance(error, WaitTimeoutError) else "error"
            self._show(name, login, _failure(error))

    def _show(self, name: str, login: Login, facts: dict[str, Any]) -> None:
        over = login.state.ended and not (self._until_saved and login.has_token)
        about = {
            "flow_id": login.id,
            "state": login.state,
            "reason": login.reason,
            "wait_seconds": login.wait_seconds,
            "resume": None if over else self._go_on(login),
        }
        show(name, about | facts)


def _failure(error: DeviceFlowError) -> dict[str, Any]:
    return {"error": str(error), "reason": exits.reason(error)}


def change(before: Login, login: Login) -> str:
    """Return the name of the change between two snapshots of a login, before and after a step."""
    if login.state.ended:
        return "denied" if login.reason is Reason.DENIED else str(login.state)
    if before.user_code and login.interval > before.interval:
        return "slow_down"
    return "retry" if login.failures else "waiting"


def show(name: str, facts: dict[str, Any]) -> None:
    """Print an object.

    Args:
        name: The name of the change.
        facts: The other fields.
    """
    about = {"event": name, "time": text_of(time.time())} | _EMPTY | {"resume": None}
    streams.show(json.dumps(about | facts))


def encoded(facts: dict[str, Any]) -> str:
    """Return the object of `--json` for an error that is not about a login."""
    return json.dumps(_EMPTY | facts)


_EMPTY: Final = dict.fromkeys(("flow_id", "state", "reason", "wait_seconds"))


def program() -> list[str]:
    """Return the arguments that run this program once more."""
    name = Path(sys.argv[0]).name
    if name == "__main__.py":
        return [sys.executable, "-m", _PROGRAM]
    return [sys.argv[0]] if name.startswith(_PROGRAM) else [_PROGRAM]


def options(args: object, names: Sequence[str]) -> list[str]:
    """Return the options that were given, of these names, as arguments."""
    found = []
    for name in names:
        value = getattr(args, name, None)
        option = f"--{name.replace('_', '-')}"
        if value is True:
            found.append(option)
        elif value is not None and value is not False:
            found += [option, f"{value:g}" if isinstance(value, float) else str(value)]
    return found


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the objects."""
    from importlib.resources import files

    text = files("deviceflow.cli").joinpath("changes.schema.json").read_text("utf-8")
    read: dict[str, Any] = json.loads(text)
    return read
