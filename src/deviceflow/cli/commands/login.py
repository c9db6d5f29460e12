"""`deviceflow login` and `resume`: run one login, and save its token."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import platform
import sys
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from deviceflow.cli import (
    arguments,
    changes,
    exits,
    grant_login,
    options,
    prompt,
    stored,
    streams,
    target,
)
from deviceflow.cli.commands import Command
from deviceflow.cli.sink import Keyring, Stdout, TokenFile
from deviceflow.client._sync import Client
from deviceflow.client.identity import user_name
from deviceflow.core import wording
from deviceflow.core.notice import argument
from deviceflow.core.secret import Secret
from deviceflow.core.states import State
from deviceflow.errors import (
    DeviceFlowError,
    UnknownGrantError,
    UnknownLoginError,
    UsageError,
    WaitTimeoutError,
)
from deviceflow.stores._option import VARIABLE

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Callable

    from deviceflow.cli.sink import Sink
    from deviceflow.core.login import Login
    from deviceflow.core.provider import Provider, Token


class WaitingOptions(options.FormatOption, grant_login.GrantLoginOptions):
    """The options of both commands: where to save the token, and how to prompt the person."""

    output: str | None
    save: str | None
    show_token: bool
    qr: bool | None
    verbose: bool


class LoginOptions(options.TargetOptions, WaitingOptions):
    """What `login` takes."""


class ResumeOptions(WaitingOptions):
    """What `resume` takes."""

    id: str | None
    again: bool


def _add_login(parser: ArgumentParser) -> None:
    parser.epilog = exits.EXPLAINED
    parser.description = (
        "Log in to a provider by name, to a DVC Studio by its host, or to any server by --issuer or"
        " by its endpoints. Prompts are printed to stderr, data to stdout. If the command is"
        " interrupted, run it again with the same arguments: it shows the same code until the code"
        " expires."
    )
    options.add_target(parser)
    _add_waiting(parser)


def _add_resume(parser: ArgumentParser) -> None:
    parser.epilog = exits.EXPLAINED
    parser.description = (
        "Continue an interrupted login: the one with this id, or the newest. With the name of a"
        " grant that needs a login: show a fresh code, and wait for the approval; the token stays"
        " in the store."
    )
    parser.add_argument(
        "id",
        nargs="?",
        metavar="ID|NAME",
        help="the login's id, as printed by list; or the grant's name",
    )
    grant_login.add_again(parser)
    _add_waiting(parser)


def _add_waiting(parser: ArgumentParser) -> None:
    """Add the options for saving the token and for the prompt."""
    puts = parser.add_argument_group("where to save the token (one is required for a login)")
    puts.add_argument("--output", metavar="FILE", help="write it to this file (0600)")
    puts.add_argument("--save", choices=("keyring",), help="save it in the desktop's keyring")
    puts.add_argument("--show-token", action="store_true", help="print it to stdout")
    options.add_format(puts)
    shows = parser.add_argument_group("prompt and output")
    options.add_json_or_changes(shows, "print one JSON object at the end")
    shows.add_argument("--no-browser", action="store_true", help="do not open a browser")
    shows.add_argument(
        "--qr",
        action=argparse.BooleanOptionalAction,
        help="show the URL as a QR code; by default only if no browser can be opened",
    )
    shows.add_argument(
        "--timeout", type=arguments.seconds, metavar="SECONDS", help="how long to wait"
    )
    shows.add_argument("--verbose", "-v", action="store_true", help="log transitions to stderr")
    options.add_store(parser)


def _login(args: LoginOptions) -> int:
    _prepare(args)
    provider = target.provider(args)
    target.look_for_secret(provider)
    purpose = target.purpose(args)
    name = _name(args, provider, purpose)
    client = _client(args)
    return _run(
        args,
        client,
        provider,
        lambda: client.start(provider, name=name, purpose=purpose),
        asked=args,
    )


def _resume(args: ResumeOptions) -> int:
    if args.id is not None and _is_grant(args):
        return _log_in(args, args.id)
    if args.again:
        raise UsageError("--again is for grants.", hint="Give the name of a grant.")
    client = stored.client(args)
    login = _interrupted(client) if args.id is None else _of_id(args, client, args.id)
    _prepare(args)
    return _run(args, client, login.provider, lambda: _awake(client, login))


def _of_id(args: ResumeOptions, client: Client, id_: str) -> Login:
    """Return the login of this id. For the name of an open login, the error has its id."""
    try:
        return client.get(id_)
    except UnknownLoginError as unknown:
        for login in client.logins():
            if login.name == id_:
                resume = stored.command(args, f"resume {login.id}")
                unknown.hint = (
                    f"A login of this name is open: {resume}. If it is for a grant:"
                    f" {stored.command(args, f'grants login {argument(id_)}')}"
                )
                break
        raise


def _is_grant(args: ResumeOptions) -> bool:
    """Tell whether the store has no login of this id, but a grant of this name."""
    client = stored.client(args)
    try:
        client.get(str(args.id))
    except UnknownLoginError:
        with suppress(UnknownGrantError):
            client.grant(str(args.id))
            return True
    return False


def _log_in(args: ResumeOptions, name: str) -> int:
    """Log in for a grant."""
    if args.output or args.save or args.show_token:
        raise UsageError(
            "A grant keeps its tokens in the store.",
            hint="Log in without --output, --save and --show-token. For a token:"
            f" {stored.command(args, f'token {argument(name)}')}",
        )
    return grant_login.log_in(args, stored.client(args, notifies=True), name)


def _prepare(args: WaitingOptions) -> None:
    if args.output is None and not (args.save or args.show_token):
        raise UsageError(
            "No place for the token was given. Nothing was sent.",
            hint="Use --output FILE, --save keyring, or --show-token for stdout.",
        )
    if args.verbose:
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)


def _run(
    args: WaitingOptions,
    client: Client,
    provider: Provider,
    begin: Callable[[], Login],
    asked: options.TargetOptions | None = None,
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
    beyond = [] if asked is None else target.beyond_ceiling(asked, token.scopes or ())
    if beyond:
        streams.say(f"The server granted scopes above the scope ceiling: {', '.join(beyond)}.")
    return _deliver(args, client, login, token, sinks, beyond, told)


def _deliver(
    args: WaitingOptions,
    client: Client,
    login: Login,
    token: Token,
    sinks: list[Sink],
    beyond: list[str],
    told: changes.Changes | None,
) -> int:
    """Save the token, report where, and acknowledge the token if it is safe."""
    problem = _put(sinks, _as_text(token, args.format))
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


def _go_on(args: WaitingOptions, client: Client, login: Login) -> list[str] | None:
    """Return the arguments that continue a login, without opening the browser once more."""
    if not client.durable:
        return None
    names = ("output", "save", "show_token", "format", "json_events", "timeout", "verbose")
    given = changes.options(args, (*names, "store", "plaintext", "trail"))
    return [*changes.program(), "resume", login.id, *given, "--no-browser"]


def _client(args: WaitingOptions) -> Client:
    """Return a client that uses the store, or memory if secrets cannot be sealed."""
    try:
        return Client(stored.store(args, creates=True))
    except ImportError as missing:
        if args.store or os.environ.get(VARIABLE):
            raise
        streams.say(f"This login is in memory only, and cannot be resumed. {missing}")
        return Client()


def _name(args: WaitingOptions, provider: Provider, purpose: str | None) -> str:
    """Return a name for the login that depends on the user, the machine and the arguments."""
    asked = [provider.to_dict(), purpose, args.output, args.save, args.show_token, args.format]
    asked += [user_name(), platform.node()]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    return f"login:{digest[:32]}"


def _interrupted(client: Client) -> Login:
    """Return the newest login that has not ended, or whose token is still in the store."""
    for login in client.logins(on_problem=stored.say_problem):
        if login.has_token or not login.state.ended:
            return login
    raise UnknownLoginError(
        "The store has no login to continue.", hint="Start one with: deviceflow login"
    )


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
    for sink in sinks:
        try:
            sink.put(kept)
        except DeviceFlowError as trouble:
            problem = trouble
        else:
            if sink.where is not None:
                streams.say(f"Logged in. The token is in {sink.where}.")
    return problem


def _where_it_is(args: WaitingOptions, client: Client, login: Login, *, elsewhere: bool) -> str:
    """Return a hint about a token that could not be saved in one of the places."""
    if client.durable:
        token = stored.command(args, f"token {login.id} --acknowledge")
        return f"The store still has the token: {token}"
    if elsewhere:
        return "The token was saved in the other place only."
    return "The token is lost: revoke it at the server, then log in again."


def _sinks(args: WaitingOptions, provider: Provider) -> list[Sink]:
    sinks: list[Sink] = []
    if args.output is not None:
        sinks.append(TokenFile(args.output))
    if args.save:
        sinks.append(Keyring(provider))
    if args.show_token and not (args.json or args.json_events):
        sinks.append(Stdout())
    return sinks


def _wait(
    client: Client, login: Login, args: WaitingOptions, told: changes.Changes | None
) -> Token:
    try:
        if not login.state.ended:
            prompt.ask(login, browser=not args.no_browser, qr=args.qr)
        with prompt.waiting(login, told.step if told else None) as on_step:
            return client.wait_for_token(login.id, args.timeout, on_step=on_step)
    except WaitTimeoutError:
        hint = (
            "To continue, run the same command again, or:"
            f" {stored.command(args, f'resume {login.id}')}, with an option for where to save the"
            " token."
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
            resume = stored.command(args, f"resume {login.id}")
            streams.say(f"{resume}, with an option for where to save the token.")
        else:
            client.cancel(login.id, "interrupted")
        raise


def _as_text(token: Token, form: str) -> Secret:
    return Secret(json.dumps(token.as_dict())) if form == "json" else token.access_token


def _shown(token: Token, form: str) -> dict[str, Any]:
    return {"token": token.as_dict() if form == "json" else token.access_token.reveal()}


COMMANDS: Final = {
    "login": Command(_add_login, stored.reporting(_login)),
    "resume": Command(_add_resume, stored.reporting(_resume)),
}
