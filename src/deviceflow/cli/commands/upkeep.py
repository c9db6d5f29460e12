"""`deviceflow sweep` and `purge`, for a timer; and `doubt`, for a restored backup."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from deviceflow.cli import arguments, exits, options, stored, streams
from deviceflow.cli.commands import Command
from deviceflow.trail.login_view import counted

if TYPE_CHECKING:
    from argparse import ArgumentParser


class SweepOptions(options.NoticeOptions, options.JobOptions):
    """The options of `sweep`."""

    limit: int
    unused: float


class PurgeOptions(options.JobOptions, options.RetentionOptions):
    """The options of `purge`."""


def _add_sweep(parser: ArgumentParser) -> None:
    parser.description = (
        "Step each login that is due, refresh ahead the grants that are in use, and notify of those"
        " that need a login. Run it from a timer."
    )
    parser.add_argument(
        "--limit",
        type=arguments.natural,
        default=100,
        help="at most N logins, and N grants (%(default)s)",
    )
    parser.add_argument(
        "--unused",
        type=arguments.duration,
        default=arguments.duration("14d"),
        metavar="AGE",
        help="do not refresh grants that nobody has used for so long: 12h, 7d; by default 14d",
    )
    options.add_notices(parser)
    options.add_job(parser)


def _add_purge(parser: ArgumentParser) -> None:
    parser.description = (
        "Wipe the secrets of logins that ended long ago, delete the oldest logins and ended grants,"
        " and end needs that nobody has fulfilled for as long; their events stay. A token that"
        " nobody acknowledged is revoked if the server supports it."
    )
    options.add_retention(parser)
    options.add_job(parser)


def _add_doubt(parser: ArgumentParser) -> None:
    parser.description = (
        "Run this once after a backup of the store was restored. Its refresh tokens may have been"
        " used since, and a server that sees one again may revoke all tokens of its login. So each"
        " name is marked as in doubt: its access token is used until it ends."
    )
    options.add_job(parser)


def _sweep(args: SweepOptions) -> int:
    client = stored.client(args, notifies=True, tells=False)
    swept = client.sweep(args.limit)
    grants = client.sweep_grants(unused=args.unused, limit=args.limit)
    failed = swept.problems + grants.problems
    if args.json:
        logins = [stored.facts(login) for login in swept.logins]
        problems = [{"flow_id": p.flow_id, "error": str(p)} for p in failed]
        streams.show(json.dumps({"logins": logins, "grants": grants.names, "problems": problems}))
    else:
        for login in swept.logins:
            streams.show(stored.line(login))
        for name in grants.names:
            streams.show(f"grant {name}")
        for problem in failed:
            streams.say(f"deviceflow: {problem}")
    return exits.FAILED if failed else 0


def _purge(args: PurgeOptions) -> int:
    purged = stored.client(args).purge(tokens_after=args.tokens_after, flows_after=args.flows_after)
    if args.json:
        problems = [{"flow_id": p.flow_id, "error": str(p)} for p in purged.problems]
        streams.show(
            json.dumps(
                {
                    "tokens": purged.tokens,
                    "flows": purged.flows,
                    "grants": purged.grants,
                    "needs": purged.needs,
                    "problems": problems,
                }
            )
        )
    else:
        wiped, deleted = counted(purged.tokens, "login"), counted(purged.flows, "login")
        grants = f" and {counted(purged.grants, 'grant')}" if purged.grants else ""
        needs = f", ended {counted(purged.needs, 'need')}" if purged.needs else ""
        streams.show(f"wiped the secrets of {wiped}, deleted {deleted}{grants}{needs}")
        for problem in purged.problems:
            streams.say(f"deviceflow: {problem}")
    return exits.FAILED if purged.problems else 0


def _doubt(args: options.JobOptions) -> int:
    marked = stored.client(args).doubt_grants()
    if args.json:
        streams.show(json.dumps({"marked": marked}))
    else:
        streams.show("1 name is in doubt" if marked == 1 else f"{marked} names are in doubt")
    return 0


COMMANDS: Final = {
    "doubt": Command(_add_doubt, stored.reporting(_doubt)),
    "sweep": Command(_add_sweep, stored.reporting(_sweep)),
    "purge": Command(_add_purge, stored.reporting(_purge)),
}
