"""`deviceflow step`, `wait` and `cancel`: continue a login, or cancel it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from deviceflow.cli import arguments, options, prompt, stored, streams
from deviceflow.cli.commands import Command
from deviceflow.core.explain import error_of
from deviceflow.core.states import State
from deviceflow.errors import WaitTimeoutError

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from deviceflow.client._sync import Client
    from deviceflow.client.step import Step


class StepOptions(options.IdArgument, options.JobOptions):
    """The options of `step`."""


class WaitOptions(StepOptions):
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
    _add_one(parser)
    parser.add_argument(
        "--timeout", type=arguments.seconds, metavar="SECONDS", help="how long to wait"
    )


def _add_cancel(parser: ArgumentParser) -> None:
    parser.description = "Cancel a login. A login that has ended is not changed."
    parser.add_argument("--reason", metavar="TEXT", help="why, for the trail")
    _add_one(parser)


def _step(args: StepOptions) -> int:
    client = stored.client(args)
    return _report(args, client, client.step(args.id))


def _wait(args: WaitOptions) -> int:
    client = stored.client(args)
    flow = client.get(args.id, secrets=False)
    try:
        with prompt.waiting(flow):
            done = client.settle(args.id, args.timeout)
    except WaitTimeoutError:
        done = stored.stands(client.get(args.id, secrets=False))
    return _report(args, client, done)


def _cancel(args: CancelOptions) -> int:
    done = stored.client(args).cancel(args.id, args.reason)
    streams.show(json.dumps(stored.facts(done)) if args.json else stored.line(done))
    return 0


def _report(args: StepOptions, client: Client, done: Step) -> int:
    streams.show(json.dumps(stored.facts(done)) if args.json else stored.line(done))
    if done.state in (State.EXPIRED, State.FAILED):
        streams.say(f"deviceflow: {error_of(client.get(args.id, secrets=False))}")
    return stored.code(done)


COMMANDS: Final = {
    "step": Command(_add_step, stored.reporting(_step)),
    "wait": Command(_add_wait, stored.reporting(_wait)),
    "cancel": Command(_add_cancel, stored.reporting(_cancel)),
}
