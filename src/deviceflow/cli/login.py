"""`deviceflow login`: one login to DVC Studio, and its token put where it was told to go."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from deviceflow.cli import exits, prompt
from deviceflow.cli.sink import TokenFile
from deviceflow.client import Client
from deviceflow.errors import DeviceFlowError, UsageError
from deviceflow.providers.studio import DEFAULT_URL, Studio
from deviceflow.untrusted import is_loopback

if TYPE_CHECKING:
    from argparse import Namespace

    from deviceflow.flow import Flow
    from deviceflow.secret import Secret


def run(args: Namespace) -> int:
    """Log in, and return the exit code.

    Raises:
        UsageError: The login cannot be made as asked; the person was not bothered.
    """
    if not (args.output or args.show_token):
        raise UsageError(
            "The token has nowhere to go, so nobody was asked for anything.",
            hint="Say where to put it: --output FILE, or --show-token for stdout.",
        )
    if args.verbose:
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    provider = Studio(_address(args.host), allow_http=args.allow_http).asking(
        client_name=args.client_name, token_name=args.token_name, scopes=args.scopes or ()
    )
    client = Client()
    with ExitStack() as stack:
        file = stack.enter_context(TokenFile(args.output)) if args.output else None
        try:
            flow = client.start(provider)
            token = _wait(client, flow, args)
        except DeviceFlowError as error:
            if args.json:
                print(json.dumps(_facts(provider, error) | {"error": str(error)}))
                return exits.of(error)
            raise
        if file:
            file.put(token)
            prompt.say(f"Logged in. The token is in {file.path}.")
    if args.json:
        facts = _facts(provider, client.get(flow.id)) | {
            "token_name": dict(flow.extra)["token_name"]
        }
        facts |= {"output": args.output} if args.output else {}
        print(json.dumps(facts | ({"token": token.reveal()} if args.show_token else {})))
    elif args.show_token:
        print(token.reveal())
    return exits.AUTHORIZED


def _wait(client: Client, flow: Flow, args: Namespace) -> Secret:
    try:
        prompt.ask(flow, browser=not args.no_browser, qr=args.qr)
        with prompt.waiting(flow):
            return client.wait(flow.id, args.timeout).access_token
    except KeyboardInterrupt:
        # It may have come before the waiting, which cancels by itself.
        client.cancel(flow.id, "interrupted")
        raise


def _facts(provider: Studio, stands: Flow | DeviceFlowError) -> dict[str, Any]:
    flow_id = stands.flow_id if isinstance(stands, DeviceFlowError) else stands.id
    return {
        "flow_id": flow_id,
        "state": stands.state,
        "reason": stands.reason,
        "issuer": provider.issuer,
    }


def _address(host: str | None) -> str:
    """Return the server's address; a bare host name means https, but on this machine http."""
    if not host:
        return DEFAULT_URL
    if "://" in host:
        return host
    scheme = "http" if is_loopback(urlsplit(f"//{host}").hostname or "") else "https"
    return f"{scheme}://{host}"
