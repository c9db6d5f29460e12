"""`deviceflow doctor`: a look at a provider, in words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from deviceflow.cli import exits, target
from deviceflow.client import Client
from deviceflow.doctor import Recorder, as_dict, examine
from deviceflow.errors import UsageError
from deviceflow.providers.oauth import OAuth
from deviceflow.transport import RequestsTransport

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
    recorder = Recorder(RequestsTransport())
    findings = []
    for finding in examine(
        Client(transport=recorder), recorder, provider, early_poll=args.early_poll
    ):
        findings.append(finding)
        if not args.json:
            quirk = f"  [set {finding.quirk}]" if finding.quirk else ""
            print(f"{_MARKS[finding.verdict]} {finding.part}: {finding.said}{quirk}", flush=True)
    bad = any(finding.verdict == "bad" for finding in findings)
    if args.json:
        print(json.dumps({"healthy": not bad, "findings": [as_dict(found) for found in findings]}))
    return exits.FAILED if bad else 0
