"""The store that the commands share, and their output about a login."""

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
from deviceflow.stores.url import VARIABLE, open_async_store, open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.cli.options import StoreOptions
    from deviceflow.core.login import Login
    from deviceflow.core.ports import AsyncStore, Store

# Where libpq reads a password: in the authority, among the parameters, or in a conninfo string.
_PASSWORD: Final = re.compile(r"://[^/?#@]*:[^/?#@]*@|password\s*=", re.IGNORECASE)
_CODES: Final = {
    State.AUTHORIZED: exits.AUTHORIZED,
    State.EXPIRED: exits.EXPIRED,
    State.FAILED: exits.FAILED,
}


_opened: Final = ExitStack()


def store(args: StoreOptions, **options: Any) -> Store:
    """Open the store that the arguments or the environment name, else the user's store.

    Args:
        args: The arguments.
        **options: Further arguments of the store's class.

    Raises:
        UsageError: The URL is invalid, or contains a password.
        StoreError: The store cannot be used.
        ImportError: A library is missing.
    """
    kept = open_store(args.store, **_options(args), **options)
    _opened.callback(kept.close)
    return kept


def async_store(args: StoreOptions) -> AsyncStore:
    """Return the same store for asyncio, which is the caller's to close. Logins must survive.

    Raises:
        DeviceFlowError: The store is in memory, or as for `store`.
    """
    kept = open_async_store(args.store, **_options(args))
    _check_durable(kept)
    return kept


def _options(args: StoreOptions) -> dict[str, Any]:
    if args.store and _PASSWORD.search(args.store):
        raise UsageError(
            "The store's URL contains a password, and other users of this machine can see command"
            " line arguments.",
            hint=f"Put the password into ~/.pgpass or PGPASSWORD, or the URL into {VARIABLE}.",
        )
    options: dict[str, Any] = {"plaintext": True} if args.plaintext else {}
    return options | ({"trail": args.trail} if args.trail else {})


def client(args: StoreOptions) -> Client:
    """Return a client that uses the store. The logins must survive this command.

    Raises:
        DeviceFlowError: The store is in memory, or as for `store`.
    """
    kept = store(args)
    _check_durable(kept)
    return Client(kept)


def _check_durable(kept: Store | AsyncStore) -> None:
    if not kept.durable:
        raise UsageError(
            "A login in memory would be lost at the end of this command.",
            hint=f"Set --store or {VARIABLE} to another store, or use: deviceflow login",
        )


def facts(login: Login) -> dict[str, Any]:
    """Return the JSON fields of each login."""
    names = ("state", "reason", "wait_seconds")
    return {"flow_id": login.id} | {name: getattr(login, name) for name in names}


def all_facts(login: Login) -> dict[str, Any]:
    """Return all JSON fields of a login."""
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
    """Print the error of a login that cannot be read and is skipped."""
    streams.say(f"deviceflow: {problem}")


def outlived(login: Login) -> bool:
    """Tell whether the code has expired and the login has not ended yet."""
    return not (login.state.ended or login.expires_at is None or login.expires_at > time.time())


def line(login: Login) -> str:
    """Return where a login stands, for a person."""
    text = f"{login.id} {login.state}"
    if login.reason is not None:
        return f"{text}: {login.reason}"
    if login.state.ended:
        return text
    wait = f"call again in {ceil(login.wait_seconds)} seconds" if login.wait_seconds else "due"
    return f"{text}: {wait}"


def code(login: Login) -> int:
    """Return the exit code that says where a login stands."""
    if login.reason is Reason.DENIED:
        return exits.DENIED
    return _CODES.get(login.state, exits.PENDING)


def reporting(work: Callable[[Any], int]) -> Callable[[Any], int]:
    """Wrap a command's function: close the stores that it opened, and report errors as JSON.

    With `--json`, an error is printed as an object on stdout. Without it, the `DeviceFlowError` or
    `ImportError` is raised. An `OutputError` is always raised.
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
    """Return the JSON fields of an error and of the login that it is about."""
    names = ("flow_id", "state", "reason", "wait_seconds")
    facts = {name: getattr(error, name, None) for name in names}
    facts["flow_id"] = facts["flow_id"] or getattr(args, "id", None)
    if isinstance(error, WaitTimeoutError):
        with suppress(DeviceFlowError, ImportError):
            facts["wait_seconds"] = client(args).get(str(error.flow_id)).wait_seconds
    return facts | {"error": str(error)}
