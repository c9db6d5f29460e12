"""`deviceflow doctor`: a look at a provider, in words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from deviceflow.cli import exits, options, streams, target
from deviceflow.cli.commands import Command
from deviceflow.client.clock import SystemClock
from deviceflow.doctor import Finding, Recorder, as_dict, examine
from deviceflow.errors import UsageError
from deviceflow.providers.oauth import OAuth
from deviceflow.transports.requests import RequestsTransport

if TYPE_CHECKING:
    from argparse import ArgumentParser

_MARKS = {"good": "✓", "note": "•", "bad": "✗"}


class DoctorOptions(options.TargetOptions, options.JSONOption):
    """What `doctor` takes."""

    early_poll: bool


def _add_doctor(parser: ArgumentParser) -> None:
    parser.description = (
        "Walk through a login up to the point where a person would be needed, and say what was"
        " found. It asks for one code, and leaves it to expire."
    )
    options.add_target(parser)
    parser.add_argument("--early-poll", action="store_true", help="poll once too early as well")
    options.add_json(parser)


def _run(args: DoctorOptions) -> int:
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
    findings: list[Finding] = []
    healthy: bool | None = None
    try:
        for finding in examine(recorder, provider, early_poll=args.early_poll, clock=clock):
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


COMMANDS: Final = {"doctor": Command(_add_doctor, _run)}
