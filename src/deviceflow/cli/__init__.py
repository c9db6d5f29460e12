"""The `deviceflow` command. Nothing is imported before the arguments say what is needed."""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import sys

from deviceflow._version import __version__
from deviceflow.cli import exits, streams
from deviceflow.cli.commands import COMMANDS
from deviceflow.errors import DeviceFlowError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code (see `deviceflow.cli.exits`).

    Args:
        argv: The arguments; those of the process where none are given.
    """
    argv = sys.argv[1:] if argv is None else argv
    if sys.stderr is None:
        # The parent process closed it. `print(file=None)` would write to stdout instead.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    # Imports create many permanent objects. Garbage collection, after every 700 objects and at the
    # end of the process, takes a quarter of a short command's time.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    try:
        args = _parser(argv).parse_args(argv)
        code = int(args.run(args))
        streams.flush()
    except DeviceFlowError as error:
        streams.say(f"deviceflow: {error}")
        return exits.of(error)
    except ImportError as missing:
        # An extra is not installed. The message names it.
        streams.say(f"deviceflow: {missing}")
        return exits.USAGE
    except KeyboardInterrupt:
        streams.say("")
        streams.say("deviceflow: interrupted")
        return exits.INTERRUPTED
    return code


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="deviceflow",
        description="Log a program in: it shows a code, a person approves it in a browser.",
        epilog=exits.EXPLAINED,
        formatter_class=_formatter,
    )
    parser.add_argument("--version", action="version", version=f"deviceflow {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    # Loading all modules and parsers takes time, so only the named command is loaded.
    named = [name for name in argv[:1] if name in COMMANDS]
    for name in named or COMMANDS:
        entry = COMMANDS[name]
        command = commands.add_parser(name, help=entry.help, formatter_class=_formatter)
        if name in argv:
            entry.load(name).add_to(command)
    return parser


def _formatter(prog: str) -> argparse.HelpFormatter:
    # argparse would import shutil to get the width, which takes a tenth of the time of --help.
    try:
        columns = int(os.environ.get("COLUMNS") or os.get_terminal_size().columns)
    except (ValueError, OSError):
        columns = 80
    return argparse.HelpFormatter(prog, width=columns - 2)
