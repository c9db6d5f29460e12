"""`deviceflow doctor`: check a provider."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Final

from deviceflow.cli import exits, options, streams
from deviceflow.cli.commands import Command
from deviceflow.cli.target import Target
from deviceflow.client.clock import default_clock
from deviceflow.doctor import Check, Recorder, as_dict, conformance, examine
from deviceflow.errors import UsageError
from deviceflow.providers.oauth import OAuth
from deviceflow.transports.requests import RequestsTransport

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterator

    from deviceflow.core.ports import Clock

_MARKS = {"good": "✓", "note": "•", "bad": "✗"}


class DoctorOptions(options.TargetOptions, options.JSONOption):
    """What `doctor` takes."""

    early_poll: bool
    conformance: bool
    with_approval: bool


def _add_doctor(parser: ArgumentParser) -> None:
    parser.description = (
        "Check whether a login to a provider works, up to the point where a person would have to"
        " approve. One code is requested, and left to expire."
    )
    options.add_target(parser, name="")
    parser.add_argument(
        "--early-poll", action="store_true", help="also poll once before the interval has passed"
    )
    parser.add_argument(
        "--conformance",
        action="store_true",
        help="check instead whether the server follows RFC 8628, 8414, 6749 and 7009. A few codes"
        " are requested, and left to expire.",
    )
    parser.add_argument(
        "--with-approval",
        action="store_true",
        help="with --conformance: ask a person to approve one login, to check the token's answers",
    )
    options.add_json(parser)


def _run(args: DoctorOptions) -> int:
    """Check the provider, and return 5 if a login would fail.

    Raises:
        UsageError: The provider is missing, unknown or not an OAuth provider.
    """
    provider = Target(args, named=False).provider()
    if not isinstance(provider, OAuth):
        raise UsageError(
            "The doctor checks OAuth providers only.", hint="Name one, or pass --issuer."
        )
    clock = default_clock()
    recorder = Recorder(RequestsTransport(), clock)
    checks: list[Check] = []
    healthy: bool | None = None
    try:
        for check in _checks(args, recorder, provider, clock):
            checks.append(check)
            if not args.json:
                _print(check)
        healthy = not any(check.verdict == "bad" for check in checks)
    finally:
        # Also when interrupted: a code may be open by now, and one of the checks says so.
        if args.json and checks:
            _print_json(provider, checks, healthy=healthy)
    if not args.json:
        streams.show(_conclusion(args, healthy=bool(healthy), checks=checks))
    return 0 if healthy else exits.FAILED


def _checks(
    args: DoctorOptions, recorder: Recorder, provider: OAuth, clock: Clock
) -> Iterator[Check]:
    if not args.conformance:
        return examine(recorder, provider, early_poll=args.early_poll, clock=clock)
    approve = _ask if args.with_approval else None
    return conformance(recorder, provider, approve=approve, clock=clock)


def _ask(user_code: str, page: str) -> None:
    streams.say(f"Approve this login on the page {page} (code: {user_code}), then press Enter.")
    sys.stdin.readline()


def _conclusion(args: DoctorOptions, *, healthy: bool, checks: list[Check]) -> str:
    if not args.conformance:
        return "A login would work." if healthy else "A login would fail."
    counts = {verdict: sum(check.verdict == verdict for check in checks) for verdict in _MARKS}
    return f"{counts['good']} rules kept, {counts['bad']} broken, {counts['note']} notes."


def _print(check: Check) -> None:
    streams.show(f"{_MARKS[check.verdict]} {check.part}: {check.message}")
    if check.quirk:
        streams.show(f"    in a provider entry: {check.quirk}")


def _print_json(provider: OAuth, checks: list[Check], *, healthy: bool | None) -> None:
    facts = {
        "provider": provider.name,
        "server": provider.server,
        "healthy": healthy,
        "checks": [as_dict(found) for found in checks],
    }
    streams.show(json.dumps(facts))


COMMANDS: Final = {"doctor": Command(_add_doctor, _run)}
