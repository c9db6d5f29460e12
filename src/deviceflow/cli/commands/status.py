"""`deviceflow status` and `list`: show the state of logins. No request is sent."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Final

from deviceflow.cli import exits, options, stored, streams
from deviceflow.cli.commands import Command
from deviceflow.core.explain import error_of, instructions
from deviceflow.core.grant_view import GrantView
from deviceflow.core.sanitize import printable
from deviceflow.core.states import Handover, State
from deviceflow.errors import UnknownLoginError

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterable

    from deviceflow.client._sync import Client
    from deviceflow.core.login import Login
    from deviceflow.errors import DeviceFlowError


class StatusOptions(options.JobOptions):
    """The options of `status`."""

    id: str | None


class ListOptions(options.JobOptions):
    """The options of `list`."""

    all: bool
    state: str | None


def _add_status(parser: ArgumentParser) -> None:
    parser.description = (
        "Show the state of a grant; or of a login, and where to approve it. No request is sent."
    )
    parser.add_argument(
        "id",
        nargs="?",
        metavar="NAME|ID",
        help="a grant's name, or a login's id; by default the newest open login",
    )
    options.add_job(parser)


def _add_list(parser: ArgumentParser) -> None:
    parser.description = "List the logins that have not ended, the newest first."
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--all", action="store_true", help="also list logins that have ended")
    which.add_argument(
        "--state",
        choices=[*map(str, State)],
        help="list logins in this state",
    )
    options.add_job(parser, what="print one JSON object for each login, one a line")


def _status(args: StatusOptions) -> int:
    client = stored.client(args)
    login = _newest(client) if args.id is None else stored.find(args, client, args.id)
    if isinstance(login, GrantView):
        stored.say_grant(args, login)
        return 0
    if args.json:
        streams.show(json.dumps(stored.all_facts(login)))
        return stored.code(login)
    streams.show(stored.line(login))
    for title, value in _columns(login)[1:]:
        if value != _NOTHING and title != "STATE":
            streams.show(f"  {title.lower()}: {value}")
    if login.needs_approver and not login.state.ended:
        streams.show("  polled by: programs that check who approved (Client(approver=…)) only")
    if login.state in (State.EXPIRED, State.FAILED):
        streams.say(f"deviceflow: {error_of(login)}")
    elif stored.outlived(login):
        step = stored.command(args, f"step {login.id}")
        streams.say(f"The code has expired. To see whether it was approved in time: {step}")
    elif login.user_code and not login.state.ended:
        for line in instructions(login):
            streams.show(line)
    return stored.code(login)


def _newest(client: Client) -> Login:
    for skip_ended in (True, False):
        for login in client.logins(skip_ended=skip_ended, on_problem=stored.say_problem):
            return login
    raise UnknownLoginError("The store has no logins.", hint="Start one with: deviceflow start")


def _list(args: ListOptions) -> int:
    problems: list[DeviceFlowError] = []
    skip_ended = not (args.all or args.state)
    headed = args.json or not streams.on_terminal()
    for login in stored.client(args).logins(skip_ended=skip_ended, on_problem=problems.append):
        if args.state not in (None, login.state):
            continue
        if args.json:
            streams.show(json.dumps(stored.all_facts(login)))
            continue
        columns = _columns(login)
        if not headed:
            streams.show(_row(title for title, _ in columns))
            headed = True
        streams.show(_row(value for _, value in columns))
    if not (headed or problems):
        streams.say("No login is open." if skip_ended else "There is no such login.")
    for problem in problems:
        streams.say(f"deviceflow: {problem}")
    return exits.FAILED if problems else 0


def _columns(login: Login) -> list[tuple[str, str]]:
    """Return the facts of a login that a person looks for, each with its title."""
    now = time.time()
    state = str(login.state) if login.reason is None else f"{login.state}: {login.reason}"
    expires = _NOTHING
    if login.expires_at is not None and not login.state.ended:
        expires = _span(login.expires_at - now) if login.expires_at > now else "expired"
    asks = login.provider.client_name or login.provider.client_id or _NOTHING
    return [
        ("ID", login.id),
        ("NAME", printable(login.name or _NOTHING, _WIDTHS[1])),
        ("STATE", state),
        ("AGE", _span(now - login.created_at)),
        ("EXPIRES IN", expires),
        ("HAND-OVER", _NOTHING if login.handover is Handover.NONE else str(login.handover)),
        ("CLIENT", f"{asks} at {login.provider.server}"),
    ]


def _row(cells: Iterable[str]) -> str:
    padded = (f"{cell:<{width}}" for cell, width in zip(cells, _WIDTHS, strict=True))
    return "  ".join(padded).rstrip()


def _span(seconds: float) -> str:
    """Return a time span with its unit: `42s`, `12m`, `5h`, `3d`."""
    for unit, length, most in (("s", 1, 120), ("m", 60, 7200), ("h", 3600, 172_800)):
        if seconds < most:
            return f"{max(0, int(seconds / length))}{unit}"
    return f"{int(seconds / 86_400)}d"


_NOTHING: Final = "-"
_WIDTHS: Final = (16, 20, 18, 5, 10, 12, 0)


COMMANDS: Final = {
    "status": Command(_add_status, stored.reporting(_status)),
    "list": Command(_add_list, stored.reporting(_list)),
}
