"""The store that the commands share, and their output about a login."""

from __future__ import annotations

import json
import os
import shlex
import time
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from functools import partial
from heapq import merge
from itertools import islice
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from deviceflow.cli import changes, exits, streams
from deviceflow.client._sync import Client
from deviceflow.core import wording
from deviceflow.core.grant_view import GrantView
from deviceflow.core.notice import argument
from deviceflow.core.sanitize import printable
from deviceflow.core.states import GrantState, Reason, State
from deviceflow.core.suggest import did_you_mean
from deviceflow.errors import (
    DeviceFlowError,
    StoreError,
    UnknownGrantError,
    UnknownLoginError,
    UsageError,
    WaitTimeoutError,
)
from deviceflow.stores._option import VARIABLE, has_password
from deviceflow.stores.url import (
    SUFFIXES,
    open_async_store,
    open_store,
    sqlite_file,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import NoReturn

    from deviceflow.cli.options import JobOptions, StoreOptions
    from deviceflow.core.login import Login
    from deviceflow.core.notice import LoginNeed
    from deviceflow.core.ports import AsyncStore, Store

ONCE: Final = "login:"
"""How the names of logins begin that the command made up."""

_MOST_BESIDE: Final = 1000
_MOST_LOGINS: Final = 1000
_CODES: Final = {
    State.AUTHORIZED: exits.AUTHORIZED,
    State.EXPIRED: exits.EXPIRED,
    State.FAILED: exits.FAILED,
}


_opened: Final = ExitStack()
_names: Final[list[str]] = []
"""The opened stores, for people."""


def store(args: StoreOptions, *, creates: bool = False, **options: Any) -> Store:
    """Open the store that the arguments or the environment name, else the user's store.

    Args:
        args: The arguments.
        creates: Whether the command begins something, so that it creates a file that does not
            exist. A command that reads or continues something creates nothing.
        **options: Further arguments of the store's class.

    Raises:
        UsageError: The URL is invalid, or contains a password.
        StoreError: The store cannot be used, or does not exist.
        ImportError: A library is missing.
    """
    settings = _options(args) | options
    if not creates:
        check_exists(args)
    kept = open_store(args.store, **settings)
    _opened.callback(kept.close)
    _names.append(str(getattr(kept, "path", None) or "PostgreSQL"))
    return kept


def async_store(args: StoreOptions) -> AsyncStore:
    """Return the same store for asyncio, which is the caller's to close. Logins must survive.

    Raises:
        DeviceFlowError: The store is in memory, or as for `store`.
    """
    kept = open_async_store(args.store, **_options(args))
    _check_durable(kept)
    return kept


def check_exists(args: StoreOptions) -> None:
    """Check that the store's file exists, if the store is a file.

    Raises:
        UsageError: The URL is invalid.
        StoreError: The file does not exist.
    """
    file = _missing(args)
    if file is None:
        return
    similar = ""
    with suppress(OSError):
        beside = islice(file.parent.iterdir(), _MOST_BESIDE)
        similar = did_you_mean(file.name, (one.name for one in beside if one.suffix in SUFFIXES))
    hint = f"{similar}Name the store: --store or {VARIABLE}."
    if not (args.store or os.environ.get(VARIABLE)):
        hint = (
            f"If the login is in another store, name it: --store or {VARIABLE}. To log in:"
            " deviceflow login PROVIDER"
        )
    raise StoreError(f"There is no store at {file}.", hint=hint)


def exists(args: StoreOptions) -> bool:
    """Tell whether the store's file exists, or the store is not a file.

    Raises:
        UsageError: The URL is invalid.
    """
    return _missing(args) is None


def new_file(args: StoreOptions) -> Path | None:
    """Return the file that is named as the store, if it does not exist yet."""
    return _missing(args) if args.store or os.environ.get(VARIABLE) else None


def _missing(args: StoreOptions) -> Path | None:
    file = sqlite_file(args.store)
    return None if file is None or file.exists() else file


def command(args: StoreOptions, text: str) -> str:
    """Return a command for another shell, with the store that this command was given."""
    words, dashes, name = text.partition(" -- ")
    store = f" --store {shlex.quote(args.store)}" if args.store else ""
    return f"deviceflow {words}{store}{dashes}{name}"


def _options(args: StoreOptions) -> dict[str, Any]:
    if args.store and has_password(args.store):
        raise UsageError(
            "The store's URL contains a password, and other users of this machine can see command"
            " line arguments.",
            hint=f"Put the password into ~/.pgpass or PGPASSWORD, or the URL into {VARIABLE}.",
        )
    options: dict[str, Any] = {"plaintext": True} if args.plaintext else {}
    return options | ({"trail": args.trail} if args.trail else {})


def client(
    args: StoreOptions,
    *,
    creates: bool = False,
    notifies: bool = False,
    tells: bool = True,
    output: Callable[[str], object] | None = None,
) -> Client:
    """Return a client that uses the store. The logins must survive this command.

    Args:
        args: The arguments.
        creates: As for `store`.
        notifies: Whether it notifies of needs, as the settings say.
        tells: Whether a notification that fails is printed when it fails.
        output: As for `Client`.

    Raises:
        DeviceFlowError: The store is in memory, or as for `store`.
    """
    kept = store(args, creates=creates)
    _check_durable(kept)
    settings = notices(args) if notifies else {}
    if tells and "notify" in settings:
        settings["notify"] = partial(_notify, settings["notify"])
    return Client(kept, output=output, **settings)


def _notify(notify: Callable[[LoginNeed], object], need: LoginNeed) -> None:
    """Notify, and tell the person at the terminal if that fails: the command goes on."""
    try:
        notify(need)
    except DeviceFlowError as problem:
        streams.say(
            f"deviceflow: Nobody could be notified about {need.name!r}: {problem}"
            " A sweep or a worker tries again."
        )
        raise


def notices(args: StoreOptions) -> dict[str, Any]:
    """Return the arguments of a client that say how somebody is told of needs.

    Raises:
        UsageError: The settings cannot be used.
    """
    from deviceflow.credentials import profiles  # most commands need neither
    from deviceflow.notify import notifier

    set_up = profiles.notices(getattr(args, "profile", None))
    arguments: dict[str, Any] = {
        "public_url": set_up.public_url,
        "outage_after": set_up.outage_after,
    }
    return arguments | ({} if set_up.notify is None else {"notify": notifier(set_up.notify)})


def _check_durable(kept: Store | AsyncStore) -> None:
    if not kept.durable:
        raise UsageError(
            "A login in memory would be lost at the end of this command.",
            hint=f"Set --store or {VARIABLE} to another store, or use: deviceflow login --once",
        )


def find(args: StoreOptions, client: Client, word: str) -> Login | GrantView:
    """Return what a person means: the login of an id, a name's grant, or a name's open login.

    Where a name's grant gives no tokens, and a login is open, it is that login.

    Raises:
        UnknownLoginError: The store has none of these.
    """
    login = None
    with suppress(UnknownLoginError):
        login = client.get(word)
    if login is None or login.id != word:
        with suppress(UsageError):
            grant = client.grant(word)
            if login is None or grant.state.gives_tokens:
                return grant
    return login or unknown(args, client, word)


def login(args: StoreOptions, client: Client, word: str) -> Login:
    """Return the login of an id, or the open login of a name.

    Raises:
        UnknownLoginError: There is none. If the name is of something else, the error says so.
    """
    found = find(args, client, word)
    if isinstance(found, GrantView):
        with suppress(UnknownLoginError):
            return client.get(word)
        raise UnknownLoginError(
            f"No login of the name {printable(word, 100)!r} is in progress.",
            hint=f"How it stands: {command(args, f'status {argument(word)}')}",
        )
    return found


def unknown(args: StoreOptions, client: Client, word: str) -> NoReturn:
    """Raise an error for what the store does not have.

    Raises:
        UnknownLoginError: Always.
    """
    raise UnknownLoginError(
        f"The store has no login {printable(word, 100)!r}.",
        hint=f"{did_you_mean(word, names(client))}To log in, and keep it:"
        f" {command(args, f'login {argument(word)} PROVIDER')}",
    )


def names(client: Client) -> list[str]:
    """Return the names in the store, and the ids of open logins without one."""
    found = [view.name for view in client.grants() if not is_over(view)]
    live = client.logins(skip_ended=True, on_problem=say_problem)
    logins = merge(live, ready(client), key=lambda login: -login.created_at)
    found += [name_of(login) or login.id for login in islice(logins, _MOST_LOGINS)]
    return list(dict.fromkeys(found))


def ready(client: Client) -> Iterator[Login]:
    """Yield the logins, among the newest ones, whose token is in the store, the newest first."""
    newest = islice(client.logins(on_problem=lambda _: None), _MOST_LOGINS)
    return (login for login in newest if login.state.ended and login.has_token)


def is_over(view: GrantView) -> bool:
    """Tell whether somebody has logged out of a name, and no job waits for a login."""
    return view.state is GrantState.REVOKED and view.need_id is None


def name_of(login: Login) -> str | None:
    """Return the name that a person gave a login. `login --once` makes up one of its own."""
    return None if (login.name or "").startswith(ONCE) else login.name


def the_name(args: StoreOptions, client: Client, question: str) -> str:
    """Return the only name that there is.

    Args:
        args: The arguments.
        client: A client of the store.
        question: What to ask if there are several, such as `Log out of what?`.

    Raises:
        UsageError: There is none, or there are several.
    """
    found = names(client)
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(
            "Nobody is logged in.", hint=f"To log in: {command(args, 'login PROVIDER')}"
        )
    raise UsageError(
        f"{question} No name was given.", hint=f"Give one of: {', '.join(map(argument, found))}"
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


def needs_no_login(client: Client, name: str) -> bool:
    """Tell whether there is a grant of this name that gives tokens, and is not in doubt."""
    try:
        state = client.grant(name).state
    except UnknownGrantError:
        return False
    return state.gives_tokens and state is not GrantState.IN_DOUBT


def say_grant(args: JobOptions, view: GrantView) -> None:
    """Print how a grant stands."""
    if args.json:
        streams.show(json.dumps(view.to_dict()))
        return
    streams.show(grant_line(view))
    for name, value in view.to_dict().items():
        if value is not None and name not in ("name", "state") and value != 0:
            text = " ".join(value) if isinstance(value, list) else str(value)
            if name.endswith(("_at", "_since")):
                text = _time(value)
            streams.show(f"  {name.replace('_', ' ')}: {text}")


def grant_line(view: GrantView) -> str:
    """Return how a grant stands in one line."""
    said = f"{view.name} {view.state}"
    if view.reason is not None:
        said += f": {view.reason}"
    if view.invalid:
        said += ", but its token was refused: the next one comes with a refresh"
    elif view.expires_at is not None:
        said += f", until {_time(view.expires_at)}"
    if view.unanswered_since is not None:
        said += f", {wording.silence(view.unanswered_since, view.unanswered)}"
    return said if view.need_id is None else f"{said}, a person must log in"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ", timespec="seconds")


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
    wait = (
        f"call again in {wording.seconds(ceil(login.wait_seconds))}"
        if login.wait_seconds
        else "due"
    )
    return f"{text}: {wait}"


def code(login: Login) -> int:
    """Return the exit code that says where a login stands."""
    if login.reason is Reason.DENIED:
        return exits.DENIED
    return _CODES.get(login.state, exits.PENDING)


def reporting(work: Callable[[Any], int]) -> Callable[[Any], int]:
    """Wrap a command's function: close the stores that it opened, and report errors as JSON.

    With `--json` or `--json-events`, an error is printed as an object on stdout. Without these, the
    `DeviceFlowError` or `ImportError` is raised. An `OutputError` is always raised.
    """

    def run(args: Any) -> int:
        try:
            return work(args)
        except streams.OutputError:
            raise
        except (DeviceFlowError, ImportError) as error:
            if isinstance(error, UnknownLoginError | UnknownGrantError) and _names:
                stop = "" if not error.hint or error.hint.endswith(".") else "."
                error.hint = f"{error.hint or ''}{stop} The store: {_names[-1]}.".lstrip()
            if getattr(args, "json_events", False):
                changes.show("error", trouble(error, args))
            elif getattr(args, "json", False):
                streams.show(json.dumps(trouble(error, args)))
            else:
                raise
            return exits.of(error)
        finally:
            _opened.close()

    return run


def trouble(error: DeviceFlowError | ImportError, args: StoreOptions) -> dict[str, Any]:
    """Return the JSON fields of an error and of the login that it is about."""
    names = ("flow_id", "state", "wait_seconds")
    facts = {name: getattr(error, name, None) for name in names}
    facts["reason"] = exits.reason(error)
    facts["flow_id"] = facts["flow_id"] or getattr(args, "id", None)
    if isinstance(error, WaitTimeoutError):
        with suppress(DeviceFlowError, ImportError):
            facts["wait_seconds"] = client(args).get(str(error.flow_id)).wait_seconds
    return facts | {"error": str(error)}
