"""The commands that hand a login's token over: `token` and `export-env`."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING

from deviceflow.cli import stored, streams
from deviceflow.cli.sink import TokenFile
from deviceflow.core.secret import Secret
from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from deviceflow.client._sync import Client
    from deviceflow.core.provider import Token

_STUDIO = ("DVC_STUDIO_TOKEN", "DVC_STUDIO_URL")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def run(args: Namespace) -> int:
    """Hand the token over, and return the exit code."""
    return stored.reporting({"token": _token, "export-env": _export_env}[args.command], args)


def _token(args: Namespace) -> int:
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
            said = stored.facts(stored.stands(client.get(args.id, secrets=False)))
            if sink is not None:
                said["output"] = args.output
            else:
                said["token"] = token.as_dict() if args.format == "json" else kept
            streams.show(json.dumps(said))

    _hand_over(client, args, put)
    return 0


def _export_env(args: Namespace) -> int:
    if args.name is not None and not _NAME.fullmatch(args.name):
        raise UsageError(
            f"{args.name!r} cannot name a variable.", hint="Letters, digits and _, no digit first."
        )
    client = stored.client(args)
    provider = client.get(args.id, secrets=False).provider
    if args.name is None and provider.dialect != "studio":
        raise UsageError(
            "Only DVC Studio's variables have names that are known here.",
            hint="Name the one for the token: --name GITHUB_TOKEN",
        )

    def put(token: Token) -> None:
        text = token.access_token.reveal()
        given = (
            {args.name: text}
            if args.name
            else dict(zip(_STUDIO, (text, provider.server), strict=True))
        )
        # The server chose the text, and a shell is about to read it.
        lines = [f"export {name}={shlex.quote(value)}" for name, value in given.items()]
        streams.show("\n".join(lines), foreign=True)

    _hand_over(client, args, put)
    return 0


def _hand_over(client: Client, args: Namespace, put: Callable[[Token], object]) -> None:
    if args.acknowledge:
        with client.collect(args.id) as token:
            put(token)
    else:
        put(client.token(args.id))
