"""The commands that drive a login one step at a time: for cron, Make, a job, a shell's loop."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from deviceflow.cli import exits, prompt, stored, streams, target
from deviceflow.core.explain import error_of, instructions
from deviceflow.core.states import State
from deviceflow.errors import UnknownFlowError, UsageError, WaitTimeoutError

if TYPE_CHECKING:
    from argparse import Namespace

    from deviceflow.client._sync import Client
    from deviceflow.client.step import Step
    from deviceflow.core.flow import Flow
    from deviceflow.errors import DeviceFlowError


def run(args: Namespace) -> int:
    """Do one of the commands, and return the exit code."""
    return stored.reporting(_WORK[args.command], args)


def _start(args: Namespace) -> int:
    if args.key == "":
        raise UsageError("The key is empty: whoever forgot theirs would share a login by it.")
    provider = target.provider(args)
    target.look_for_secret(provider)
    flow = stored.client(args).start(provider, key=args.key, purpose=target.purpose(args))
    if args.json:
        streams.show(json.dumps(stored.all_facts(flow)))
        return 0
    if not flow.state.ended:
        for said in instructions(flow):
            streams.say(said)
    streams.show(flow.id)
    return 0


def _step(args: Namespace) -> int:
    client = stored.client(args)
    return _report(args, client, client.step(args.id))


def _wait(args: Namespace) -> int:
    client = stored.client(args)
    flow = client.get(args.id, secrets=False)
    try:
        with prompt.waiting(flow):
            done = client.settle(args.id, args.timeout)
    except WaitTimeoutError:
        done = stored.stands(client.get(args.id, secrets=False))
    return _report(args, client, done)


def _cancel(args: Namespace) -> int:
    done = stored.client(args).cancel(args.id, args.reason)
    streams.show(json.dumps(stored.facts(done)) if args.json else stored.line(done))
    return 0


def _report(args: Namespace, client: Client, done: Step) -> int:
    streams.show(json.dumps(stored.facts(done)) if args.json else stored.line(done))
    if done.state in (State.EXPIRED, State.FAILED):
        streams.say(f"deviceflow: {error_of(client.get(args.id, secrets=False))}")
    return stored.code(done)


def _status(args: Namespace) -> int:
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
        streams.say("The code's life is over: step it, and see whether it was approved in time.")
    elif flow.user_code and not done.state.ended:
        for said in instructions(flow):
            streams.show(said)
    return stored.code(done)


def _newest(client: Client) -> Flow:
    for live in (True, False):
        for flow in client.flows(live=live, on_problem=stored.say_problem):
            return flow
    raise UnknownFlowError("There is no login in this store.", hint="Begin one: deviceflow start")


def _list(args: Namespace) -> int:
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


def _sweep(args: Namespace) -> int:
    swept = stored.client(args).sweep(args.limit)
    if args.json:
        steps = [stored.facts(done) for done in swept.steps]
        problems = [{"flow_id": p.flow_id, "error": str(p)} for p in swept.problems]
        streams.show(json.dumps({"steps": steps, "problems": problems}))
    else:
        for done in swept.steps:
            streams.show(stored.line(done))
        for problem in swept.problems:
            streams.say(f"deviceflow: {problem}")
    return exits.FAILED if swept.problems else 0


def _purge(args: Namespace) -> int:
    purged = stored.client(args).purge(tokens_after=args.tokens_after, flows_after=args.flows_after)
    if args.json:
        problems = [{"flow_id": p.flow_id, "error": str(p)} for p in purged.problems]
        streams.show(
            json.dumps({"tokens": purged.tokens, "flows": purged.flows, "problems": problems})
        )
    else:
        streams.show(f"wiped the secrets of {purged.tokens} logins, dropped {purged.flows}")
        for problem in purged.problems:
            streams.say(f"deviceflow: {problem}")
    return exits.FAILED if purged.problems else 0


_WORK = {
    "start": _start,
    "step": _step,
    "wait": _wait,
    "status": _status,
    "list": _list,
    "cancel": _cancel,
    "sweep": _sweep,
    "purge": _purge,
}
