"""`deviceflow check`, `invalidate` and `logout`: whether a name's token is valid, and its end."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Final

from deviceflow.cli import exits, options, stored, streams
from deviceflow.cli.commands import Command
from deviceflow.core.grant import QUIET
from deviceflow.core.secret import Secret
from deviceflow.errors import UnknownGrantError, UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from deviceflow.client._sync import Client
    from deviceflow.core.login import Login


class CheckOptions(options.NoticeOptions, options.NameArgument, options.JobOptions):
    """The options of `check`."""


class LogoutOptions(options.NameArgument, options.JobOptions):
    """The options of `logout`."""


class InvalidateOptions(CheckOptions):
    """The options of `invalidate`."""

    token_stdin: bool


def _add_name(parser: ArgumentParser) -> None:
    options.add_notices(parser)
    options.add_name(parser)
    options.add_job(parser)


def _add_logout(parser: ArgumentParser) -> None:
    parser.description = (
        "Log out: wipe the tokens of a name from the store, and revoke them at the server if the"
        " server supports it (RFC 7009). A login of the name that is in progress ends, too."
    )
    options.add_name(parser)
    options.add_job(parser)


def _add_check(parser: ArgumentParser) -> None:
    parser.description = (
        "Ask the server whether the access token of a name is valid, by introspection (RFC 7662) or"
        " at its userinfo endpoint, if the server has one that this client may use. If the token is"
        " not valid, refresh it. Exit code 0: valid, or refreshed; 5: not valid, and"
        f" neither is the next one; {exits.NOT_ASKED}: the server cannot be asked, or does not say;"
        " 75: a person must log in."
    )
    _add_name(parser)


def _add_invalidate(parser: ArgumentParser) -> None:
    parser.description = (
        "Say that a server refused the access token of a name: nobody gets it any more, and it is"
        " refreshed. If that is not possible, exit code 75: a person must log in."
    )
    parser.add_argument(
        "--token-stdin",
        action="store_true",
        help="read the refused token from stdin: a newer one stays. Without this, the"
        " token in use is meant",
    )
    _add_name(parser)


def _invalidate(args: InvalidateOptions) -> int:
    """Invalidate a token, and print what came of it.

    Raises:
        UsageError: There is no token at stdin.
        DeviceFlowError: As for `Client.invalidate` and `Client.get_token`.
    """
    client, refused = stored.client(args, notifies=True), None
    name = _name_of_tokens(args, client, "Invalidate the token of what?")
    if args.token_stdin:
        refused = Secret(sys.stdin.readline().strip())
        if not refused.reveal():
            raise UsageError(
                "There is no token at stdin.",
                hint="Without --token-stdin, the one in use is meant.",
            )
    done = client.invalidate(name, refused)
    token = client.get_token(name, min_ttl=0.0)
    stays = refused is not None and token.access_token == refused
    if args.json:
        facts = {"invalidated": done, "stays": stays}
        streams.show(json.dumps(client.grant(name).to_dict() | facts))
    elif stays:
        streams.say(
            "deviceflow: The token stays in use: the one before it was refused as well, less than"
            f" {QUIET:g} seconds ago. A server that refuses each new token refuses the grant."
        )
    elif done:
        streams.show(f"{name}: refreshed, generation {token.generation} is in use")
    else:
        streams.show(f"{name}: replaced before, generation {token.generation} is in use")
    return exits.PENDING if stays else 0


def _check(args: CheckOptions) -> int:
    client = stored.client(args, notifies=True)
    found = client.check(_name_of_tokens(args, client, "Check the token of what?"))
    if args.json:
        streams.show(json.dumps(found._asdict()))
    elif found.valid is None:
        streams.show(f"{found.name}: the server cannot be asked about the token: {found.why}")
    else:
        said = "valid" if found.valid else "not valid, and was issued just now"
        streams.show(f"{found.name}: the server says that the token is {said}")
    if found.replaced:
        streams.say("The server had ended the former token. A refresh brought this one.")
    if found.valid is None:
        return exits.NOT_ASKED
    return 0 if found.valid else exits.FAILED


def _log_out(args: LogoutOptions) -> int:
    client = stored.client(args, notifies=True)
    name = _name(args, client, "Log out of what?")
    try:
        view = client.log_out(name)
    except UnknownGrantError:
        login = stored.login(args, client, name)
        if login.name != name or not login.has_token:
            return _cancel(args, client, login)
        client.get_token(name, min_ttl=0.0)  # the token is the name's from now on
        view = client.log_out(name)
    streams.show(json.dumps(view.to_dict()) if args.json else stored.grant_line(view))
    if view.revocations:
        sweep = stored.command(args, "sweep")
        streams.say(
            "Logged out: the tokens were wiped. They could not be revoked at the server yet. To try"
            f" again: {sweep}"
        )
    elif not args.json:
        streams.say("Logged out: the tokens were wiped.")
    return 0


def _cancel(args: LogoutOptions, client: Client, login: Login) -> int:
    """Cancel a login that is in progress.

    Raises:
        UsageError: It has ended.
    """
    if login.state.ended:
        wipe = stored.command(args, f"token {login.id} --acknowledge")
        raise UsageError(
            f"The login {login.id} has ended, and has no name to log out of.",
            hint=f"If you have its token, revoke it at the server. To take it here: {wipe}",
        )
    login = client.cancel(login.id)
    streams.show(json.dumps(stored.facts(login)) if args.json else stored.line(login))
    return 0


def _name(args: CheckOptions | LogoutOptions, client: Client, question: str) -> str:
    return stored.the_name(args, client, question) if args.name is None else args.name


def _name_of_tokens(args: CheckOptions, client: Client, question: str) -> str:
    """Return the name. If its login was approved just now, the token becomes the name's.

    Raises:
        UnknownLoginError: The store does not have it.
        LoginPending: Its login is in progress.
    """
    name = _name(args, client, question)
    try:
        client.grant(name)
    except UnknownGrantError:
        stored.login(args, client, name)
        client.get_token(name, min_ttl=0.0)
    return name


COMMANDS: Final = {
    "logout": Command(_add_logout, stored.reporting(_log_out)),
    "check": Command(_add_check, stored.reporting(_check)),
    "invalidate": Command(_add_invalidate, stored.reporting(_invalidate)),
}
