"""`deviceflow login` and `resume`: one login, and its token put where it was told to go."""

from __future__ import annotations

import getpass
import hashlib
import json
import logging
import os
import platform
import sys
import time
from typing import TYPE_CHECKING, Any

from deviceflow.cli import exits, prompt, stored, streams, target
from deviceflow.cli.sink import Keyring, Stdout, TokenFile
from deviceflow.client._sync import Client
from deviceflow.core.machine import State
from deviceflow.core.secret import Secret
from deviceflow.errors import DeviceFlowError, UnknownFlowError, UsageError, WaitTimeoutError
from deviceflow.stores.url import VARIABLE

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from deviceflow.cli.sink import Sink
    from deviceflow.core.flow import Flow
    from deviceflow.core.provider import Provider, Token


def run(args: Namespace) -> int:
    """Log in, or go on with a login that was interrupted, and return the exit code.

    Raises:
        UsageError: The login cannot be made as asked; the person was not bothered.
    """
    return stored.reporting({"login": _login, "resume": _resume}[args.command], args)


def _login(args: Namespace) -> int:
    _prepare(args)
    provider = target.provider(args)
    target.look_for_secret(provider)
    purpose = target.purpose(args)
    key = _key(args, provider, purpose)
    client = _client(args)
    return _run(args, client, provider, lambda: client.start(provider, key=key, purpose=purpose))


def _resume(args: Namespace) -> int:
    _prepare(args)
    client = stored.client(args)
    named = args.id is not None
    flow = client.get(args.id, secrets=False) if named else _interrupted(client)
    return _run(args, client, flow.provider, lambda: _awake(client, flow))


def _prepare(args: Namespace) -> None:
    if args.output is None and not (args.save or args.show_token):
        raise UsageError(
            "The token has nowhere to go, so nobody was asked for anything.",
            hint="Say where to put it: --output FILE, --save keyring, or --show-token for stdout.",
        )
    if args.verbose:
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)


def _run(args: Namespace, client: Client, provider: Provider, begin: Callable[[], Flow]) -> int:
    sinks = _sinks(args, provider)
    try:
        flow = begin()
        token = _wait(client, flow, args)
    except DeviceFlowError as error:
        if not args.json:
            raise
        streams.show(json.dumps(stored.trouble(error, args) | {"issuer": provider.server}))
        return exits.of(error)
    beyond = target.beyond_ceiling(args, token.scopes or ()) if args.command == "login" else []
    if beyond:
        streams.say(f"The server granted more than the ceiling for scopes: {', '.join(beyond)}.")
    problem = _put(sinks, _as_text(token, args.format))
    if problem is not None:
        problem.hint = _where_it_is(client, flow, elsewhere=len(sinks) > 1 or args.show_token)
    if args.json:
        said = stored.facts(stored.stands(client.get(flow.id, secrets=False)))
        said |= {"issuer": provider.server} | dict(flow.extra)
        said |= {"expires_at": token.expires_at, "scopes": token.scopes}
        said |= {"beyond_ceiling": beyond} if beyond else {}
        said |= {"output": args.output} if args.output else {}
        said |= _shown(token, args.format) if args.show_token else {}
        said |= {"error": str(problem)} if problem else {}
        try:
            streams.show(json.dumps(said))
        except streams.OutputError as unseen:
            unseen.hint = _where_it_is(client, flow, elsewhere=bool(sinks))
            raise
    if problem is None:
        client.acknowledge(flow.id)
        return exits.AUTHORIZED
    if args.json:
        streams.say(f"deviceflow: {problem}")
        return exits.of(problem)
    raise problem


def _client(args: Namespace) -> Client:
    """Return a client whose flows are in the store, or in memory where nothing can be sealed."""
    try:
        return Client(stored.store(args))
    except ImportError as missing:
        if args.store or os.environ.get(VARIABLE):
            raise
        streams.say(f"This login is not kept while it waits. {missing}")
        return Client()


def _key(args: Namespace, provider: Provider, purpose: str | None) -> str:
    """Return a key that is the same for the same person with the same arguments, here."""
    asked = [provider.to_dict(), purpose, args.output, args.save, args.show_token, args.format]
    asked += [_user(), platform.node()]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    return f"login:{digest[:32]}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's, which has a number and no name
        return str(os.getuid())


def _interrupted(client: Client) -> Flow:
    """Return the newest login that has not ended, or whose token is still in the store."""
    for flow in client.flows(on_problem=stored.say_problem):
        holds_token = flow.state is State.AUTHORIZED and flow.handover in (None, "collected")
        if holds_token or not flow.state.ended:
            return flow
    raise UnknownFlowError(
        "There is no login to go on with in this store.", hint="Begin one: deviceflow login"
    )


def _awake(client: Client, flow: Flow) -> Flow:
    """Return the flow with a code for the person, and not with one that is no good any more."""
    while flow.state is State.INIT or stored.outlived(flow):
        done = client.step(flow.id)
        flow = client.get(flow.id, secrets=False)
        if not done.state.ended:
            time.sleep(done.wait_seconds)
    return flow


def _put(sinks: list[Sink], kept: Secret) -> DeviceFlowError | None:
    """Put the token in each place, one failing or not, and return what went wrong."""
    problem: DeviceFlowError | None = None
    for sink in sinks:
        try:
            sink.put(kept)
        except DeviceFlowError as trouble:
            problem = trouble
        else:
            if sink.where is not None:
                streams.say(f"Logged in. The token is in {sink.where}.")
    return problem


def _where_it_is(client: Client, flow: Flow, *, elsewhere: bool) -> str:
    """Return what to do about a token that one of its places did not take."""
    if client.durable:
        return f"It is kept: deviceflow token {flow.id} --acknowledge"
    if elsewhere:
        return "It is in the other place only."
    return "The token is lost: revoke it at the server, then log in again."


def _sinks(args: Namespace, provider: Provider) -> list[Sink]:
    sinks: list[Sink] = []
    if args.output is not None:
        sinks.append(TokenFile(args.output))
    if args.save:
        sinks.append(Keyring(provider))
    if args.show_token and not args.json:
        sinks.append(Stdout())
    return sinks


def _wait(client: Client, flow: Flow, args: Namespace) -> Token:
    try:
        if not flow.state.ended:
            prompt.ask(flow, browser=not args.no_browser, qr=args.qr)
        with prompt.waiting(flow):
            return client.wait(flow.id, args.timeout)
    except WaitTimeoutError:
        hint = (
            f"Go on with it: the same command again, or deviceflow resume {flow.id} and where to"
            " put the token."
        )
        if not client.durable:
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
        if client.durable:
            streams.say("")
            streams.say("The login is kept. Go on with it: the same command again, or")
            streams.say(f"deviceflow resume {flow.id} and where to put the token.")
        else:
            client.cancel(flow.id, "interrupted")
        raise


def _as_text(token: Token, form: str) -> Secret:
    return Secret(json.dumps(token.as_dict())) if form == "json" else token.access_token


def _shown(token: Token, form: str) -> dict[str, Any]:
    return {"token": token.as_dict() if form == "json" else token.access_token.reveal()}
