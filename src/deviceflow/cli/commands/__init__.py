"""The commands. Each module has the options and the functions of its commands."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Callable
    from typing import Any


class Command:
    """A command: its options and its function.

    Args:
        add_arguments: Adds the options to a parser.
        run: Runs the command with the parsed arguments, and returns the exit code. None if the
            command has subcommands.
    """

    def __init__(
        self,
        add_arguments: Callable[[ArgumentParser], None],
        run: Callable[[Any], int] | None = None,
    ) -> None:
        self.add_arguments = add_arguments
        self.run = run

    def add_to(self, parser: ArgumentParser) -> None:
        """Add the command's options and its function to a parser."""
        self.add_arguments(parser)
        if self.run is not None:
            parser.set_defaults(run=self.run)


class Entry:
    """An entry in the list of commands: its help, and its module, which is loaded when needed.

    Args:
        help: One line of help.
        module: The module whose `COMMANDS` contains the command.
    """

    def __init__(self, help: str, module: str) -> None:  # noqa: A002  # as argparse calls it
        self.help = help
        self._module = module

    def load(self, name: str) -> Command:
        """Import the module, and return the command."""
        found: dict[str, Command] = import_module(f"{__name__}.{self._module}").COMMANDS
        return found[name]


COMMANDS = {
    "login": Entry("log in and save the token", "login"),
    "resume": Entry("continue an interrupted login", "login"),
    "start": Entry("start a login for the commands below", "start"),
    "step": Entry("do what is due for a login", "steps"),
    "wait": Entry("wait until a login ends", "steps"),
    "status": Entry("show the state of a login", "status"),
    "cancel": Entry("cancel a login", "steps"),
    "token": Entry("print the token of a login", "handover"),
    "export-env": Entry("print the token as shell commands", "handover"),
    "list": Entry("list the logins", "status"),
    "grants": Entry("list, show and end grants, and log in for one", "grants"),
    "logout": Entry("end a grant, and revoke its tokens", "grants"),
    "sweep": Entry("step each login that is due", "upkeep"),
    "worker": Entry("drive all logins of a store", "worker"),
    "purge": Entry("wipe old secrets and delete old logins", "upkeep"),
    "keys": Entry("create and rotate the sealing keys", "keys"),
    "audit": Entry("verify and read the audit trail", "audit"),
    "doctor": Entry("check whether a login to a provider works", "doctor"),
    "providers": Entry("list and check known providers", "providers"),
    "config": Entry("show the effective settings", "config"),
    "demo": Entry("try a login against a local server", "demo"),
    "serve": Entry("run a local authorization server", "serve"),
    "diagram": Entry("draw the state machines", "diagram"),
}
