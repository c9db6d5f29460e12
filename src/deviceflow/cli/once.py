"""`deviceflow login --once`: a login for one token, which goes to a place that a person names."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from deviceflow.cli import changes, exits, prompt, sink, stored, streams
from deviceflow.cli.target import unknown
from deviceflow.client._sync import Client
from deviceflow.client.identity import user_name
from deviceflow.core import wording
from deviceflow.core.notice import argument
from deviceflow.core.secret import Secret
from deviceflow.core.states import State
from deviceflow.errors import DeviceFlowError, UnknownLoginError, UsageError, WaitTimeoutError
from deviceflow.stores._option import VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from deviceflow.cli.options import LoginOptions
    from deviceflow.cli.sink import Sink
    from deviceflow.cli.target import Target
    from deviceflow.core.login import Login
    from deviceflow.core.provider import Provider, Token


def log_in(args: LoginOptions, target: Target) -> int:
    """Log in, put the token in its place, and return the exit code.

    Raises:
        DeviceFlowError: As for `Client.start` and `Client.wait_for_token`; or the token could not
            be put there.
    """
    if args.again:
        raise UsageError("--again is for logins that are kept.", hint="Omit --again.")
    if target.name is not None and target.is_explicit:
        raise UsageError(
            "With --once there is no name, and the id of a login stands alone. Nothing was sent.",
            hint=f"Omit {argument(target.name)}.",
        )
    args.id = target.name  # an error says so
    former = _former(args, target)
    if args.output is None and not (args.save or args.show_token):
        raise _without_place(target)
    if former is not None:
        client, login = former
        args.id = login.id
        return _run(args, client, login.provider, lambda: _awake(client, login))
    provider, purpose = target.provider(), target.purpose
    name = _name(args, provider, purpose)
    client = _client(args)
    return _run(
        args, client, provider, lambda: client.start(provider, name=name, purpose=purpose), target
    )


def _without_place(target: Target) -> UsageError:
    """Return the error for a login without a place, which names what else is missing."""
    also = ""
    if target.word:
        try:
            target.provider()
        except UsageError as wrong:
            also = f" {wrong}"
    return UsageError(
        f"No place for the token was given. Nothing was sent.{also}",
        hint="Use --output FILE, --save keyring, or --show-token for stdout. Without --once, the"
        " store keeps the token.",
    )


def _run(
    args: LoginOptions,
    client: Client,
    provider: Provider,
    begin: Callable[[], Login],
    target: Target | None = None,
) -> int:
    sinks = _sinks(args, provider)
    told = None
    if args.json_events:
        told = changes.Changes(partial(_go_on, args, client), until_saved=True)
    try:
        login = begin()
        if told is not None:
            told.begin(login)
        token = _wait(client, login, args, told)
    except streams.OutputError:
        raise
    except DeviceFlowError as error:
        if told is not None and error.flow_id:
            told.error(error, client.get(error.flow_id))
        elif args.json:
            streams.show(json.dumps(stored.trouble(error, args) | {"issuer": provider.server}))
        else:
            raise
        return exits.of(error)
    beyond = target.beyond_ceiling(token.scopes or ()) if target else []
    if beyond:
        streams.say(f"The server granted scopes above the scope ceiling: {', '.join(beyond)}.")
    return _deliver(args, client, login, token, sinks, beyond, told)


def _deliver(
    args: LoginOptions,
    client: Client,
    login: Login,
    token: Token,
    sinks: list[Sink],
    beyond: list[str],
    told: changes.Changes | None,
) -> int:
    """Save the token, report where, and acknowledge the token if it is safe."""
    problem = _put(sinks, Secret(sink.formatted(token, args.format)))
    if problem is not None:
        elsewhere = len(sinks) > 1 or args.show_token
        problem.hint = _where_it_is(args, client, login, elsewhere=elsewhere)
    if not (args.json or told):
        if problem is not None:
            raise problem
        client.acknowledge(login.id)
        return exits.AUTHORIZED
    facts: dict[str, Any] = {"issuer": login.provider.server} | dict(login.extra)
    facts |= {"expires_at": token.expires_at, "scopes": token.scopes}
    facts |= {"beyond_ceiling": beyond} if beyond else {}
    facts |= {"output": args.output} if args.output else {}
    facts |= _shown(token, args.format) if args.show_token else {}
    facts |= {"error": str(problem)} if problem else {}
    login = client.get(login.id)
    try:
        if told is None:
            streams.show(json.dumps(stored.facts(login) | facts))
        else:
            told.result(login, facts)
    except streams.OutputError as without_traceback:
        without_traceback.hint = _where_it_is(args, client, login, elsewhere=bool(sinks))
        raise
    if problem is not None:
        streams.say(f"deviceflow: {problem}")
        return exits.of(problem)
    client.acknowledge(login.id)
    return exits.AUTHORIZED


def _go_on(args: LoginOptions, client: Client, login: Login) -> list[str] | None:
    """Return the arguments that continue a login, without opening the browser once more."""
    if not client.durable:
        return None
    names = ("output", "save", "show_token", "format", "json_events", "timeout", "verbose")
    given = changes.options(args, (*names, "store", "plaintext", "trail"))
    return [*changes.program(), "login", login.id, "--once", *given, "--no-browser"]


def _client(args: LoginOptions) -> Client:
    """Return a client that uses the store, or memory if secrets cannot be sealed."""
    try:
        return Client(stored.store(args, creates=True))
    except ImportError as missing:
        if args.store or os.environ.get(VARIABLE):
            raise
        streams.say(f"This login is in memory only, and cannot be resumed. {missing}")
        return Client()


def _name(args: LoginOptions, provider: Provider, purpose: str | None) -> str:
    """Return a name for the login that depends on the user, the machine and the arguments."""
    asked = [provider.to_dict(), purpose, args.output, args.save, args.show_token, args.format]
    asked += [user_name(), platform.node()]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    return f"{stored.ONCE}{digest[:32]}"


def _former(args: LoginOptions, target: Target) -> tuple[Client, Login] | None:
    """Return the login to continue, if there is one, and a client of its store.

    It is the login of an id, or where nothing says where to log in, the newest one.

    Raises:
        UnknownLoginError: The store does not have the login of the id.
        StoreError: The store that was named does not exist.
    """
    if target.name is None and target.names_server:
        return None
    client = stored.client(args) if stored.exists(args) else None
    login = None
    if target.name is None and client is None and stored.new_file(args):
        stored.check_exists(args)
    if client is not None:
        with suppress(UnknownLoginError):
            login = _newest(client) if target.name is None else client.get(target.name)
    if client is None or login is None:
        if target.name is None:
            return None
        raise unknown(args, client, target.name, "login --once --issuer URL")
    return client, login


def _newest(client: Client) -> Login | None:
    """Return the newest login that has not ended, or whose token is still in the store."""
    for login in client.logins(on_problem=stored.say_problem):
        if login.has_token or not login.state.ended:
            return login
    return None


def _awake(client: Client, login: Login) -> Login:
    """Step a login that has no code yet, or whose code has expired, and return it."""
    while login.state is State.INIT or stored.outlived(login):
        login = client.step(login.id)
        if not login.state.ended:
            time.sleep(login.wait_seconds)
    return login


def _put(sinks: list[Sink], kept: Secret) -> DeviceFlowError | None:
    """Save the token in each place, even if one fails, and return the last error."""
    problem: DeviceFlowError | None = None
    for place in sinks:
        try:
            place.put(kept)
        except DeviceFlowError as trouble:
            problem = trouble
        else:
            if place.where is not None:
                streams.say(f"Logged in. The token is in {place.where}.")
    return problem


def _where_it_is(args: LoginOptions, client: Client, login: Login, *, elsewhere: bool) -> str:
    """Return a hint about a token that could not be saved in one of the places."""
    if client.durable:
        token = stored.command(args, f"token {login.id} --acknowledge")
        return f"The store still has the token: {token}"
    if elsewhere:
        return "The token was saved in the other place only."
    return "The token is lost: revoke it at the server, then log in again."


def _sinks(args: LoginOptions, provider: Provider) -> list[Sink]:
    sinks: list[Sink] = []
    if args.output is not None:
        sinks.append(sink.TokenFile(args.output))
    if args.save:
        sinks.append(sink.Keyring(provider))
    if args.show_token and not (args.json or args.json_events):
        sinks.append(sink.Stdout())
    return sinks


def _wait(client: Client, login: Login, args: LoginOptions, told: changes.Changes | None) -> Token:
    try:
        if not login.state.ended:
            prompt.ask(login, browser=not args.no_browser, qr=args.qr)
        with prompt.waiting(login, told.step if told else None) as on_step:
            return client.wait_for_token(login.id, args.timeout, on_step=on_step)
    except WaitTimeoutError:
        hint = (
            "To continue, run the same command again, or:"
            f" {_same(args, login)}, with an option for where to save the token."
        )
        if not client.durable:
            client.cancel(login.id, "timeout")
            hint = "The login was cancelled. Run the command again, with a longer --timeout."
        raise WaitTimeoutError(
            f"The login is still pending after {wording.seconds(args.timeout or 0.0)}.",
            flow_id=login.id,
            state=login.state,
            hint=hint,
        ) from None
    except KeyboardInterrupt:
        # Ctrl-C may have come before the wait, which cancels by itself.
        if client.durable:
            streams.say("")
            streams.say("The login is still open. To continue, run the same command again, or:")
            streams.say(f"{_same(args, login)}, with an option for where to save the token.")
        else:
            client.cancel(login.id, "interrupted")
        raise


def _same(args: LoginOptions, login: Login) -> str:
    return stored.command(args, f"login --once {login.id}")


def _shown(token: Token, form: str) -> dict[str, Any]:
    return {"token": token.as_dict() if form == "json" else sink.formatted(token, form)}
