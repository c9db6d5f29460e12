"""`deviceflow config show`: show the effective settings of a login and their sources."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from deviceflow.cli import options, streams
from deviceflow.cli.commands import Command
from deviceflow.cli.target import Target
from deviceflow.credentials import profiles

if TYPE_CHECKING:
    from argparse import ArgumentParser


class ShowOptions(options.TargetOptions, options.JSONOption):
    """The options of `show`."""


def _add_config(parser: ArgumentParser) -> None:
    parser.description = "Show the effective settings of a login, and the source of each."
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    Command(_add_show, _show).add_to(actions.add_parser("show", help="show the settings"))


def _add_show(parser: ArgumentParser) -> None:
    options.add_target(parser, name="")
    options.add_json(parser)


def _show(args: ShowOptions) -> int:
    """Print the settings. Secrets are printed as references.

    Raises:
        UsageError: The file or the profile cannot be used.
    """
    found, there = Target(args, named=False).settled, profiles.load()
    if args.json:
        shown = {
            "settings": {
                name: {"value": setting.value, "source": setting.source}
                for name, setting in found.settings.items()
            },
            "passed_over": found.passed_over,
            "file": str(there.path),
            "profiles": there.profiles(),
        }
        streams.show(json.dumps(shown))
        return 0
    for name, setting in found.settings.items():
        streams.show(
            f"{name} = {json.dumps(setting.value, ensure_ascii=False)}  # {setting.source}"
        )
    if not found.settings:
        streams.show("# no settings")
    for what in found.passed_over:
        streams.show(f"# not used: {what}")
    streams.show(f"# profiles in {there.path}: {', '.join(there.profiles()) or 'none'}")
    return 0


COMMANDS: Final = {"config": Command(_add_config)}
