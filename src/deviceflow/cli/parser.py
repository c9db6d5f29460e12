"""The parser of the command's arguments, and its help."""

from __future__ import annotations

import argparse
import os
import textwrap

from deviceflow._version import __version__
from deviceflow.cli import exits, streams
from deviceflow.cli.commands import COMMANDS, GROUPS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser whose errors say what may have been meant, and where the help is.

    Attributes:
        argv: All arguments. Where they ask for JSON, an error is printed as JSON, too.
    """

    argv: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, and end the program."""
        streams.say(f"{self.prog}: {message}")
        streams.say(f"Help: {self.prog} --help")
        if "--json" in self.argv or "--json-events" in self.argv:
            from deviceflow.cli import changes  # costs, and is for mistakes only

            facts = {"error": message, "reason": "usage"}
            if "--json-events" in self.argv:
                changes.show("error", facts)
            else:
                streams.show(changes.encoded(facts))
        raise SystemExit(exits.USAGE)

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            guess = _MEANT.get(str(value)) if action.dest == "command" else None
            guess = guess or _guess(str(value), map(str, action.choices))
            if action.dest == "command":
                self.error(f"{value!r} is not a command.{guess}")
            raise argparse.ArgumentError(
                action, f"{value!r} is not one of {', '.join(map(str, action.choices))}.{guess}"
            )


_MEANT = dict.fromkeys(("auth", "signin", "log-in"), " To log in: deviceflow login PROVIDER") | {
    "whoami": " Did you mean status?",
    "ls": " Did you mean list?",
    "revoke": " Did you mean logout?",
    "log-out": " Did you mean logout?",
    "signout": " Did you mean logout?",
    "refresh": " For a token that is good now: deviceflow token NAME",
    "resume": " Did you mean login?",
    "grants": " Did you mean list?",
}
"""Commands of other programs, and what they are here."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments. The result has them as they were given, too, as `argv`."""
    if argv and argv[0].startswith("--") and argv[0] not in ("--help", "--version"):
        build().error(f"{argv[0]} comes behind the command: deviceflow COMMAND {argv[0]} …")
    if argv[:1] == ["help"]:
        argv = [*argv[1:], "--help"]
    if not argv:
        for line in build().format_help().splitlines():
            streams.say(line)
        raise SystemExit(exits.USAGE)
    Parser.argv = argv
    parser = build(argv[:1])
    args, unknown = parser.parse_known_args(argv)
    if hasattr(args, "words") and unknown:
        # argparse takes positional arguments from one place only.
        end = unknown.index("--") if "--" in unknown else len(unknown)
        args.words += unknown[:end] + unknown[end + 1 :]
        unknown = [word for word in unknown[:end] if word.startswith("-")]
    if unknown:
        meant = _parser_of(argv, parser)
        guess = _guess(unknown[0].partition("=")[0], meant._option_string_actions)  # noqa: SLF001
        meant.error(f"{unknown[0]!r} is not an argument of this command.{guess}")
    args.argv = [*argv]
    return args


def build(names: Iterable[str] = COMMANDS) -> Parser:
    """Return the parser.

    Args:
        names: The commands whose arguments are needed. Their modules are loaded, which takes time.
    """
    parser = Parser(
        prog="deviceflow",
        usage="deviceflow COMMAND ...",
        description="Log a program in: it shows a code, a person approves it in a browser.",
        epilog=f"{_groups()}\n\nHelp on a command: deviceflow help COMMAND\n\n"
        + _wrapped(exits.EXPLAINED),
        formatter_class=_as_written,
    )
    parser.add_argument("--version", action="version", version=f"deviceflow {__version__}")
    commands = parser.add_subparsers(
        prog="deviceflow",
        dest="command",
        required=True,
        metavar="COMMAND",
        help=argparse.SUPPRESS,
    )
    wanted = [name for name in names if name in COMMANDS]
    for name in wanted or COMMANDS:
        command = commands.add_parser(name, help=COMMANDS[name].help, formatter_class=_as_written)
        if wanted:
            COMMANDS[name].load(name).add_to(command)
            command.description = _wrapped(command.description or "")
            examples = [f"  deviceflow {name} {rest}" for rest in COMMANDS[name].examples]
            command.epilog = "\n".join(
                ["examples:", *map(str.rstrip, examples), "", _wrapped(command.epilog or "")]
            )
    return parser


def _parser_of(argv: Sequence[str], parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Return the parser of the command, or the command's action, that the arguments name."""
    for word in argv:
        for action in parser._actions:  # noqa: SLF001
            if isinstance(action, argparse._SubParsersAction) and word in action.choices:  # noqa: SLF001
                parser = action.choices[word]
    return parser


def _guess(word: str, known: Iterable[str]) -> str:
    from deviceflow.core.suggest import did_you_mean  # costs, and is for mistakes only

    return f" {did_you_mean(word, known)}".rstrip()


def _groups() -> str:
    lines = []
    for title, commands in GROUPS.items():
        lines += [
            f"{title}:",
            *(f"  {name:<12}{entry.help}" for name, entry in commands.items()),
            "",
        ]
    return "\n".join(lines[:-1])


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _columns())


def _columns() -> int:
    # argparse would import shutil to get the width, which takes a tenth of the time of --help.
    try:
        columns = int(os.environ.get("COLUMNS") or os.get_terminal_size().columns)
    except (ValueError, OSError):
        columns = 80
    return max(columns - 2, 20)


def _as_written(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, width=_columns())
