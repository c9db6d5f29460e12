"""`deviceflow status` and `list`: show the state of logins. No request is sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from deviceflow.cli import exits, options, stored, streams
from deviceflow.cli.commands import Command
from deviceflow.core.explain import error_of, instructions
from deviceflow.core.states import State
from deviceflow.errors import UnknownFlowError

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from deviceflow.client._sync import Client
    from deviceflow.core.flow import Flow
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
    flow = client.get(args.id, secrets=False) if args.id is not None else _newest(client)
    done = stored.stands(flow)
    if args.json:
        streams.show(json.dumps(stored.all_facts(flow)))
        return stored.code(done)
    streams.show(stored.line(done))
    if done.state in (State.EXPIRED, State.FAILED):
        streams.say(f"deviceflow: {error_of(flow)}")
    elif stored.outlived(flow):
        streams.say("The code has expired. Step the login to see whether it was approved in time.")
    elif flow.user_code and not done.state.ended:
        for said in instructions(flow):
            streams.show(said)
    return stored.code(done)


def _newest(client: Client) -> Flow:
    for live in (True, False):
        for flow in client.flows(live=live, on_problem=stored.say_problem):
            return flow
    raise UnknownFlowError("The store has no logins.", hint="Start one with: deviceflow start")


def _list(args: ListOptions) -> int:
    problems: list[DeviceFlowError] = []
    live = not (args.all or args.state)
    for flow in stored.client(args).flows(live=live, on_problem=problems.append):
        if args.state in (None, flow.state):
            streams.show(json.dumps(stored.all_facts(flow)) if args.json else _entry(flow))
    for problem in problems:
        streams.say(f"deviceflow: {problem}")
    return exits.FAILED if problems else 0


def _entry(flow: Flow) -> str:
    asks = flow.provider.client_name or flow.provider.client_id or "-"
    return f"{stored.line(stored.stands(flow))}  {asks} at {flow.provider.server}"


COMMANDS: Final = {
    "status": Command(_add_status, stored.reporting(_status)),
    "list": Command(_add_list, stored.reporting(_list)),
}
