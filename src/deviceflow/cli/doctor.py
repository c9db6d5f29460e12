"""`deviceflow doctor`: a look at a provider, in words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from deviceflow.cli import exits, streams, target
from deviceflow.client._sync import Client
from deviceflow.client.clock import SystemClock
from deviceflow.doctor import Finding, Recorder, as_dict, examine
from deviceflow.errors import UsageError
from deviceflow.providers.oauth import OAuth
from deviceflow.transports.requests import RequestsTransport

if TYPE_CHECKING:
    from argparse import Namespace

_MARKS = {"good": "✓", "note": "•", "bad": "✗"}


def run(args: Namespace) -> int:
    """Look at the provider, and return 5 if a login would fail.

    Raises:
        UsageError: It is not said, or not possible to say, whom to look at.
    """
    provider = target.provider(args)
    if not isinstance(provider, OAuth):
        raise UsageError("The doctor looks at OAuth providers.", hint="Name one, or give --issuer.")
    target.look_for_secret(provider)
    clock = SystemClock()
    recorder = Recorder(RequestsTransport(), clock)
    client = Client(transport=recorder, clock=clock)
    findings: list[Finding] = []
    healthy: bool | None = None
    try:
        for finding in examine(client, recorder, provider, early_poll=args.early_poll, clock=clock):
            findings.append(finding)
            if not args.json:
                _print(finding)
        healthy = not any(finding.verdict == "bad" for finding in findings)
    finally:
        # Interrupted too: a code may be open by now, and one of the findings says so.
        if args.json and findings:
            _print_json(provider, findings, healthy=healthy)
    if not args.json:
        streams.show("A login would work." if healthy else "A login would fail.")
    return 0 if healthy else exits.FAILED


def _print(finding: Finding) -> None:
    streams.show(f"{_MARKS[finding.verdict]} {finding.part}: {finding.message}")
    if finding.quirk:
        streams.show(f"    in a provider entry: {finding.quirk}")


def _print_json(provider: OAuth, findings: list[Finding], *, healthy: bool | None) -> None:
    facts = {
        "provider": provider.name,
        "server": provider.server,
        "healthy": healthy,
        "findings": [as_dict(found) for found in findings],
    }
    streams.show(json.dumps(facts))
