"""The store that the commands share, and what they say of a login in it."""

from __future__ import annotations

import json
import re
import time
from contextlib import ExitStack, suppress
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from deviceflow.cli import exits, streams
from deviceflow.client._sync import Client
from deviceflow.core.states import Reason, State
from deviceflow.errors import DeviceFlowError, UsageError, WaitTimeoutError
from deviceflow.stores.url import VARIABLE, open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.cli.options import StoreOptions
    from deviceflow.core.login import Login
    from deviceflow.core.ports import Store

# Where libpq reads one, in the authority or among the parameters; in what is no URL, too.
_PASSWORD: Final = re.compile(r"://[^/?#@]*:[^/?#@]*@|password\s*=", re.IGNORECASE)
_CODES: Final = {
    State.AUTHORIZED: exits.AUTHORIZED,
    State.EXPIRED: exits.EXPIRED,
    State.FAILED: exits.FAILED,
}


_opened: Final = ExitStack()


def store(args: StoreOptions, **options: Any) -> Store:
    """Open the store that the arguments name, or the environment, or the user's own.

    Args:
        args: The arguments.
        **options: What the store's class takes besides.

    Raises:
        UsageError: It cannot be named so.
        StoreError: It cannot be used.
        ImportError: A library is missing.
    """
    if args.store and _PASSWORD.search(args.store):
        raise UsageError(
            "The store's address has a password in it, and arguments are seen by all.",
            hint=f"Put it into ~/.pgpass or PGPASSWORD, or the address into {VARIABLE}.",
        )
    if args.plaintext:
        options["plaintext"] = True
    kept = open_store(args.store, **options)
    _opened.callback(kept.close)
    return kept


def client(args: StoreOptions) -> Client:
    """Return a client whose logins are in that store, and outlive this command.

    Raises:
        DeviceFlowError: They would not; or as for `store`.
    """
    kept = store(args)
    if not kept.durable:
        raise UsageError(
            "A store in memory ends with this command, and the login with it.",
            hint=f"Name another by --store or {VARIABLE}, or do it all in one: deviceflow login",
        )
    return Client(kept)


def facts(login: Login) -> dict[str, Any]:
    """Return what `--json` says of each login."""
    names = ("state", "reason", "wait_seconds")
    return {"flow_id": login.id} | {name: getattr(login, name) for name in names}


def all_facts(login: Login) -> dict[str, Any]:
    """Return what `--json` says of a login where it says all: where to go, whose login it is."""
    return facts(login) | {
        "user_code": login.user_code,
        "verification_uri": login.verification_uri,
        "verification_uri_complete": login.verification_uri_complete,
        "interval": login.interval,
        "created_at": login.created_at,
        "expires_at": login.expires_at,
        "ended_at": login.ended_at,
        "name": login.name,
        "purpose": login.purpose,
        "issuer": login.provider.server,
        "client": login.provider.client_name or login.provider.client_id,
        "detail": login.detail,
        "in_doubt": login.in_doubt,
        "handover": login.handover,
    }


def say_problem(problem: DeviceFlowError) -> None:
    """Tell the person of a login that cannot be read and is passed over."""
    streams.say(f"deviceflow: {problem}")


def outlived(login: Login) -> bool:
    """Tell whether nobody can approve it any more, and it has not ended yet."""
    return not (login.state.ended or login.expires_at is None or login.expires_at > time.time())


def line(login: Login) -> str:
    """Return where a login stands, for a person."""
    said = f"{login.id} {login.state}"
    if login.reason is not None:
        return f"{said}: {login.reason}"
    if login.state.ended:
        return said
    wait = f"call again in {ceil(login.wait_seconds)} seconds" if login.wait_seconds else "due"
    return f"{said}: {wait}"


def code(login: Login) -> int:
    """Return the exit code that says where a login stands."""
    if login.reason is Reason.DENIED:
        return exits.DENIED
    return _CODES.get(login.state, exits.PENDING)


def reporting(work: Callable[[Any], int]) -> Callable[[Any], int]:
    """Return what does a command's work, and closes the stores that it has opened.

    With `--json`, what goes wrong is an object on stdout.

    What is returned raises a `DeviceFlowError` or `ImportError` without `--json`, and an
    `OutputError` where the object cannot be printed.
    """

    def run(args: Any) -> int:
        try:
            return work(args)
        except streams.OutputError:
            raise
        except (DeviceFlowError, ImportError) as error:
            if not getattr(args, "json", False):
                raise
            streams.show(json.dumps(trouble(error, args)))
            return exits.USAGE if isinstance(error, ImportError) else exits.of(error)
        finally:
            _opened.close()

    return run


def trouble(error: DeviceFlowError | ImportError, args: StoreOptions) -> dict[str, Any]:
    """Return what `--json` says of an error, and of the login that it is about."""
    names = ("flow_id", "state", "reason", "wait_seconds")
    said = {name: getattr(error, name, None) for name in names}
    said["flow_id"] = said["flow_id"] or getattr(args, "id", None)
    if isinstance(error, WaitTimeoutError):
        with suppress(DeviceFlowError, ImportError):
            said["wait_seconds"] = client(args).get(str(error.flow_id)).wait_seconds
    return said | {"error": str(error)}
