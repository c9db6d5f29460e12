"""`deviceflow step`, `wait` and `cancel`: continue a login, or cancel it."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Final

from deviceflow.cli import arguments, changes, options, prompt, stored, streams
from deviceflow.cli.commands import Command
from deviceflow.core.explain import error_of
from deviceflow.core.states import State
from deviceflow.errors import WaitTimeoutError

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from deviceflow.core.login import Login


class StepOptions(options.IdArgument, options.JobOptions):
    """The options of `step`."""


class WaitOptions(options.ChangesOption, StepOptions):
    """The options of `wait`."""

    timeout: float | None


class CancelOptions(StepOptions):
    """The options of `cancel`."""

    reason: str | None


def _add_one(parser: ArgumentParser) -> None:
    options.add_id(parser)
    options.add_job(parser)


def _add_step(parser: ArgumentParser) -> None:
    parser.description = "Do what is due for a login: at most one request, and no waiting."
    _add_one(parser)


def _add_wait(parser: ArgumentParser) -> None:
    parser.description = "Wait until a login ends. The token stays in the store."
    options.add_id(parser)
    options.add_job(parser, changes=True)
    parser.add_argument(
        "--timeout", type=arguments.seconds, metavar="SECONDS", help="how long to wait"
    )


def _add_cancel(parser: ArgumentParser) -> None:
    parser.description = "Cancel a login. A login that has ended is not changed."
    parser.add_argument("--reason", metavar="TEXT", help="why, for the trail")
    _add_one(parser)


def _step(args: StepOptions) -> int:
    client = stored.client(args)
    return _report(args, client.step(stored.login(args, client, args.id).id))


def _wait(args: WaitOptions) -> int:
    client = stored.client(args)
    login = stored.login(args, client, args.id)
    told = changes.Changes(partial(_go_on, args)) if args.json_events else None
    if told is not None:
        told.begin(login)
    try:
        with prompt.waiting(login, told.step if told else None) as on_step:
            login = client.wait(login.id, args.timeout, on_step=on_step)
    except WaitTimeoutError as late:
        login = client.get(login.id)
        if told is not None:
            told.error(late, login)
    return _report(args, login) if told is None else stored.code(login)


def _go_on(args: WaitOptions, login: Login) -> list[str]:
    given = changes.options(args, ("json_events", "timeout", "store", "plaintext", "trail"))
    return [*changes.program(), "wait", login.id, *given]


def _cancel(args: CancelOptions) -> int:
    client = stored.client(args)
    login = client.cancel(stored.login(args, client, args.id).id, args.reason)
    streams.show(json.dumps(stored.facts(login)) if args.json else stored.line(login))
    return 0


def _report(args: StepOptions, login: Login) -> int:
    streams.show(json.dumps(stored.facts(login)) if args.json else stored.line(login))
    if login.state in (State.EXPIRED, State.FAILED):
        streams.say(f"deviceflow: {error_of(login)}")
    return stored.code(login)


COMMANDS: Final = {
    "step": Command(_add_step, stored.reporting(_step)),
    "wait": Command(_add_wait, stored.reporting(_wait)),
    "cancel": Command(_add_cancel, stored.reporting(_cancel)),
}
