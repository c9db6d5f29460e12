"""`deviceflow start`: start a login, which other commands continue."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from deviceflow.cli import options, prompt, stored, streams, target
from deviceflow.cli.commands import Command
from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser


class StartOptions(options.TargetOptions, options.JobOptions):
    """The options of `start`."""

    name: str | None


def _add_start(parser: ArgumentParser) -> None:
    parser.description = (
        "Start a login: print its id to stdout, and instructions to stderr. The options for the"
        " provider are those of login."
    )
    options.add_target(parser)
    parser.add_argument(
        "--name", help="one login at a time of this name: an open one is shown again"
    )
    options.add_job(parser)


def _start(args: StartOptions) -> int:
    if args.name == "":
        raise UsageError(
            "The name is empty. All programs that forgot their name would share one login."
        )
    provider = target.provider(args)
    target.look_for_secret(provider)
    client = stored.client(args, creates=True)
    login = client.start(provider, name=args.name, purpose=target.purpose(args))
    if args.json:
        streams.show(json.dumps(stored.all_facts(login)))
        return 0
    if not login.state.ended:
        prompt.show_instructions(login)
    streams.show(login.id)
    return 0


COMMANDS: Final = {"start": Command(_add_start, stored.reporting(_start))}
