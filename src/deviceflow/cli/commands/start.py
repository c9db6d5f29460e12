"""`deviceflow start`: start a login, which other commands continue."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from deviceflow.cli import options, stored, streams, target
from deviceflow.cli.commands import Command
from deviceflow.core.explain import instructions
from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser


class StartOptions(options.TargetOptions, options.JobOptions):
    """The options of `start`."""

    key: str | None


def _add_start(parser: ArgumentParser) -> None:
    parser.description = (
        "Start a login: print its id to stdout, and instructions to stderr. The options for the"
        " provider are those of login."
    )
    options.add_target(parser)
    parser.add_argument("--key", help="one login at a time of this name: a live one is shown again")
    options.add_job(parser)


def _start(args: StartOptions) -> int:
    if args.key == "":
        raise UsageError("The key is empty: whoever forgot theirs would share a login by it.")
    provider = target.provider(args)
    target.look_for_secret(provider)
    flow = stored.client(args).start(provider, key=args.key, purpose=target.purpose(args))
    if args.json:
        streams.show(json.dumps(stored.all_facts(flow)))
        return 0
    if not flow.state.ended:
        for said in instructions(flow):
            streams.say(said)
    streams.show(flow.id)
    return 0


COMMANDS: Final = {"start": Command(_add_start, stored.reporting(_start))}
