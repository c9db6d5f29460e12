"""The parser as `argparse-manpage` needs it, to make a manual page of the command's own help."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from deviceflow.cli import exits
from deviceflow.cli.commands import COMMANDS
from deviceflow.cli.parser import build

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENVIRONMENT = (
    "The logins and the grants are in the store that DEVICEFLOW_STORE names, else in a file of the"
    " user. The documentation lists all variables, and the settings of a profile."
)

_WIDTH = 60


def build_manual() -> argparse.ArgumentParser:
    """Return the parser of all commands, with what else belongs into a manual page."""
    parser: Any = build()
    parser.epilog = None
    parser._positionals.title = "commands"  # noqa: SLF001  # argparse has no way
    parser._manpage = [  # noqa: SLF001  # as argparse-manpage documents
        {"heading": "EXIT STATUS", "content": exits.EXPLAINED.partition(": ")[2] + "."},
        {"heading": "ENVIRONMENT", "content": _ENVIRONMENT},
    ]
    for name, command in _commands(parser):
        examples = [f"  deviceflow {name} {rest}" for rest in COMMANDS[name].examples]
        command.description = "\n".join([command.description or "", "", *examples])
        for _, each in [("", command), *_commands(command)]:
            each.formatter_class = _narrow
    manual: argparse.ArgumentParser = parser
    return manual


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:  # noqa: SLF001  # as above
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            action.help = None  # the groups of --help stand in its place
            yield from action.choices.items()


def _narrow(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, width=_WIDTH)  # a page is indented
