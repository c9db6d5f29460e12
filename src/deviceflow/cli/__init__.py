"""The `deviceflow` command. Nothing is imported before the arguments say what is needed."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

from deviceflow import __version__
from deviceflow.cli import exits
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
    args = _parser(argv).parse_args(argv)
    try:
        command = import_module(f"deviceflow.cli.{args.command}")
        return int(command.run(args))
    except DeviceFlowError as error:
        print(f"deviceflow: {error}", file=sys.stderr)
        return exits.of(error)
    except ImportError as missing:
        # An extra is not installed; its package has said which.
        print(f"deviceflow: {missing}", file=sys.stderr)
        return exits.USAGE
    except KeyboardInterrupt:
        print("\ndeviceflow: interrupted", file=sys.stderr)
        return exits.INTERRUPTED


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="deviceflow",
        description="Log a program in: it shows a code, a person approves it in a browser.",
        epilog=exits.EXPLAINED,
        formatter_class=_formatter,
    )
    parser.add_argument("--version", action="version", version=f"deviceflow {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (what, fill) in _COMMANDS.items():
        command = commands.add_parser(name, help=what, formatter_class=_formatter)
        if name in argv:  # the others' options would cost time, and nobody asked
            fill(command)
    return parser


def _formatter(prog: str) -> argparse.HelpFormatter:
    # Left to itself, argparse imports shutil for the width, and that is a tenth of the help's time.
    try:
        columns = int(os.environ.get("COLUMNS") or os.get_terminal_size().columns)
    except (ValueError, OSError):
        columns = 80
    return argparse.HelpFormatter(prog, width=columns - 2)


def _add_login(parser: argparse.ArgumentParser) -> None:
    parser.epilog = exits.EXPLAINED
    parser.description = (
        "Log in to a provider by name, to a DVC Studio by its host, or to any server by --issuer or"
        " by its endpoints. The prompts go to stderr, the data to stdout."
    )
    _add_target(parser)
    puts = parser.add_argument_group("where the token goes (one is needed)")
    puts.add_argument("--output", metavar="FILE", help="to this file, for its owner only (0600)")
    puts.add_argument("--save", choices=("keyring",), help="to the desktop's keyring")
    puts.add_argument("--show-token", action="store_true", help="to stdout")
    puts.add_argument(
        "--format",
        choices=("token", "json"),
        default="token",
        help="the bare access token, or all that came with it (%(default)s)",
    )
    shows = parser.add_argument_group("how")
    shows.add_argument("--json", action="store_true", help="print one JSON object at the end")
    shows.add_argument("--no-browser", action="store_true", help="open no browser here")
    shows.add_argument(
        "--qr",
        action=argparse.BooleanOptionalAction,
        help="show the page's address as a QR code; by default where no browser opens here",
    )
    shows.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="give up after that")
    shows.add_argument("--verbose", "-v", action="store_true", help="log transitions to stderr")


def _add_target(parser: argparse.ArgumentParser) -> None:
    """Add what says whom to log in to, and what to ask for."""
    parser.add_argument(
        "target", nargs="?", metavar="PROVIDER|HOST", help="such as github, or studio.example.com"
    )
    where = parser.add_argument_group("whom to log in to")
    where.add_argument("--profile", help="the settings of this profile in the configuration file")
    where.add_argument("--issuer", metavar="URL", help="an issuer whose metadata says the rest")
    where.add_argument("--device-authorization-endpoint", metavar="URL", help="or both endpoints")
    where.add_argument("--token-endpoint", metavar="URL", help="of a server without metadata")
    where.add_argument("--revocation-endpoint", metavar="URL", help="where it revokes tokens")
    where.add_argument(
        "--set", metavar="NAME=VALUE", action="append", help="what a provider needs: tenant=…"
    )
    where.add_argument("--allow-http", action="store_true", help="allow http to another machine")
    client = parser.add_argument_group("as which client (never a secret itself, but where it is)")
    client.add_argument("--client-id", metavar="ID", help="as the server knows this program")
    client.add_argument("--client-secret", metavar="REF", help="env:NAME or file:PATH")
    client.add_argument("--private-key", metavar="REF", help="likewise, to sign with")
    client.add_argument("--client-auth", metavar="METHOD", help="client_secret_post, say")
    client.add_argument("--pkce", choices=("auto", "on", "off"), help="RFC 7636")
    asks = parser.add_argument_group("what to ask for")
    asks.add_argument("--scope", metavar="'A B'", help="with spaces between")
    asks.add_argument("--audience", help="whom the token is for")
    asks.add_argument("--resource", metavar="URL", action="append", help="where it will be used")
    who = parser.add_argument_group("who must approve, by the id token")
    who.add_argument("--require-email", metavar="EMAIL", help="verified, by a known issuer")
    who.add_argument("--require-sub", metavar="SUB", help="by the issuer's own name for the person")
    who.add_argument("--require-tenant", metavar="ID", help="by the tenant (Entra's tid)")
    studio = parser.add_argument_group("DVC Studio only")
    studio.add_argument("--client-name", help="who asks, as Studio shows it")
    studio.add_argument("--token-name", help="what to call the token")
    studio.add_argument("--scopes", help="with commas between, such as experiments,models")


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Walk through a login up to the point where a person would be needed, and say what was"
        " found. It asks for one code, and leaves it to expire."
    )
    _add_target(parser)
    parser.add_argument("--early-poll", action="store_true", help="poll once too early as well")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_providers(parser: argparse.ArgumentParser) -> None:
    parser.description = "Providers known by name; DEVICEFLOW_PROVIDERS names a file with more."
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="list them, and what each needs")
    listing.add_argument("--json", action="store_true", help="print one JSON object")
    show = actions.add_parser("show", help="show an entry, as it may stand in such a file")
    show.add_argument("name")
    show.add_argument("--json", action="store_true", help="print one JSON object")
    actions.add_parser("check", help="check a file of one's own").add_argument("file")


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.description = "Show the settings that a login would have, and where each comes from."
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="show them")
    _add_target(show)
    show.add_argument("--json", action="store_true", help="print one JSON object")


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.description = "Start a local authorization server, log in to it, show what was logged."
    parser.add_argument("--auto-approve", action="store_true", help="approve without a person")
    parser.add_argument("--no-browser", action="store_true", help="open no browser here")


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run a local authorization server on this machine, until Ctrl-C. It speaks DVC Studio's"
        " dialect and RFC 8628. Its address is printed on stdout."
    )
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (%(default)s)")
    parser.add_argument("--port", type=int, default=8628, help="0 takes a free one (%(default)s)")
    parser.add_argument("--interval", type=_seconds, default=5.0, help="seconds between polls (5)")
    parser.add_argument("--expires-in", type=int, default=900, help="a code's seconds (900)")
    parser.add_argument(
        "--rate-check",
        choices=("before", "after", "off"),
        default="after",
        help="whether polling too fast is noticed before an approval is, or after (%(default)s)",
    )
    parser.add_argument(
        "--control", action="store_true", help="serve /control/, where tests approve and deny"
    )


def _add_diagram(parser: argparse.ArgumentParser) -> None:
    parser.description = "Draw the machine from its transition table."
    parser.add_argument("format", nargs="?", choices=("mermaid", "dot"), help="mermaid, by default")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", metavar="FILE", help="fail if the diagram in FILE is not current")
    what.add_argument("--write", metavar="FILE", help="bring the diagram in FILE up to date")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"a number of seconds from 0 on, and not {text!r}")
    return seconds


_COMMANDS = {
    "login": ("log in, and keep the token", _add_login),
    "doctor": ("look at a provider, and say what is wrong", _add_doctor),
    "providers": ("whom deviceflow knows by name", _add_providers),
    "config": ("which settings hold, and why", _add_config),
    "demo": ("try a login out, against a server of its own", _add_demo),
    "serve": ("run a local authorization server to log in to", _add_serve),
    "diagram": ("draw the machine's states", _add_diagram),
}
