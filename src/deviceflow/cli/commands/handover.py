"""The commands that hand a login's token over: `token` and `export-env`."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Final

from deviceflow.cli import exits, options, stored, streams
from deviceflow.cli.commands import Command
from deviceflow.cli.sink import TokenFile
from deviceflow.core.secret import Secret
from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Callable

    from deviceflow.client._sync import Client
    from deviceflow.core.provider import Token

_STUDIO = ("DVC_STUDIO_TOKEN", "DVC_STUDIO_URL")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class HandOverOptions(options.IdArgument, options.JobOptions):
    """What both commands take."""

    acknowledge: bool


class TokenOptions(options.FormatOption, HandOverOptions):
    """What `token` takes."""

    output: str | None


class ExportOptions(HandOverOptions):
    """What `export-env` takes."""

    variable: str | None


def _add_acknowledge(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--acknowledge",
        action="store_true",
        help="then wipe it from the store; else `purge` revokes it after a while",
    )


def _add_token(parser: ArgumentParser) -> None:
    parser.description = "Print the token of a login that was approved."
    parser.add_argument("--output", metavar="FILE", help="put it into this file instead (0600)")
    options.add_format(parser)
    _add_acknowledge(parser)
    options.add_id(parser)
    options.add_job(parser)


def _add_export_env(parser: ArgumentParser) -> None:
    # On one line, which is not to be broken.
    parser.description = 'For a shell\'s eval: env=$(deviceflow export-env ID) && eval "$env"'
    parser.epilog = exits.EXPLAINED
    parser.add_argument(
        "--variable",
        metavar="NAME",
        help="the token's variable; by default Studio's two, DVC_STUDIO_TOKEN and …_URL",
    )
    _add_acknowledge(parser)
    options.add_id(parser)
    options.add_store(parser)
    parser.set_defaults(json=False)  # a shell reads what it prints


def _token(args: TokenOptions) -> int:
    client = stored.client(args)
    sink = None if args.output is None else TokenFile(args.output)

    def put(token: Token) -> None:
        kept = json.dumps(token.as_dict()) if args.format == "json" else token.access_token.reveal()
        if sink is not None:
            sink.put(Secret(kept))
            streams.say(f"The token is in {sink.where}.")
        elif not args.json:
            streams.show(kept, foreign=True)
        if args.json:
            said = stored.facts(client.get(args.id))
            if sink is not None:
                said["output"] = args.output
            else:
                said["token"] = token.as_dict() if args.format == "json" else kept
            streams.show(json.dumps(said))

    _hand_over(client, args, put)
    return 0


def _export_env(args: ExportOptions) -> int:
    if args.variable is not None and not _NAME.fullmatch(args.variable):
        raise UsageError(
            f"{args.variable!r} cannot name a variable.",
            hint="Letters, digits and _, no digit first.",
        )
    client = stored.client(args)
    provider = client.get(args.id).provider
    if args.variable is None and provider.dialect != "studio":
        raise UsageError(
            "Only DVC Studio's variables have names that are known here.",
            hint="Name the one for the token: --variable GITHUB_TOKEN",
        )

    def put(token: Token) -> None:
        text = token.access_token.reveal()
        given = (
            {args.variable: text}
            if args.variable
            else dict(zip(_STUDIO, (text, provider.server), strict=True))
        )
        # The server chose the text, and a shell is about to read it.
        lines = [f"export {name}={shlex.quote(value)}" for name, value in given.items()]
        streams.show("\n".join(lines), foreign=True)

    _hand_over(client, args, put)
    return 0


def _hand_over(client: Client, args: HandOverOptions, put: Callable[[Token], object]) -> None:
    if args.acknowledge:
        with client.collect(args.id) as token:
            put(token)
    else:
        put(client.get_token(args.id))


COMMANDS: Final = {
    "token": Command(_add_token, stored.reporting(_token)),
    "export-env": Command(_add_export_env, stored.reporting(_export_env)),
}
