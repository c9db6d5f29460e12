"""`deviceflow grants` and `logout`: the grants of a store, which give tokens for months."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from deviceflow.cli import arguments, grant_login, options, stored, streams, target
from deviceflow.cli.commands import Command
from deviceflow.core.notice import argument
from deviceflow.errors import DeviceFlowError, UnknownGrantError, UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from deviceflow.client._sync import Client


class NameOptions(options.JobOptions):
    """The options of the commands on one grant."""

    name: str


class LogoutOptions(options.JobOptions):
    """The options of `logout`."""

    name: str | None


class LoginOptions(options.TargetOptions, grant_login.GrantLoginOptions):
    """The options of `login`."""

    name: str


def _add_grants(parser: ArgumentParser) -> None:
    parser.description = (
        "A grant is the permission that a person gave a program once. It gives tokens for months."
        " For a token of a grant: deviceflow token NAME"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, command, what in (
        ("list", Command(_add_list, stored.reporting(_list)), "list the grants"),
        ("show", Command(_add_name, stored.reporting(_show)), "show a grant"),
        ("login", Command(_add_login, stored.reporting(_login)), "log in for a grant"),
        ("revoke", Command(_add_name, stored.reporting(_log_out)), "end a grant, as logout does"),
        (
            "doubt",
            Command(_add_doubt, stored.reporting(_doubt)),
            "mark all grants as in doubt, after a backup was restored",
        ),
    ):
        command.add_to(actions.add_parser(name, help=what))


def _add_list(parser: ArgumentParser) -> None:
    options.add_job(parser, what="print one JSON object for each grant, one a line")


def _add_name(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the grant's name")
    options.add_job(parser)


def _add_logout(parser: ArgumentParser) -> None:
    parser.description = (
        "End a grant: wipe its tokens from the store, and revoke them at the server if the server"
        " supports it (RFC 7009)."
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the grant's name")
    options.add_job(parser)


def _add_login(parser: ArgumentParser) -> None:
    parser.description = (
        "Log in for a grant: show a fresh code, and wait for the approval. For a grant that exists"
        " already, deviceflow resume NAME does the same."
    )
    parser.add_argument("name", metavar="NAME", help="the grant's name")
    options.add_target(parser)
    grant_login.add_again(parser)
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    parser.add_argument(
        "--timeout", type=arguments.seconds, metavar="SECONDS", help="how long to wait"
    )
    options.add_job(parser, changes=True)


def _add_doubt(parser: ArgumentParser) -> None:
    parser.description = (
        "Mark all grants as in doubt. Run it once after a backup of the store was restored: its"
        " refresh tokens may have been used since, and a server that sees one again may revoke all"
        " tokens of the grant. A grant in doubt is used until its access token ends."
    )
    options.add_job(parser)


def _list(args: options.JobOptions) -> int:
    some = args.json or not streams.on_terminal()
    for view in stored.client(args).grants():
        some = True
        streams.show(json.dumps(view.to_dict()) if args.json else stored.grant_line(view))
    if not some:
        log_in = stored.command(args, "grants login NAME PROVIDER")
        streams.say(f"There are no grants. To log in for one: {log_in}")
    return 0


def _show(args: NameOptions) -> int:
    stored.say_grant(args, stored.client(args).grant(args.name))
    return 0


def _login(args: LoginOptions) -> int:
    named = any((args.target, args.profile, getattr(args, "issuer", None)))
    named = named or getattr(args, "device_authorization_endpoint", None) is not None
    client = stored.client(args, creates=named, notifies=True)
    provider = target.provider(args) if named else None
    if provider is not None:
        target.look_for_secret(provider)
    purpose = target.purpose(args) if named else None
    return grant_login.log_in(args, client, args.name, provider, purpose)


def _log_out(args: LogoutOptions) -> int:
    client = stored.client(args, notifies=True)
    name = _named(args, client)
    try:
        view = client.log_out(name)
    except UnknownGrantError as unknown:
        with suppress(DeviceFlowError):
            login = client.get(name)
            cancel = stored.command(args, f"cancel {login.id}")
            unknown.hint = (
                "A login has this id. Its token is yours: revoke it at the server."
                if login.state.ended
                else f"A login has this id: {cancel}"
            )
        raise
    stored.say_grant(args, view)
    if view.revocations:
        streams.say(
            "The tokens were wiped. They could not be revoked at the server yet: deviceflow sweep"
            " tries again."
        )
    return 0


def _named(args: LogoutOptions, client: Client) -> str:
    """Return the name that was given. For none, the error has the names that there are.

    Raises:
        UsageError: No name was given.
    """
    if args.name is not None:
        return args.name
    names = [argument(view.name) for view in client.grants() if view.state.gives_tokens]
    raise UsageError(
        "Log out of what? No name was given.",
        hint=f"Give one of: {', '.join(names)}" if names else "There are no grants to end.",
    )


def _doubt(args: options.JobOptions) -> int:
    marked = stored.client(args).doubt_grants()
    if args.json:
        streams.show(json.dumps({"marked": marked}))
    else:
        streams.show("1 grant is in doubt" if marked == 1 else f"{marked} grants are in doubt")
    return 0


COMMANDS: Final = {
    "grants": Command(_add_grants),
    "logout": Command(_add_logout, stored.reporting(_log_out)),
}
