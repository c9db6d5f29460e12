"""`deviceflow diagram`: the machines, drawn from their table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deviceflow.cli import streams
from deviceflow.core import diagram
from deviceflow.errors import UsageError

if TYPE_CHECKING:
    from argparse import Namespace


def run(args: Namespace) -> int:
    """Print a machine's diagram, or check or renew those in a Markdown file."""
    name = args.check or args.write
    if name is None:
        drawn = diagram.FORMATS[args.format or "mermaid"](diagram.DRAWINGS[args.machine])
        for line in drawn.splitlines():
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
            f"{file} has no place for a diagram.",
            hint=f"Put these two lines where it belongs: {' '.join(diagram.LOGIN.marks)}",
        )
    if args.write:
        file.write_text(current, "utf-8")
    elif current != page:
        streams.say(f"{file}: a diagram is out of date: deviceflow diagram --write {file}")
        return 1
    return 0
