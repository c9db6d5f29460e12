"""The commands, each with its options beside what it does. `COMMANDS` says where each one is."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Callable
    from typing import Any


class Command:
    """What a command takes, and what it does.

    Args:
        add_arguments: Adds its options to a parser.
        run: Does it, given what was parsed, and returns the exit code. None where each of the
            command's actions has one of its own.
    """

    def __init__(
        self,
        add_arguments: Callable[[ArgumentParser], None],
        run: Callable[[Any], int] | None = None,
    ) -> None:
        self.add_arguments = add_arguments
        self.run = run

    def add_to(self, parser: ArgumentParser) -> None:
        """Have a parser take the command's options, and know what is to be run."""
        self.add_arguments(parser)
        if self.run is not None:
            parser.set_defaults(run=self.run)


class Entry:
    """A command by name: its line of help, and the module that has it.

    Args:
        help: The line.
        module: The module, whose `COMMANDS` has the command by its name.
    """

    def __init__(self, help: str, module: str) -> None:  # noqa: A002  # as argparse calls it
        self.help = help
        self._module = module

    def load(self, name: str) -> Command:
        """Import the command of that name."""
        found: dict[str, Command] = import_module(f"{__name__}.{self._module}").COMMANDS
        return found[name]


COMMANDS = {
    "login": Entry("log in, and keep the token", "login"),
    "resume": Entry("go on with a login that was interrupted", "login"),
    "start": Entry("begin a login, for the commands below", "start"),
    "step": Entry("do what is due for it", "steps"),
    "wait": Entry("wait until it ends", "steps"),
    "status": Entry("say where it stands", "status"),
    "cancel": Entry("give it up", "steps"),
    "token": Entry("print its token", "handover"),
    "export-env": Entry("print its token for a shell", "handover"),
    "list": Entry("list the logins", "status"),
    "sweep": Entry("step each login that is due", "upkeep"),
    "purge": Entry("wipe what is old", "upkeep"),
    "keys": Entry("the keys that seal what is kept", "keys"),
    "audit": Entry("the audit trail: verify it, read it", "audit"),
    "doctor": Entry("look at a provider, and say what is wrong", "doctor"),
    "providers": Entry("whom deviceflow knows by name", "providers"),
    "config": Entry("which settings hold, and why", "config"),
    "demo": Entry("try a login out, against a server of its own", "demo"),
    "serve": Entry("run a local authorization server to log in to", "serve"),
    "diagram": Entry("draw the machine's states", "diagram"),
}
