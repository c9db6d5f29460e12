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
    """An entry in the list of commands.

    Its module is loaded when the command is needed.

    Args:
        module: The module whose `COMMANDS` contains the command.
        help: One line of help.
        examples: The arguments of the command, as a person would type them.
    """

    def __init__(self, module: str, help: str, *examples: str) -> None:  # noqa: A002  # argparse's
        self.help = help
        self.examples = examples
        self._module = module

    def load(self, name: str) -> Command:
        """Import the module, and return the command."""
        found: dict[str, Command] = import_module(f"{__name__}.{self._module}").COMMANDS
        return found[name]


GROUPS = {
    "log in, and use the token": {
        "login": Entry(
            "login",
            "log in, and keep the tokens",
            "github --client-id Iv1.0123456789abcdef --scopes repo",
            "work --issuer https://login.example.com --client-id robot",
            "studio studio.example.com",
            "work",
        ),
        "token": Entry("handover", "print a token that is good now", "github", "--format header"),
        "status": Entry("status", "show how it stands", "", "github --json"),
        "list": Entry("status", "list what there is", "", "--all"),
        "logout": Entry("validity", "wipe and revoke the tokens", "github"),
        "check": Entry("validity", "ask the server whether the token is valid", "github"),
        "invalidate": Entry(
            "validity",
            "report that a server refused the token",
            "github",
            "github --token-stdin",
        ),
        "export-env": Entry(
            "handover",
            "print the token as shell commands",
            "studio",
            "github --variable GITHUB_TOKEN",
        ),
    },
    "jobs, one step at a time": {
        "start": Entry("start", "start a login", "nightly studio studio.example.com"),
        "step": Entry("steps", "do what is due for a login", "nightly"),
        "wait": Entry("steps", "wait until a login ends", "nightly --timeout 60"),
        "cancel": Entry("steps", "cancel a login", "nightly --reason 'not needed'"),
        "sweep": Entry("upkeep", "do what is due in a store, once", "--limit 50"),
        "worker": Entry("worker", "drive all logins of a store", "--concurrency 20"),
        "purge": Entry(
            "upkeep",
            "wipe old secrets and delete old logins",
            "--tokens-after 7d --flows-after 90d",
        ),
        "doubt": Entry("upkeep", "spare the refresh tokens of a restored backup", ""),
    },
    "audit": {
        "audit": Entry(
            "audit",
            "verify and read the audit trail",
            "verify",
            "list --since '2d ago'",
            "report -o report.html",
        ),
    },
    "set up": {
        "doctor": Entry(
            "doctor",
            "check whether a login to a provider works",
            "--issuer https://login.example.com --client-id robot",
        ),
        "demo": Entry("demo", "try a login against a local server", "--auto-approve"),
        "config": Entry("config", "show the effective settings", "show --profile work"),
        "providers": Entry("providers", "list and check known providers", "show github"),
        "keys": Entry("keys", "create and rotate the sealing keys", "generate"),
        "serve": Entry("serve", "run a local authorization server", "--port 0"),
        "completion": Entry("completion", "print a shell's completion of this command", "bash"),
        "diagram": Entry("diagram", "draw the state machines", "--machine grant"),
    },
}
COMMANDS = {name: entry for group in GROUPS.values() for name, entry in group.items()}
