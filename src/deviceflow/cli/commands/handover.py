"""The commands that hand a login's token over: `token` and `export-env`."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Any, Final

from deviceflow.cli import arguments, exits, options, stored, streams
from deviceflow.cli.commands import Command
from deviceflow.cli.sink import TokenFile
from deviceflow.core.grant_view import GrantView
from deviceflow.core.notice import argument
from deviceflow.core.sanitize import printable
from deviceflow.core.secret import Secret
from deviceflow.errors import UnknownGrantError, UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Callable

    from deviceflow.client._sync import Client
    from deviceflow.core.access_token import AccessToken
    from deviceflow.core.provider import Token

_MIN_TTL: Final = 60.0
_STUDIO = ("DVC_STUDIO_TOKEN", "DVC_STUDIO_URL")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class HandOverOptions(options.IdArgument, options.JobOptions):
    """The options of both commands."""

    acknowledge: bool


class TokenOptions(options.FormatOption, options.NoticeOptions, HandOverOptions):
    """The options of `token`."""

    output: str | None
    fresh: bool
    min_ttl: float | None
    timeout: float | None


class ExportOptions(HandOverOptions):
    """The options of `export-env`."""

    variable: str | None


def _add_acknowledge(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--acknowledge",
        action="store_true",
        help="wipe the token from the store afterwards; otherwise `purge` revokes it later",
    )


def _add_token(parser: ArgumentParser) -> None:
    parser.description = (
        "Print a token of a grant that can be used now, refreshed if need be; or the token of a"
        " login that was approved."
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="for jobs: NAME is a grant's, and with --profile it may be new",
    )
    parser.add_argument(
        "--min-ttl",
        type=arguments.seconds,
        metavar="SECONDS",
        help=f"of a grant: how long the token must live at least ({_MIN_TTL:g})",
    )
    parser.add_argument(
        "--timeout",
        type=arguments.seconds,
        metavar="SECONDS",
        help="of a grant: how long the command may take to get one",
    )
    parser.add_argument("--output", metavar="FILE", help="write it to this file instead (0600)")
    options.add_format(parser)
    options.add_notices(
        parser, also=", and its server for a grant that the store does not have yet"
    )
    _add_acknowledge(parser)
    parser.add_argument(
        "id",
        metavar="NAME|ID",
        help="the grant's name, or the login's id, as printed by start",
    )
    options.add_job(parser)


def _add_export_env(parser: ArgumentParser) -> None:
    # On one line, which argparse must not wrap.
    parser.description = 'For a shell\'s eval: env=$(deviceflow export-env ID) && eval "$env"'
    parser.epilog = exits.EXPLAINED
    parser.add_argument(
        "--variable",
        metavar="NAME",
        help="the variable for the token; by default DVC_STUDIO_TOKEN and DVC_STUDIO_URL",
    )
    _add_acknowledge(parser)
    options.add_id(parser)
    options.add_store(parser)
    parser.set_defaults(json=False)  # a shell evaluates the output


def _check_options(args: TokenOptions) -> None:
    if args.fresh and args.acknowledge:
        raise UsageError(
            "--acknowledge is for the token of a login: a grant keeps its tokens.",
            hint=f"To end the grant: {stored.command(args, f'logout {argument(args.id)}')}",
        )
    for option, value in (("--min-ttl", args.min_ttl), ("--timeout", args.timeout)):
        if not args.fresh and value is not None:
            raise UsageError(
                f"{option} is for grants, and {printable(args.id, 100)} is a login.",
                hint=f"Omit {option}.",
            )


def _token(args: TokenOptions) -> int:
    """Print or save a token.

    Raises:
        UsageError: Options do not go together, or there is no such login or grant.
    """
    creates = args.fresh and _may_begin(args)
    client = stored.client(args, creates=creates, notifies=True)
    args.fresh = args.fresh or isinstance(stored.find(args, client, args.id), GrantView)
    _check_options(args)
    sink = None if args.output is None else TokenFile(args.output)

    def put(token: Token | AccessToken) -> None:
        kept = json.dumps(token.as_dict()) if args.format == "json" else token.access_token.reveal()
        if sink is not None:
            sink.put(Secret(kept))
            streams.say(f"The token was saved in {sink.where}.")
        elif not args.json:
            streams.show(kept, foreign=True)
        if args.json:
            facts = _facts(client, args)
            if sink is not None:
                facts["output"] = args.output
            else:
                facts["token"] = token.as_dict() if args.format == "json" else kept
            streams.show(json.dumps(facts))

    if args.fresh:
        put(_fresh(client, args))
        return 0
    _hand_over(client, args, put)
    return 0


def _may_begin(args: TokenOptions) -> bool:
    """Tell whether the store is to be created: a job's first night may come before any login."""
    if stored.exists(args):
        return False
    from deviceflow.cli import target  # costs, and is needed once in a store's life

    return target.of_profile(args.profile) is not None


def _fresh(client: Client, args: TokenOptions) -> AccessToken:
    """Return a token of a grant; the profile says how to log in for one that is not stored yet."""
    min_ttl = _MIN_TTL if args.min_ttl is None else args.min_ttl
    try:
        return client.get_token(args.id, min_ttl=min_ttl, timeout=args.timeout)
    except UnknownGrantError:
        from deviceflow.cli import target  # costs, and is needed once in a grant's life

        settings = target.of_profile(args.profile)
        if settings is None:
            raise
    provider, purpose = settings
    return client.get_token(
        args.id, provider, purpose=purpose, min_ttl=min_ttl, timeout=args.timeout
    )


def _facts(client: Client, args: TokenOptions) -> dict[str, Any]:
    return client.grant(args.id).to_dict() if args.fresh else stored.facts(client.get(args.id))


def _export_env(args: ExportOptions) -> int:
    if args.variable is not None and not _NAME.fullmatch(args.variable):
        raise UsageError(
            f"{args.variable!r} is not a valid name of a variable.",
            hint="Use letters, digits and underscores; the first character must not be a digit.",
        )
    client = stored.client(args)
    provider = client.get(args.id).provider
    if args.variable is None and provider.dialect != "studio":
        raise UsageError(
            "Only tokens of DVC Studio have default variables.",
            hint="Name the variable for the token: --variable GITHUB_TOKEN",
        )

    def put(token: Token) -> None:
        text = token.access_token.reveal()
        given = (
            {args.variable: text}
            if args.variable
            else dict(zip(_STUDIO, (text, provider.server), strict=True))
        )
        # The text is from the server, and a shell will evaluate it.
        lines = [f"export {name}={shlex.quote(value)}" for name, value in given.items()]
        streams.show("\n".join(lines), foreign=True)

    _hand_over(client, args, put)
    return 0


def _hand_over(client: Client, args: HandOverOptions, put: Callable[[Token], object]) -> None:
    if args.acknowledge:
        with client.collect(args.id) as token:
            put(token)
    else:
        put(client.collect_token(args.id))


COMMANDS: Final = {
    "token": Command(_add_token, stored.reporting(_token)),
    "export-env": Command(_add_export_env, stored.reporting(_export_env)),
}
