"""`deviceflow diagram`: draw the state machines from the table of actions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from deviceflow.cli import streams
from deviceflow.cli.commands import Command
from deviceflow.core import diagram
from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from typing import Literal


class DiagramOptions:
    """The options of `diagram`."""

    format: Literal["mermaid", "dot"] | None
    machine: Literal["login", "hand-over", "grant"]
    check: str | None
    write: str | None


def _add_diagram(parser: ArgumentParser) -> None:
    parser.description = "Draw a state machine from the table of actions."
    parser.add_argument("format", nargs="?", choices=("mermaid", "dot"), help="by default mermaid")
    parser.add_argument(
        "--machine", choices=(*diagram.DRAWINGS,), default="login", help="by default login"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", metavar="FILE", help="fail if a diagram in FILE is not current")
    what.add_argument("--write", metavar="FILE", help="update the diagrams in FILE")


def _run(args: DiagramOptions) -> int:
    """Print a machine's diagram, or check or update the diagrams in a Markdown file."""
    name = args.check or args.write
    if name is None:
        drawn = diagram.FORMATS[args.format or "mermaid"](diagram.DRAWINGS[args.machine])
        for line in drawn.splitlines():
            streams.show(line)
        return 0
    if args.format:
        raise UsageError("Diagrams in a file are always Mermaid. Omit the format.")
    file = Path(name)
    try:
        page = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as trouble:
        raise UsageError(f"{file} cannot be read: {trouble}.") from None
    current = diagram.within(page)
    if current is None:
        raise UsageError(
            f"{file} has no markers for a diagram.",
            hint=f"Add these two lines to the file: {' '.join(diagram.LOGIN.marks)}",
        )
    if args.write:
        file.write_text(current, "utf-8")
    elif current != page:
        streams.say(f"A diagram in {file} is out of date. Run: deviceflow diagram --write {file}")
        return 1
    return 0


COMMANDS: Final = {"diagram": Command(_add_diagram, _run)}
