"""The `deviceflow` command. Nothing is imported before the arguments say what is needed."""

from __future__ import annotations

import atexit
import gc
import os
import sys

from deviceflow.cli import exits, streams
from deviceflow.cli.parser import parse
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
        if "_ARGCOMPLETE" in os.environ:
            _complete()
        args = parse(argv)
        code = int(args.run(args))
        streams.flush()
    except streams.NobodyReadsError as gone:
        if gone.hint:  # it is about a token
            _tell(gone)
            return exits.of(gone)
        return exits.NOBODY_READS
    except DeviceFlowError as error:
        _tell(error)
        return exits.of(error)
    except ImportError as missing:
        # An extra is not installed. The message names it.
        streams.say(f"deviceflow: {missing}")
        return exits.of(missing)
    except KeyboardInterrupt:
        streams.say("")
        streams.say("deviceflow: interrupted")
        return exits.INTERRUPTED
    return code


def _tell(error: DeviceFlowError) -> None:
    """Print what happened, to which login, and what to do: a command to copy comes last."""
    where = f"[flow {error.flow_id}]" if error.flow_id else None
    streams.say(" ".join(filter(None, ("deviceflow:", error.message, where, error.hint))))


def _complete() -> None:
    """Print what may follow, if a shell asks (`deviceflow completion`), and end the program."""
    import argcomplete  # an extra

    from deviceflow.cli.parser import build

    argcomplete.autocomplete(build(os.environ.get("COMP_LINE", "").split()[1:2]))
