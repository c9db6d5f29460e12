"""`deviceflow status` and `list`: show the state of logins. No request is sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from deviceflow.cli import exits, options, stored, streams
from deviceflow.cli.commands import Command
from deviceflow.core.explain import error_of, instructions
from deviceflow.core.states import State
from deviceflow.errors import UnknownLoginError

if TYPE_CHECKING:
    from argparse import ArgumentParser

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
    parser.description = "Show the state of a login, and where to approve it. No request is sent."
    parser.add_argument("id", nargs="?", metavar="ID", help="by default the newest open login")
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
    options.add_job(parser)


def _status(args: StatusOptions) -> int:
    client = stored.client(args)
    login = client.get(args.id) if args.id is not None else _newest(client)
    if args.json:
        streams.show(json.dumps(stored.all_facts(login)))
        return stored.code(login)
    streams.show(stored.line(login))
    if login.state in (State.EXPIRED, State.FAILED):
        streams.say(f"deviceflow: {error_of(login)}")
    elif stored.outlived(login):
        streams.say("The code has expired. Step the login to see whether it was approved in time.")
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
    for login in stored.client(args).logins(skip_ended=skip_ended, on_problem=problems.append):
        if args.state in (None, login.state):
            streams.show(json.dumps(stored.all_facts(login)) if args.json else _entry(login))
    for problem in problems:
        streams.say(f"deviceflow: {problem}")
    return exits.FAILED if problems else 0


def _entry(login: Login) -> str:
    asks = login.provider.client_name or login.provider.client_id or "-"
    return f"{stored.line(login)}  {asks} at {login.provider.server}"


COMMANDS: Final = {
    "status": Command(_add_status, stored.reporting(_status)),
    "list": Command(_add_list, stored.reporting(_list)),
}
