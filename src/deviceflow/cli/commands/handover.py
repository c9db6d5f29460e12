"""The commands that give a token: `token` and `export-env`."""

from __future__ import annotations

import json
import re
import shlex
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from deviceflow.cli import arguments, exits, options, stored, streams
from deviceflow.cli.commands import Command
from deviceflow.cli.sink import TokenFile, formatted
from deviceflow.core.notice import argument
from deviceflow.core.sanitize import printable
from deviceflow.core.secret import Secret
from deviceflow.errors import UnknownGrantError, UnknownLoginError, UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Callable

    from deviceflow.client._sync import Client
    from deviceflow.core.access_token import AccessToken
    from deviceflow.core.provider import Token

_MIN_TTL: Final = 60.0
_STUDIO = ("DVC_STUDIO_TOKEN", "DVC_STUDIO_URL")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class HandOverOptions(options.JobOptions):
    """The options of both commands."""

    id: str | None
    acknowledge: bool


class TokenOptions(options.FormatOption, options.NoticeOptions, HandOverOptions):
    """The options of `token`."""

    output: str | None
    min_ttl: float | None
    timeout: float | None


class ExportOptions(HandOverOptions):
    """The options of `export-env`."""

    variable: str | None


def _add_acknowledge(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--acknowledge",
        action="store_true",
        help="by a login's id: wipe the token from the store afterwards; otherwise `purge` revokes"
        " it later",
    )


def _add_id(parser: ArgumentParser) -> None:
    parser.add_argument(
        "id",
        nargs="?",
        metavar="NAME|ID",
        help="the name, which is not needed where there is only one; or a login's id",
    )


def _add_token(parser: ArgumentParser) -> None:
    parser.description = (
        "Print a token that is good now, refreshed if need be. By the id of a login that was"
        " approved, print the token that it brought."
    )
    parser.add_argument(
        "--min-ttl",
        type=arguments.seconds,
        metavar="SECONDS",
        help=f"how long the token must live at least ({_MIN_TTL:g})",
    )
    parser.add_argument(
        "--timeout",
        type=arguments.seconds,
        metavar="SECONDS",
        help="how long the command may take to get one",
    )
    parser.add_argument("--output", metavar="FILE", help="write it to this file instead (0600)")
    options.add_format(parser)
    options.add_notices(parser, also=", and its server for a name that the store does not have yet")
    _add_acknowledge(parser)
    _add_id(parser)
    options.add_job(parser)


def _add_export_env(parser: ArgumentParser) -> None:
    # On one line, which argparse must not wrap.
    parser.description = 'For a shell\'s eval: env=$(deviceflow export-env NAME) && eval "$env"'
    parser.epilog = exits.EXPLAINED
    parser.add_argument(
        "--variable",
        metavar="NAME",
        help="the variable for the token; by default DVC_STUDIO_TOKEN and DVC_STUDIO_URL",
    )
    _add_acknowledge(parser)
    _add_id(parser)
    options.add_store(parser)
    parser.set_defaults(json=False)  # a shell evaluates the output


def _token(args: TokenOptions) -> int:
    """Print or save a token.

    Raises:
        UsageError: Options do not go together.
        UnknownLoginError: The store has nothing of that name or id.
    """
    client = stored.client(args, creates=_may_begin(args), notifies=True)
    word = _word(client, args)
    sink = None if args.output is None else TokenFile(args.output)

    def put(token: Token | AccessToken, about: Callable[[], dict[str, Any]]) -> None:
        kept = formatted(token, args.format)
        if sink is not None:
            sink.put(Secret(kept))
            streams.say(f"The token was saved in {sink.where}.")
        elif not args.json:
            streams.show(kept, foreign=True)
        if args.json:
            facts = about()
            if sink is not None:
                facts["output"] = args.output
            else:
                facts["token"] = token.as_dict() if args.format == "json" else kept
            streams.show(json.dumps(facts))

    token = _of_name(client, args, word)
    if token is not None:
        put(token, lambda: client.grant(word).to_dict())
    else:
        about = lambda: stored.facts(client.get(word))  # noqa: E731
        _hand_over(client, word, lambda token: put(token, about), acknowledge=args.acknowledge)
    return 0


def _word(client: Client, args: HandOverOptions) -> str:
    return stored.the_name(args, client, "The token of what?") if args.id is None else args.id


def _may_begin(args: TokenOptions) -> bool:
    """Tell whether the store is to be created: a job's first night may come before any login."""
    if args.profile is None or stored.exists(args):
        return False
    from deviceflow.cli import target  # costs, and is needed once in a store's life

    return target.of_profile(args.profile) is not None


def _of_name(client: Client, args: TokenOptions, name: str) -> AccessToken | None:
    """Return the token of a name; None for a login's id.

    The profile says how to log in for a name that the store does not have yet.
    """
    if args.acknowledge:
        _check_id(client, args, name)
        return None
    min_ttl = _MIN_TTL if args.min_ttl is None else args.min_ttl
    ask = partial(client.get_token, name, min_ttl=min_ttl, timeout=args.timeout)
    try:
        return ask()
    except UnknownGrantError:
        if _is_id(client, name):
            _check_options(args, name)
            return None
    from deviceflow.cli import target  # costs, and is needed once in a name's life

    settings = target.of_profile(args.profile)
    if settings is None:
        stored.unknown(args, client, name)
    provider, purpose = settings
    return ask(provider=provider, purpose=purpose)


def _is_id(client: Client, word: str) -> bool:
    try:
        client.get(word)
    except UnknownLoginError:
        return False
    return True


def _check_id(client: Client, args: HandOverOptions, word: str) -> None:
    """Check that a word is the id of a login, whose token can be acknowledged.

    Raises:
        UsageError: It is a name.
        UnknownLoginError: The store has neither.
    """
    found = stored.find(args, client, word)
    if found.id != word:
        raise UsageError(
            f"--acknowledge is for a login by its id: {printable(word, 100)} keeps its tokens.",
            hint=f"To end it: {stored.command(args, f'logout {argument(word)}')}",
        )


def _check_options(args: TokenOptions, login_id: str) -> None:
    for option, value in (("--min-ttl", args.min_ttl), ("--timeout", args.timeout)):
        if value is not None:
            raise UsageError(
                f"{option} is for names, and {printable(login_id, 100)} is the id of a login.",
                hint=f"Omit {option}.",
            )


def _export_env(args: ExportOptions) -> int:
    if args.variable is not None and not _NAME.fullmatch(args.variable):
        raise UsageError(
            f"{args.variable!r} is not a valid name of a variable.",
            hint="Use letters, digits and underscores; the first character must not be a digit.",
        )
    client = stored.client(args, notifies=True)
    word = _word(client, args)
    if args.acknowledge:
        _check_id(client, args, word)
    found = stored.find(args, client, word)
    provider = found.provider
    if args.variable is None and provider.dialect != "studio":
        raise UsageError(
            "Only tokens of DVC Studio have default variables.",
            hint="Name the variable for the token: --variable GITHUB_TOKEN",
        )

    def put(token: Token | AccessToken) -> None:
        text = token.access_token.reveal()
        given = (
            {args.variable: text}
            if args.variable
            else dict(zip(_STUDIO, (text, provider.server), strict=True))
        )
        # The text is from the server, and a shell will evaluate it.
        lines = [f"export {name}={shlex.quote(value)}" for name, value in given.items()]
        streams.show("\n".join(lines), foreign=True)

    if found.id == word:
        _hand_over(client, word, put, acknowledge=args.acknowledge)
    else:
        put(client.get_token(word))
    return 0


def _hand_over(
    client: Client, login_id: str, put: Callable[[Token], object], *, acknowledge: bool
) -> None:
    if acknowledge:
        with client.collect(login_id) as token:
            put(token)
    else:
        put(client.collect_token(login_id))


COMMANDS: Final = {
    "token": Command(_add_token, stored.reporting(_token)),
    "export-env": Command(_add_export_env, stored.reporting(_export_env)),
}
