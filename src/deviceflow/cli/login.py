"""`deviceflow login`: one login, and its token put where it was told to go."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from deviceflow.cli import exits, prompt, target
from deviceflow.cli.sink import Keyring, TokenFile
from deviceflow.client import Client
from deviceflow.errors import DeviceFlowError, UsageError, WaitTimeoutError
from deviceflow.secret import Secret

if TYPE_CHECKING:
    from argparse import Namespace

    from deviceflow.flow import Flow
    from deviceflow.providers.base import Provider, Token


def run(args: Namespace) -> int:
    """Log in, and return the exit code.

    Raises:
        UsageError: The login cannot be made as asked; the person was not bothered.
    """
    if not (args.output or args.save or args.show_token):
        raise UsageError(
            "The token has nowhere to go, so nobody was asked for anything.",
            hint="Say where to put it: --output FILE, --save keyring, or --show-token for stdout.",
        )
    if args.verbose:
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    provider = target.provider(args)
    target.look_for_secret(provider)
    client = Client()
    with ExitStack() as stack:
        sinks = _sinks(args, provider, stack)
        try:
            flow = client.start(provider)
            token = _wait(client, flow, args)
        except DeviceFlowError as error:
            if args.json:
                print(json.dumps(_facts(provider, error) | {"error": str(error)}))
                return exits.of(error)
            raise
        kept = _as_text(token, args.format)
        problem = _put(sinks, kept, shown=args.show_token)
    if args.json:
        facts = _facts(provider, client.get(flow.id)) | dict(flow.extra)
        facts |= {"expires_at": token.expires_at, "scope": token.scope}
        facts |= {"output": args.output} if args.output else {}
        facts |= _shown(token, args.format) if args.show_token else {}
        print(json.dumps(facts | ({"error": str(problem)} if problem else {})))
        return exits.of(problem) if problem else exits.AUTHORIZED
    if args.show_token:
        print(kept.reveal())
    if problem:
        raise problem
    return exits.AUTHORIZED


def _put(sinks: list[TokenFile | Keyring], kept: Secret, *, shown: bool) -> DeviceFlowError | None:
    """Put the token in each place, one failing or not, and return what went wrong."""
    problem: DeviceFlowError | None = None
    for sink in sinks:
        try:
            sink.put(kept)
        except DeviceFlowError as trouble:
            problem = trouble
        else:
            shown = True
            prompt.say(f"Logged in. The token is in {sink.where}.")
    if problem and shown:
        return DeviceFlowError(problem.message, hint="It is in the other place only.")
    return problem


def _sinks(args: Namespace, provider: Provider, stack: ExitStack) -> list[TokenFile | Keyring]:
    sinks: list[TokenFile | Keyring] = []
    if args.output:
        sinks.append(stack.enter_context(TokenFile(args.output)))
    if args.save:
        sinks.append(Keyring(provider))
    return sinks


def _wait(client: Client, flow: Flow, args: Namespace) -> Token:
    try:
        prompt.ask(flow, browser=not args.no_browser, qr=args.qr)
        with prompt.waiting(flow):
            return client.wait(flow.id, args.timeout)
    except WaitTimeoutError:
        client.cancel(flow.id, "timeout")
        raise WaitTimeoutError(
            f"The login is still pending after {args.timeout:g} seconds, and was given up.",
            flow_id=flow.id,
            state=flow.state,
            hint="Run the command again, with a longer --timeout perhaps.",
        ) from None
    except KeyboardInterrupt:
        # It may have come before the waiting, which cancels by itself.
        client.cancel(flow.id, "interrupted")
        raise


def _as_text(token: Token, form: str) -> Secret:
    return Secret(json.dumps(token.as_dict())) if form == "json" else token.access_token


def _shown(token: Token, form: str) -> dict[str, Any]:
    return {"token": token.as_dict() if form == "json" else token.access_token.reveal()}


def _facts(provider: Provider, stands: Flow | DeviceFlowError) -> dict[str, Any]:
    flow_id = stands.flow_id if isinstance(stands, DeviceFlowError) else stands.id
    return {
        "flow_id": flow_id,
        "state": stands.state,
        "reason": stands.reason,
        "issuer": provider.server,
    }
