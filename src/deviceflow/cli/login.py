"""`deviceflow login` and `resume`: one login, and its token put where it was told to go."""

from __future__ import annotations

import getpass
import hashlib
import json
import logging
import os
import platform
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from deviceflow.cli import exits, jobs, prompt, stored, target
from deviceflow.cli.sink import Keyring, TokenFile
from deviceflow.client import Client
from deviceflow.errors import DeviceFlowError, UsageError, WaitTimeoutError
from deviceflow.machine import State
from deviceflow.secret import Secret
from deviceflow.stores.location import VARIABLE

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from deviceflow.flow import Flow
    from deviceflow.providers.base import Provider, Token


def run(args: Namespace) -> int:
    """Log in, or go on with a login that was interrupted, and return the exit code.

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
    if args.command == "resume":
        client = stored.client(args)
        flow = client.get(args.id, secrets=False) if args.id else jobs.newest(client)
        if flow.state is State.INIT:
            client.step(flow.id)
            flow = client.get(flow.id, secrets=False)
        return _run(args, client, flow.provider, lambda: flow)
    provider = target.provider(args)
    target.look_for_secret(provider)
    client = _client(args)
    return _run(args, client, provider, lambda: client.start(provider, key=_key(args, provider)))


def _run(args: Namespace, client: Client, provider: Provider, begin: Callable[[], Flow]) -> int:
    with ExitStack() as stack:
        sinks = _sinks(args, provider, stack)
        try:
            flow = begin()
            token = _wait(client, flow, args)
        except DeviceFlowError as error:
            if args.json:
                print(json.dumps(_facts(provider, error) | {"error": str(error)}))
                return exits.of(error)
            raise
        kept = _as_text(token, args.format)
        problem = _put(sinks, kept)
    if args.json:
        facts = _facts(provider, client.get(flow.id, secrets=False)) | dict(flow.extra)
        facts |= {"expires_at": token.expires_at, "scope": token.scope}
        facts |= {"output": args.output} if args.output else {}
        facts |= _shown(token, args.format) if args.show_token else {}
        print(json.dumps(facts | ({"error": str(problem)} if problem else {})), flush=True)
    elif args.show_token:
        print(kept.reveal(), flush=True)
    if problem is None:
        client.acknowledge(flow.id)
        return exits.AUTHORIZED
    if client.persistent:
        problem.hint = f"It is kept: deviceflow token {flow.id} --acknowledge"
    elif args.show_token or len(sinks) > 1:
        problem.hint = "It is in the other place only."
    else:
        problem.hint = "The token is lost: revoke it at the server, then log in again."
    if args.json:
        prompt.say(f"deviceflow: {problem}")
        return exits.of(problem)
    raise problem


def _client(args: Namespace) -> Client:
    """Return a client whose flows are in the store, or in memory where nothing can be sealed."""
    try:
        return stored.client(args)
    except ImportError as missing:
        if args.store or os.environ.get(VARIABLE):
            raise
        prompt.say(f"This login is not kept while it waits. {missing}")
        return Client()


def _key(args: Namespace, provider: Provider) -> str:
    """Return a key that is the same for the same person with the same arguments, here."""
    asked = [provider.to_dict(), args.output, args.save, args.show_token, args.format]
    asked += [getpass.getuser(), platform.node()]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    return f"login:{digest[:32]}"


def _put(sinks: list[TokenFile | Keyring], kept: Secret) -> DeviceFlowError | None:
    """Put the token in each place, one failing or not, and return what went wrong."""
    problem: DeviceFlowError | None = None
    for sink in sinks:
        try:
            sink.put(kept)
        except DeviceFlowError as trouble:
            problem = trouble
        else:
            prompt.say(f"Logged in. The token is in {sink.where}.")
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
        if not flow.state.ended:
            prompt.ask(flow, browser=not args.no_browser, qr=args.qr)
        with prompt.waiting(flow):
            return client.wait(flow.id, args.timeout)
    except WaitTimeoutError:
        hint = "Go on with it: deviceflow resume, or the same command again."
        if not client.persistent:
            client.cancel(flow.id, "timeout")
            hint = "It was given up: run the command again, with a longer --timeout perhaps."
        raise WaitTimeoutError(
            f"The login is still pending after {args.timeout:g} seconds.",
            flow_id=flow.id,
            state=flow.state,
            hint=hint,
        ) from None
    except KeyboardInterrupt:
        # It may have come before the waiting, which cancels by itself.
        if client.persistent:
            prompt.say("\nThe login goes on: deviceflow resume, or the same command again.")
        else:
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
