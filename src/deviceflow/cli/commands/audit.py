"""`deviceflow audit`: verify the trail, and read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deviceflow.cli import options, stored
from deviceflow.cli.commands import Command, audit_evidence, audit_reading

if TYPE_CHECKING:
    from argparse import ArgumentParser

_EXIT_CODES: Final = (
    "exit codes: 0 done, 1 verify has findings, 2 wrong usage or no such login, 5 the output could"
    " not be written, 74 the store, a key, a digest or a trail cannot be used, 130 interrupted"
)


def _add_audit(parser: ArgumentParser) -> None:
    parser.description = (
        "Verify and read the audit trail, which has an event for each action on a login. SQLite and"
        " PostgreSQL stores keep a trail."
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
