"""`deviceflow completion`: the code by which a shell completes this command's arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deviceflow.cli import streams
from deviceflow.cli.commands import Command

if TYPE_CHECKING:
    from argparse import ArgumentParser


class CompletionOptions:
    """The options of `completion`."""

    shell: str


def _add_completion(parser: ArgumentParser) -> None:
    parser.description = (
        "Print code for a shell, after which it completes this command's arguments:"
        ' eval "$(deviceflow completion bash)" in ~/.bashrc, the same with zsh in ~/.zshrc, and'
        " deviceflow completion fish | source in fish's configuration."
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def _completion(args: CompletionOptions) -> int:
    try:
        from argcomplete.shell_integration import shellcode  # an extra
    except ImportError:
        raise ImportError("Completion needs a library: pip install 'deviceflow[cli]'") from None
    code: str = shellcode(["deviceflow"], shell=args.shell)
    for line in code.splitlines():
        streams.show(line.replace("\t", "    "))
    return 0


COMMANDS: Final = {"completion": Command(_add_completion, _completion)}
