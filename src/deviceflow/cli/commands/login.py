"""`deviceflow login`: log in under a name, and keep the tokens in the store."""

from __future__ import annotations

import argparse
import logging
import sys
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Final

from deviceflow.cli import arguments, changes, exits, options, prompt, stored, streams
from deviceflow.cli.commands import Command
from deviceflow.cli.target import Target, unknown
from deviceflow.core.grant_view import GrantView
from deviceflow.core.notice import argument
from deviceflow.errors import DeviceFlowError, UnknownLoginError, UsageError, WaitTimeoutError

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Callable

    from deviceflow.client._sync import Client
    from deviceflow.core.login import Login
    from deviceflow.core.provider import Provider


def _add_login(parser: ArgumentParser) -> None:
    parser.epilog = exits.EXPLAINED
    parser.description = (
        "Log in under a name, and keep the tokens in the store: `deviceflow token NAME` then prints"
        " one that is good. The name is by default the provider's, or the host. For a name that the"
        " store knows, the name alone logs in again. Prompts are printed to stderr, data to stdout."
        " If the command is interrupted, run it again: it shows the same code until the code"
        " expires."
    )
    options.add_target(parser)
    parser.add_argument(
        "--again",
        action="store_true",
        help="log in although the name gives tokens, and revoke the former ones",
    )
    puts = parser.add_argument_group("a token that is not kept, but put in another place")
    puts.add_argument(
        "--once",
        action="store_true",
        help="log in for one token, which goes to one of these places; or with a login's id in"
        " place of the provider, continue that login",
    )
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


def _login(args: options.LoginOptions) -> int:
    if args.verbose:
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    target = Target(args)
    if args.once:
        from deviceflow.cli import once

        return once.log_in(args, target)
    if args.output is not None or args.save or args.show_token:
        raise UsageError(
            "A login keeps its tokens in the store. Nothing was sent.",
            hint="For one token in another place, add --once. Or log in without --output, --save"
            " and --show-token, and then: deviceflow token NAME",
        )
    known_name = _known_name(args, target)
    if known_name is not None:
        return _log_in(args, _client(args), known_name)
    provider = target.provider()
    name = target.default_name(provider) if target.name is None else target.name
    return _log_in(args, _client(args, creates=True), name, target, provider)


def _client(args: options.LoginOptions, *, creates: bool = False) -> Client:
    # `prompt` shows the code.
    return stored.client(args, creates=creates, notifies=True, output=lambda _: None)


def _known_name(args: options.LoginOptions, target: Target) -> str | None:
    """Return the name that the command is about, if the store says how to log in for it.

    Raises:
        UsageError: Nothing says where to log in.
    """
    if target.is_explicit:
        return None
    word = target.word if target.name is None else target.name
    client = stored.client(args) if stored.exists(args) else None
    if word is not None and client is not None:
        with suppress(UnknownLoginError):
            return _name_of(args, client, word)
    if target.names_server:
        return None
    if word is not None:
        raise unknown(args, client, word, f"login {argument(word)} --issuer URL")
    if stored.new_file(args):
        stored.check_exists(args)
    if client is None:
        return None
    return _name_of(args, client, stored.the_name(args, client, "Log in to what?"))


def _name_of(args: options.LoginOptions, client: Client, word: str) -> str:
    """Return the name of what a person means.

    Raises:
        UnknownLoginError: The store does not have it.
        UsageError: It is a login without a name.
    """
    found = stored.find(args, client, word)
    name = found.name if isinstance(found, GrantView) else stored.name_of(found)
    if name is not None:
        return name
    wait, token = (stored.command(args, f"{verb} {found.id}") for verb in ("wait", "token"))
    raise UsageError(
        f"The login {found.id} has no name to keep its token under.",
        hint=f"To wait for it: {wait}; then: {token}",
    )


def _log_in(
    args: options.LoginOptions,
    client: Client,
    name: str,
    target: Target | None = None,
    provider: Provider | None = None,
) -> int:
    """Log in under a name, unless it gives tokens and nobody says `--again`; return the exit code.

    Raises:
        DeviceFlowError: As for `Client.log_in`, unless it was printed as a change.
    """
    ready = not args.again and stored.needs_no_login(client, name)
    told = changes.Changes(lambda _: _go_on(args), until_saved=True) if args.json_events else None
    try:
        with ExitStack() as shown:
            view = client.log_in(
                name,
                provider,
                purpose=target.purpose if target else None,
                again=args.again,
                open_browser=False,
                timeout=args.timeout,
                on_step=_Prompter(args, told, shown).step,
            )
    except KeyboardInterrupt:
        _say_open(args, client, name)
        raise
    except streams.OutputError:
        raise
    except DeviceFlowError as error:
        if isinstance(error, WaitTimeoutError):
            again = stored.command(args, f"login {argument(name)}")
            error.hint = f"While the code is valid, this continues: {again}"
        if told is None or told.login is None:
            raise
        told.error(error, client.get(told.login.id))
        return exits.of(error)
    if ready:
        again = stored.command(args, f"login --again {argument(name)}")
        streams.say(f"{name} is logged in already. To log in again: {again}")
    beyond = target.beyond_ceiling(view.scopes or ()) if target else []
    if beyond:
        streams.say(f"The server granted scopes above the scope ceiling: {', '.join(beyond)}.")
    if told is None:
        _say(args, view, new=not ready)
    elif told.login is None:
        changes.show("saved", _facts(view))
    else:
        told.result(client.get(told.login.id), _facts(view))
    return 0


class _Prompter:
    """Shows a login to the person at the terminal, while a client waits for it."""

    def __init__(
        self, args: options.LoginOptions, told: changes.Changes | None, shown: ExitStack
    ) -> None:
        self._args = args
        self._told = told
        self._shown: ExitStack | None = shown
        self._on_step: Callable[[Login], object] | None = told.step if told else None

    def step(self, login: Login) -> None:
        """Take notice of a step. The first one has the code."""
        if self._shown is None or login.state.ended:
            if self._on_step is not None:
                self._on_step(login)
            return
        prompt.ask(login, browser=not self._args.no_browser, qr=self._args.qr)
        if self._told is not None:
            self._told.begin(login)
        waiting = prompt.waiting(login, self._on_step)
        self._on_step, self._shown = self._shown.enter_context(waiting), None


def _say_open(args: options.LoginOptions, client: Client, name: str) -> None:
    """After Ctrl-C, print how to continue the login, if there is one."""
    with suppress(DeviceFlowError):
        client.get(name)
        streams.say("")
        again = stored.command(args, f"login {argument(name)}")
        streams.say(f"The login is still open. To continue: {again}")


def _say(args: options.LoginOptions, view: GrantView, *, new: bool) -> None:
    """Print how the name stands, and after a login, how to get its token."""
    if args.json:
        stored.say_grant(args, view)
        return
    streams.show(stored.grant_line(view))
    if new:
        token = stored.command(args, f"token {argument(view.name)}")
        streams.say(f"Logged in. For a token: {token}")


def _go_on(args: options.LoginOptions) -> list[str]:
    """Return the same command without the browser: it continues the login."""
    if args.no_browser:
        return [*changes.program(), *args.argv]
    end = args.argv.index("--") if "--" in args.argv else len(args.argv)
    return [*changes.program(), *args.argv[:end], "--no-browser", *args.argv[end:]]


def _facts(view: GrantView) -> dict[str, Any]:
    return {
        "grant": view.name,
        "issuer": view.provider.server,
        "expires_at": view.expires_at,
        "scopes": None if view.scopes is None else [*view.scopes],
    }


COMMANDS: Final = {"login": Command(_add_login, stored.reporting(_login))}
