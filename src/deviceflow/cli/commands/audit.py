"""`deviceflow audit`: the trail's evidence, and what is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deviceflow.cli import options, stored
from deviceflow.cli.commands import Command, audit_evidence, audit_reading

if TYPE_CHECKING:
    from argparse import ArgumentParser

_EXIT_CODES: Final = (
    "exit codes: 0 done, 1 verify has found something, 2 wrong usage, or no such login, 5 what was"
    " to be written could not be, 74 the store, a key, a digest or a trail cannot be used, 130"
    " interrupted"
)


def _add_audit(parser: ArgumentParser) -> None:
    parser.description = (
        "The audit trail: whether anybody has changed it, and what is in it. Stores in a file or a"
        " database keep one; each transition of each login is an event of it."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, (what, command) in (audit_evidence.ACTIONS | audit_reading.ACTIONS).items():
        action = actions.add_parser(
            name,
            help=what,
            description=f"{what[0].upper()}{what[1:]}.",
            epilog=_EXIT_CODES,
            formatter_class=parser.formatter_class,
        )
        Command(command.add_arguments, command.run and stored.reporting(command.run)).add_to(action)
        options.add_store(action)


COMMANDS: Final = {"audit": Command(_add_audit)}
