"""`deviceflow diagram`: the machine, drawn from its table."""

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
    """What `diagram` takes."""

    format: Literal["mermaid", "dot"] | None
    check: str | None
    write: str | None


def _add_diagram(parser: ArgumentParser) -> None:
    parser.description = "Draw the machine from its transition table."
    parser.add_argument("format", nargs="?", choices=("mermaid", "dot"), help="mermaid, by default")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", metavar="FILE", help="fail if the diagram in FILE is not current")
    what.add_argument("--write", metavar="FILE", help="bring the diagram in FILE up to date")


def _run(args: DiagramOptions) -> int:
    """Print the diagram, or check or renew the one in a Markdown file."""
    name = args.check or args.write
    if name is None:
        for line in diagram.FORMATS[args.format or "mermaid"]().splitlines():
            streams.show(line)
        return 0
    if args.format:
        raise UsageError("A page holds the diagram as Mermaid: give no format beside it.")
    file = Path(name)
    try:
        page = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as trouble:
        raise UsageError(f"{file} cannot be read: {trouble}.") from None
    current = diagram.within(page)
    if current is None:
        raise UsageError(
            f"{file} has no place for the diagram.",
            hint=f"Put these two lines where it belongs: {diagram.BEGIN} {diagram.END}",
        )
    if args.write:
        file.write_text(current, "utf-8")
    elif current != page:
        streams.say(f"{file}: the diagram is out of date: deviceflow diagram --write {file}")
        return 1
    return 0


COMMANDS: Final = {"diagram": Command(_add_diagram, _run)}
