"""The `deviceflow` command. Nothing is imported before the arguments say what is needed."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

from deviceflow import __version__
from deviceflow.cli import exits, streams
from deviceflow.errors import DeviceFlowError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from deviceflow.trail.digest import DigestId


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code (see `deviceflow.cli.exits`).

    Args:
        argv: The arguments; those of the process where none are given.
    """
    argv = sys.argv[1:] if argv is None else argv
    if sys.stderr is None:
        # Closed by whoever started us. Left so, print would write to stdout instead.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    args = _parser(argv).parse_args(argv)
    try:
        command = import_module(f"deviceflow.cli.{_COMMANDS[args.command][2]}")
        code = int(command.run(args))
        streams.flush()
    except DeviceFlowError as error:
        streams.say(f"deviceflow: {error}")
        return exits.of(error)
    except ImportError as missing:
        # An extra is not installed; its package has said which.
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
    for name, (what, fill, _) in _COMMANDS.items():
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
        " by its endpoints. The prompts go to stderr, the data to stdout. Interrupted, and run"
        " again with the same arguments, it offers the same code while that lives."
    )
    _add_target(parser)
    _add_waiting(parser)


def _add_resume(parser: argparse.ArgumentParser) -> None:
    parser.epilog = exits.EXPLAINED
    parser.description = "Go on with a login that was interrupted: the newest, or the one named."
    parser.add_argument("id", nargs="?", metavar="ID", help="the login, as list shows it")
    _add_waiting(parser)


def _add_waiting(parser: argparse.ArgumentParser) -> None:
    """Add what says where the token goes, and how a person is asked."""
    puts = parser.add_argument_group("where the token goes (one is needed)")
    puts.add_argument("--output", metavar="FILE", help="to this file, for its owner only (0600)")
    puts.add_argument("--save", choices=("keyring",), help="to the desktop's keyring")
    puts.add_argument("--show-token", action="store_true", help="to stdout")
    _add_format(puts)
    shows = parser.add_argument_group("how")
    shows.add_argument("--json", action="store_true", help="print one JSON object at the end")
    shows.add_argument("--no-browser", action="store_true", help="open no browser here")
    shows.add_argument(
        "--qr",
        action=argparse.BooleanOptionalAction,
        help="show the page's address as a QR code; by default where no browser opens here",
    )
    shows.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="stop waiting then")
    shows.add_argument("--verbose", "-v", action="store_true", help="log transitions to stderr")
    _add_store(parser)


def _add_format(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--format",
        choices=("token", "json"),
        default="token",
        help="the bare access token, or all that came with it (%(default)s)",
    )


def _add_store(parser: argparse.ArgumentParser) -> None:
    where = parser.add_argument_group("where logins are kept")
    where.add_argument(
        "--store",
        metavar="URL",
        help="memory:, sqlite:///PATH or postgresql://…; by default DEVICEFLOW_STORE, or your own",
    )
    where.add_argument("--plaintext", action="store_true", help="keep secrets there in clear")


def _add_job(parser: argparse.ArgumentParser) -> None:
    parser.epilog = exits.EXPLAINED
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    _add_store(parser)


def _add_start(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Begin a login: print its id to stdout, and where to go to stderr. Whom to log in to is"
        " said as for login."
    )
    _add_target(parser)
    parser.add_argument("--key", help="one login at a time of this name: a live one is shown again")
    _add_job(parser)


def _add_id(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="the login, as start has printed it")


def _add_one(parser: argparse.ArgumentParser) -> None:
    _add_id(parser)
    _add_job(parser)


def _add_step(parser: argparse.ArgumentParser) -> None:
    parser.description = "Do what is due for a login: at most one request, and no waiting."
    _add_one(parser)


def _add_wait(parser: argparse.ArgumentParser) -> None:
    parser.description = "Wait until a login ends. Its token is left where it is."
    _add_one(parser)
    parser.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="stop waiting then")


def _add_status(parser: argparse.ArgumentParser) -> None:
    parser.description = "Say where a login stands, and where to go to approve it. Sends nothing."
    parser.add_argument("id", nargs="?", metavar="ID", help="by default the newest unfinished one")
    _add_job(parser)


def _add_list(parser: argparse.ArgumentParser) -> None:
    parser.description = "List the logins that have not ended, the newest first."
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--all", action="store_true", help="list those that have ended, too")
    which.add_argument(
        "--state",
        choices=_STATES,
        help="list those in this state",
    )
    _add_job(parser)


def _add_cancel(parser: argparse.ArgumentParser) -> None:
    parser.description = "Give a login up. One that has ended stays as it is."
    parser.add_argument("--reason", metavar="TEXT", help="why, for the record")
    _add_one(parser)


def _add_acknowledge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--acknowledge",
        action="store_true",
        help="then wipe it from the store; else `purge` revokes it after a while",
    )


def _add_token(parser: argparse.ArgumentParser) -> None:
    parser.description = "Print the token of a login that was approved."
    parser.add_argument("--output", metavar="FILE", help="put it into this file instead (0600)")
    _add_format(parser)
    _add_acknowledge(parser)
    _add_one(parser)


def _add_export_env(parser: argparse.ArgumentParser) -> None:
    # On one line, which is not to be broken.
    parser.description = 'For a shell\'s eval: env=$(deviceflow export-env ID) && eval "$env"'
    parser.epilog = exits.EXPLAINED
    parser.add_argument(
        "--name", help="the token's variable; by default Studio's two, DVC_STUDIO_TOKEN and …_URL"
    )
    _add_acknowledge(parser)
    _add_id(parser)
    _add_store(parser)
    parser.set_defaults(json=False)  # a shell reads what it prints


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    parser.description = "Step each login that is due: for a timer, so that none is forgotten."
    parser.add_argument("--limit", type=int, default=100, help="at most so many (%(default)s)")
    _add_job(parser)


def _add_purge(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Wipe the secrets of logins that ended long ago, and drop them; their transitions stay. A"
        " token that nobody acknowledged is revoked where the server can."
    )
    for name, days, what in (("tokens", "7d", "its token is wiped"), ("flows", "90d", "it goes")):
        parser.add_argument(
            f"--{name}-after",
            type=_duration,
            default=_duration(days),
            metavar="AGE",
            help=f"so long after a login's end {what}: 12h, 7d; by default {days}",
        )
    _add_job(parser)


def _add_keys(parser: argparse.ArgumentParser) -> None:
    parser.description = "The keys that seal the secrets in a store."
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    generate = actions.add_parser("generate", help="print a new key, for DEVICEFLOW_KEYS")
    generate.add_argument("--keyring", action="store_true", help="put it into the keyring instead")
    rotate = actions.add_parser("rotate", help="seal everything anew with the first key")
    _add_store(rotate)


def _add_audit(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "The audit trail: whether anybody has changed it, and what is in it. Stores in a file or a"
        " database keep one; each transition of each login is an event of it."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, (what, fill) in _AUDITS.items():
        action = actions.add_parser(
            name, help=what, description=f"{what[0].upper()}{what[1:]}.", formatter_class=_formatter
        )
        action.epilog = (
            "exit codes: 0 done, 1 verify has found something, 2 wrong usage, or no such login,"
            " 5 what was to be written could not be, 74 the store, a key, a digest or a trail"
            " cannot be used, 130 interrupted"
        )
        action.set_defaults(json=False)
        fill(action)
        _add_store(action)


def _add_verify(parser: argparse.ArgumentParser) -> None:
    _add_evidence(parser)
    parser.add_argument(
        "--file",
        metavar="TRAIL.jsonl",
        action="append",
        help="verify this file instead, not a store; those that it was rotated to as well",
    )
    _add_json(parser)


def _add_evidence(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--digests", metavar="DIR", help="the signed digests: what was cut off is seen by them"
    )
    parser.add_argument(
        "--public-key", metavar="FILE", help="whose signature they must bear, as keygen --public"
    )
    parser.add_argument(
        "--last",
        type=_digest_id,
        metavar="NUMBER:HASH",
        help="the last digest, as digest has printed it: an older copy of DIR is found by it",
    )
    parser.add_argument(
        "--no-key",
        action="store_true",
        help="do without the audit key: no MACs are checked; the digests alone are evidence",
    )
    parser.add_argument(
        "--processes", type=_some, metavar="N", default=1, help="read it in so many at once"
    )


def _add_json(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_digest(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--digests", metavar="DIR", required=True, help="to this directory, which is to be kept"
    )
    _add_json(parser)


def _add_begin(parser: argparse.ArgumentParser) -> None:
    _add_digest(parser)
    parser.add_argument(
        "--begin",
        action="store_true",
        help="write digest 1, in a directory that has none: once, and not from the timer",
    )


def _add_keygen(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--public",
        nargs="?",
        const="",
        metavar="FILE",
        help="print the public half of a key instead: of DEVICEFLOW_AUDIT_SIGNING_KEY, of the"
        " store's own, or of the one in FILE",
    )


def _add_prune(parser: argparse.ArgumentParser) -> None:
    _add_digest(parser)
    parser.add_argument(
        "--before",
        type=_moment,
        metavar="WHEN",
        required=True,
        help="the events of logins that ended before then: 400d ago, or 2026-01-31",
    )


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", nargs="?", metavar="FLOW", help="by default the newest")
    parser.add_argument("--all", action="store_true", help="a line for each event; no polls as one")
    _add_json(parser)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    which = parser.add_argument_group("which logins (all, by default)")
    which.add_argument(
        "--since", type=_moment, metavar="WHEN", help="begun since: 2d ago, or 2026-01-31 (UTC)"
    )
    which.add_argument("--until", type=_moment, metavar="WHEN", help="begun before that")
    which.add_argument("--state", choices=_STATES, help="in this state")
    which.add_argument("--reason", choices=_REASONS, help="failed for this reason")
    which.add_argument("--client", metavar="NAME", help="of the client of this name or id")
    which.add_argument("--actor", metavar="NAME", help="in which this user did something")


def _add_audit_list(parser: argparse.ArgumentParser) -> None:
    _add_filters(parser)
    parser.add_argument("--limit", type=_number, metavar="N", help="at most so many, the newest")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        choices=("jsonl", "ecs", "csv"),
        required=True,
        help="JSON lines, as verify --file takes them; Elastic's schema; or for a spreadsheet",
    )
    parser.add_argument("--output", metavar="FILE", help="to this file (0600)")
    _add_filters(parser)


def _add_stats(parser: argparse.ArgumentParser) -> None:
    _add_filters(parser)
    _add_json(parser)


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=True, help="to this file (0600), as HTML"
    )
    _add_evidence(parser)
    _add_filters(parser)


_AUDITS = {
    "verify": ("find out whether anybody has changed the trail", _add_verify),
    "digest": ("sign what is in it by now: for a timer", _add_begin),
    "keygen": ("print a new key to sign digests with", _add_keygen),
    "prune": ("drop events of old logins, behind a digest that says so", _add_prune),
    "show": ("show what happened in a login", _add_show),
    "list": ("list the logins, the newest first", _add_audit_list),
    "export": ("print the events, for other programs", _add_export),
    "stats": ("count outcomes, waits and polls", _add_stats),
    "report": ("write a page that can be handed on", _add_report),
}


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
    asks.add_argument(
        "--scopes", metavar="'A B'", help="with spaces between; for DVC Studio, or commas"
    )
    asks.add_argument("--audience", help="whom the token is for")
    asks.add_argument("--resource", metavar="URL", action="append", help="where it will be used")
    asks.add_argument("--purpose", metavar="TEXT", help="why, for the person and for the record")
    who = parser.add_argument_group("who must approve, by the id token")
    who.add_argument("--require-email", metavar="EMAIL", help="verified, by a known issuer")
    who.add_argument("--require-sub", metavar="SUB", help="by the issuer's own name for the person")
    who.add_argument("--require-tenant", metavar="ID", help="by the tenant (Entra's tid)")
    studio = parser.add_argument_group("DVC Studio only")
    studio.add_argument("--client-name", help="who asks, as Studio shows it")
    studio.add_argument("--token-name", help="what to call the token")


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


def _number(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"a whole number from 0 on, and not {text!r}")
    return number


def _some(text: str) -> int:
    number = _number(text)
    if not number:
        raise argparse.ArgumentTypeError("a whole number from 1 on, and not 0")
    return number


def _digest_id(text: str) -> DigestId:
    from deviceflow.trail.digest import DigestId

    try:
        return DigestId.parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"NUMBER:HASH, as digest has printed it behind the word last, and not {text!r}"
        ) from None


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _moment(text: str) -> float:
    import time

    from deviceflow.trail.login_view import seconds_of

    at: float | None
    if text[-1:] in _UNITS:
        at = max(0.0, time.time() - _duration(text))
    else:
        # 20260131 is a date for one reader, and seconds for another.
        at = None if text.isdecimal() else seconds_of(text)
    if at is None:
        said = f"an age such as 12h or 7d, or a time such as 2026-01-31, and not {text!r}"
        raise argparse.ArgumentTypeError(said)
    return at


def _duration(text: str) -> float:
    factor = _UNITS.get(text[-1:], 0)
    try:
        return _seconds(text[:-1] if factor else text) * (factor or 1)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"an age such as 12h or 7d, and not {text!r}") from None


_STATES = ("init", "awaiting-user", "polling", "authorized", "expired", "failed")
_REASONS = (
    "denied",
    "cancelled",
    "rejected",
    "protocol",
    "unreachable",
    "wrong_approver",
    "outcome_unknown",
)
_COMMANDS = {
    "login": ("log in, and keep the token", _add_login, "login"),
    "resume": ("go on with a login that was interrupted", _add_resume, "login"),
    "start": ("begin a login, for the commands below", _add_start, "jobs"),
    "step": ("do what is due for it", _add_step, "jobs"),
    "wait": ("wait until it ends", _add_wait, "jobs"),
    "status": ("say where it stands", _add_status, "jobs"),
    "cancel": ("give it up", _add_cancel, "jobs"),
    "token": ("print its token", _add_token, "handover"),
    "export-env": ("print its token for a shell", _add_export_env, "handover"),
    "list": ("list the logins", _add_list, "jobs"),
    "sweep": ("step each login that is due", _add_sweep, "jobs"),
    "purge": ("wipe what is old", _add_purge, "jobs"),
    "keys": ("the keys that seal what is kept", _add_keys, "keys"),
    "audit": ("the audit trail: verify it, read it", _add_audit, "audit"),
    "doctor": ("look at a provider, and say what is wrong", _add_doctor, "doctor"),
    "providers": ("whom deviceflow knows by name", _add_providers, "providers"),
    "config": ("which settings hold, and why", _add_config, "config"),
    "demo": ("try a login out, against a server of its own", _add_demo, "demo"),
    "serve": ("run a local authorization server to log in to", _add_serve, "serve"),
    "diagram": ("draw the machine's states", _add_diagram, "diagram"),
}
