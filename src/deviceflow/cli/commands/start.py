"""`deviceflow start`: start a login, which other commands continue."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from deviceflow.cli import options, prompt, stored, streams
from deviceflow.cli.commands import Command
from deviceflow.cli.target import Target
from deviceflow.core.grant import check_name
from deviceflow.core.notice import argument

if TYPE_CHECKING:
    from argparse import ArgumentParser


class StartOptions(options.TargetOptions, options.JobOptions):
    """The options of `start`."""


def _add_start(parser: ArgumentParser) -> None:
    parser.description = (
        "Start a login: print its id to stdout, and instructions to stderr. One login at a time has"
        " a name: an open one is shown again, and once it is approved its token is the name's. The"
        " other options are those of login."
    )
    options.add_target(parser)
    options.add_job(parser)


def _start(args: StartOptions) -> int:
    target = Target(args)
    provider = target.provider()
    if target.name is not None:
        check_name(target.name)
        provider = provider.for_grant()  # its token is to last
    client = stored.client(args, creates=True)
    login = client.start(provider, name=target.name, purpose=target.purpose)
    if args.json:
        streams.show(json.dumps(stored.all_facts(login)))
        return 0
    if not login.state.ended:
        prompt.show_instructions(login)
        streams.say(
            f"To wait for it: {stored.command(args, f'wait {argument(login.name or login.id)}')}"
        )
    streams.show(login.id)
    return 0


COMMANDS: Final = {"start": Command(_add_start, stored.reporting(_start))}
