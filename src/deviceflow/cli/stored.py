"""The store that the commands share, and what they say of a flow in it."""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from deviceflow.cli import exits, streams
from deviceflow.client._sync import Client
from deviceflow.client.step import Step
from deviceflow.core.states import Reason, State
from deviceflow.errors import DeviceFlowError, UsageError, WaitTimeoutError
from deviceflow.stores.url import VARIABLE, open_store

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from deviceflow.core.flow import Flow
    from deviceflow.core.ports import Store

# Where libpq reads one, in the authority or among the parameters; in what is no URL, too.
_PASSWORD: Final = re.compile(r"://[^/?#@]*:[^/?#@]*@|password\s*=", re.IGNORECASE)
_CODES: Final = {
    State.AUTHORIZED: exits.AUTHORIZED,
    State.EXPIRED: exits.EXPIRED,
    State.FAILED: exits.FAILED,
}


def store(args: Namespace, **options: Any) -> Store:
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
    return open_store(args.store, **options)


def client(args: Namespace) -> Client:
    """Return a client whose flows are in that store, and outlive this command.

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


def facts(done: Step) -> dict[str, Any]:
    """Return what `--json` says of each flow."""
    return {name: getattr(done, name) for name in ("flow_id", "state", "reason", "wait_seconds")}


def all_facts(flow: Flow) -> dict[str, Any]:
    """Return what `--json` says of a flow where it says all: where to go, whose login it is."""
    return facts(stands(flow)) | {
        "user_code": flow.user_code,
        "verification_uri": flow.verification_uri,
        "verification_uri_complete": flow.verification_uri_complete,
        "interval": flow.interval,
        "created_at": flow.created_at,
        "expires_at": flow.expires_at,
        "ended_at": flow.ended_at,
        "key": flow.key,
        "purpose": flow.purpose,
        "issuer": flow.provider.server,
        "client": flow.provider.client_name or flow.provider.client_id,
        "detail": flow.detail,
        "in_doubt": flow.in_doubt,
        "handover": flow.handover,
    }


def stands(flow: Flow) -> Step:
    """Return where a flow stands, as if it had been stepped."""
    return Step(flow.id, flow.state, flow.wait_seconds(time.time()), flow.reason)


def say_problem(problem: DeviceFlowError) -> None:
    """Tell the person of a flow that cannot be read and is passed over."""
    streams.say(f"deviceflow: {problem}")


def outlived(flow: Flow) -> bool:
    """Tell whether nobody can approve it any more, and it has not ended yet."""
    return not (flow.state.ended or flow.expires_at is None or flow.expires_at > time.time())


def line(done: Step) -> str:
    """Return where a flow stands, for a person."""
    said = f"{done.flow_id} {done.state}"
    if done.reason is not None:
        return f"{said}: {done.reason}"
    if done.state.ended:
        return said
    wait = f"call again in {ceil(done.wait_seconds)} seconds" if done.wait_seconds else "due"
    return f"{said}: {wait}"


def code(done: Step) -> int:
    """Return the exit code that says where a flow stands."""
    if done.reason is Reason.DENIED:
        return exits.DENIED
    return _CODES.get(done.state, exits.PENDING)


def reporting(work: Callable[[Namespace], int], args: Namespace) -> int:
    """Do a command's work; with `--json`, what goes wrong is an object on stdout.

    Raises:
        DeviceFlowError: What went wrong, without `--json`.
        ImportError: Likewise.
        OutputError: The object cannot be printed.
    """
    try:
        return work(args)
    except streams.OutputError:
        raise
    except (DeviceFlowError, ImportError) as error:
        if not args.json:
            raise
        streams.show(json.dumps(trouble(error, args)))
        return exits.USAGE if isinstance(error, ImportError) else exits.of(error)


def trouble(error: DeviceFlowError | ImportError, args: Namespace) -> dict[str, Any]:
    """Return what `--json` says of an error, and of the flow that it is about."""
    names = ("flow_id", "state", "reason", "wait_seconds")
    said = {name: getattr(error, name, None) for name in names}
    said["flow_id"] = said["flow_id"] or getattr(args, "id", None)
    if isinstance(error, WaitTimeoutError):
        with suppress(DeviceFlowError, ImportError):
            flow = client(args).get(str(error.flow_id), secrets=False)
            said["wait_seconds"] = stands(flow).wait_seconds
    return said | {"error": str(error)}
