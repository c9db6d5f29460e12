"""`deviceflow invalidate` and `check`: whether the token of a grant is still valid."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Final

from deviceflow.cli import exits, options, stored, streams
from deviceflow.cli.commands import Command
from deviceflow.core.grant import QUIET
from deviceflow.core.secret import Secret
from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser


class CheckOptions(options.NoticeOptions, options.JobOptions):
    """The options of `check`."""

    name: str


class InvalidateOptions(CheckOptions):
    """The options of `invalidate`."""

    token_stdin: bool


def _add_name(parser: ArgumentParser) -> None:
    options.add_notices(parser)
    parser.add_argument("name", metavar="NAME", help="the grant's name")
    options.add_job(parser)


def _add_check(parser: ArgumentParser) -> None:
    parser.description = (
        "Ask the server whether the access token of a grant is valid, by introspection (RFC 7662)"
        " or at its userinfo endpoint, if the server has one that this client may use. If the token"
        " is not valid, refresh the grant. Exit code 0: valid, or refreshed; 5: not valid, and"
        f" neither is the next one; {exits.NOT_ASKED}: the server cannot be asked, or does not say;"
        " 75: a person must log in."
    )
    _add_name(parser)


def _add_invalidate(parser: ArgumentParser) -> None:
    parser.description = (
        "Say that a server refused the access token of a grant: nobody gets it any more, and the"
        " grant is refreshed. If it cannot be refreshed, exit code 75: a person must log in."
    )
    parser.add_argument(
        "--token-stdin",
        action="store_true",
        help="read the refused token from stdin: a newer one of the grant stays. Without this, the"
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
    if args.token_stdin:
        refused = Secret(sys.stdin.readline().strip())
        if not refused.reveal():
            raise UsageError(
                "There is no token at stdin.",
                hint="Without --token-stdin, the one in use is meant.",
            )
    done = client.invalidate(args.name, refused)
    token = client.get_token(args.name, min_ttl=0.0)
    stays = refused is not None and token.access_token == refused
    if args.json:
        facts = {"invalidated": done, "stays": stays}
        streams.show(json.dumps(client.grant(args.name).to_dict() | facts))
    elif stays:
        streams.say(
            "deviceflow: The token stays in use: the one before it was refused as well, less than"
            f" {QUIET:g} seconds ago. A server that refuses each new token refuses the grant."
        )
    elif done:
        streams.show(f"{args.name}: refreshed, generation {token.generation} is in use")
    else:
        streams.show(f"{args.name}: replaced before, generation {token.generation} is in use")
    return exits.PENDING if stays else 0


def _check(args: CheckOptions) -> int:
    found = stored.client(args, notifies=True).check(args.name)
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


COMMANDS: Final = {
    "check": Command(_add_check, stored.reporting(_check)),
    "invalidate": Command(_add_invalidate, stored.reporting(_invalidate)),
}
