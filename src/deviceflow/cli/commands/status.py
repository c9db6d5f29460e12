"""`deviceflow status` and `list`: show how it stands. No request is sent."""

from __future__ import annotations

import json
import sys
import time
from heapq import merge
from math import inf
from typing import TYPE_CHECKING, Any, Final

from deviceflow.cli import exits, options, stored, streams
from deviceflow.cli.commands import Command
from deviceflow.core.explain import error_of, instructions
from deviceflow.core.grant_view import GrantView
from deviceflow.core.sanitize import printable
from deviceflow.core.states import GrantState, Handover, State

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Mapping

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
        "Show how a name stands: its token, or the login in progress, and where to approve it. No"
        " request is sent."
    )
    parser.add_argument(
        "id",
        nargs="?",
        metavar="NAME|ID",
        help="the name, or a login's id; by default the only one that there is, or else the list",
    )
    options.add_job(parser)


def _add_list(parser: ArgumentParser) -> None:
    parser.description = (
        "List what there is: the logins in progress or whose token nobody has taken, the newest"
        " first, then the names. On a terminal that is too narrow for all columns, they give way in"
        " this order: " + ", ".join(title.lower() for title in _GIVE_WAY) + "."
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--all", action="store_true", help="also list what has ended")
    which.add_argument(
        "--state",
        choices=list(dict.fromkeys(map(str, (*State, *GrantState)))),
        help="list what is in this state",
    )
    options.add_job(parser, what="print one JSON object for each, one a line")


def _status(args: StatusOptions) -> int:
    client = stored.client(args)
    if args.id is None:
        names = stored.names(client)
        if len(names) != 1:
            return _show_all(args, client)
        args.id = names[0]
    login = stored.find(args, client, args.id)
    if isinstance(login, GrantView):
        stored.say_grant(args, login)
        return 0
    if args.json:
        streams.show(json.dumps(stored.all_facts(login)))
    else:
        _show(args, login)
    return stored.code(login)


def _show(args: StatusOptions, login: Login) -> None:
    streams.show(stored.line(login))
    for title, value in _cells(login).items():
        if value not in (_NOTHING, login.id) and title != "STATE":
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


def _list(args: ListOptions) -> int:
    return _show_all(args, stored.client(args), ended=args.all, state=args.state)


def _show_all(
    args: options.JobOptions, client: Client, *, ended: bool = False, state: str | None = None
) -> int:
    """Print the logins and the names.

    Args:
        args: The arguments.
        client: A client of the store.
        ended: Whether to print what has ended, too.
        state: The state of what to print; None for all.
    """
    problems: list[DeviceFlowError] = []
    table = _Table(json=args.json)
    waiting: set[str | None] = set()
    skip_ended = not (ended or state)
    logins = client.logins(skip_ended=skip_ended, on_problem=problems.append)
    if skip_ended:
        logins = merge(logins, stored.ready(client), key=lambda login: -login.created_at)
    for login in logins:
        if state in (None, login.state):
            table.add(_cells(login), {"kind": "login"} | stored.all_facts(login))
            if login.has_token or not login.state.ended:
                waiting.add(login.name)
    for view in client.grants():
        covered = view.name in waiting and not view.state.gives_tokens
        if state == view.state or (
            state is None and (ended or not stored.is_over(view)) and not covered
        ):
            table.add(_cells_of_name(view), {"kind": "grant"} | view.to_dict())
    if table.is_empty and not problems and not args.json and streams.on_terminal():
        log_in = stored.command(args, "login PROVIDER")
        streams.say(
            "Nothing is in this state." if state else f"Nobody is logged in. To log in: {log_in}"
        )
    for problem in problems:
        streams.say(f"deviceflow: {problem}")
    return exits.FAILED if problems else 0


class _Table:
    """A table on stdout, of JSON objects, or of columns that fit the terminal."""

    def __init__(self, *, json: bool) -> None:
        self._json = json
        self._widths: dict[str, int] = {}
        self.is_empty = True

    def add(self, cells: Mapping[str, str], facts: Mapping[str, Any]) -> None:
        """Print a row."""
        self.is_empty = False
        if self._json:
            streams.show(json.dumps(facts))
            return
        if not self._widths:
            self._widths = _fitting(streams.columns(sys.stdout))
            if streams.on_terminal():
                self._show({title: title for title in self._widths})
        self._show(cells)

    def _show(self, cells: Mapping[str, str]) -> None:
        columns = streams.columns(sys.stdout)
        last = [*self._widths][-1]
        row = ""
        for title, width in self._widths.items():
            text = printable(cells[title])
            if title != last and columns < inf:  # a pipe gets each text whole
                text = _cut(text, width)
            row += f"{text:<{width}}  "
        streams.show(_cut(row.rstrip(), columns))


def _fitting(columns: float) -> dict[str, int]:
    """Return the columns that fit a terminal, each with its width."""
    widths = dict(_WIDTHS)

    def beyond() -> float:
        return sum(widths.values()) + 2 * (len(widths) - 1) - columns

    for title in _GIVE_WAY:
        if beyond() > 0:
            del widths[title]
    if beyond() > 0:
        widths["NAME"] = max(_SHORTEST, int(widths["NAME"] - beyond()))
    return widths


def _cut(text: str, columns: float) -> str:
    return text if len(text) <= columns else f"{text[: int(columns) - 1]}…"


def _cells(login: Login) -> dict[str, str]:
    """Return the facts of a login that a person looks for, each with its title."""
    now = time.time()
    state = str(login.state) if login.reason is None else f"{login.state}: {login.reason}"
    asks = login.provider.client_name or login.provider.client_id or _NOTHING
    return {
        "NAME": stored.name_of(login) or login.id,
        "STATE": state,
        "EXPIRES IN": _NOTHING if login.state.ended else _left(login.expires_at),
        "AGE": _span(now - login.created_at),
        "ID": login.id,
        "HAND-OVER": _NOTHING if login.handover is Handover.NONE else str(login.handover),
        "CLIENT": f"{asks} at {login.provider.server}",
    }


def _cells_of_name(view: GrantView) -> dict[str, str]:
    """Return the facts of a name, as `_cells` does."""
    asks = view.provider.client_name or view.provider.client_id or _NOTHING
    return {
        "NAME": view.name,
        "STATE": str(view.state) if view.reason is None else f"{view.state}: {view.reason}",
        "EXPIRES IN": _left(view.expires_at),
        "AGE": _span(time.time() - view.created_at),
        "ID": view.login_id or _NOTHING,
        "HAND-OVER": _NOTHING,
        "CLIENT": f"{asks} at {view.provider.server}",
    }


def _left(expires_at: float | None) -> str:
    if expires_at is None:
        return _NOTHING
    return _span(expires_at - time.time()) if expires_at > time.time() else "expired"


def _span(seconds: float) -> str:
    """Return a time span with its unit: `42s`, `12m`, `5h`, `3d`."""
    for unit, length, most in (("s", 1, 120), ("m", 60, 7200), ("h", 3600, 172_800)):
        if seconds < most:
            return f"{max(0, int(seconds / length))}{unit}"
    return f"{int(seconds / 86_400)}d"


_NOTHING: Final = "-"
_WIDTHS: Final = {
    "NAME": 26,
    "STATE": 18,
    "EXPIRES IN": 10,
    "AGE": 5,
    "ID": 16,
    "HAND-OVER": 12,
    "CLIENT": 30,
}
_GIVE_WAY: Final = ("CLIENT", "HAND-OVER", "ID", "AGE", "EXPIRES IN")
"""The columns that a narrow terminal has no room for, the first to go first."""
_SHORTEST: Final = 8
"""The width of a name at least."""


COMMANDS: Final = {
    "status": Command(_add_status, stored.reporting(_status)),
    "list": Command(_add_list, stored.reporting(_list)),
}
