"""`deviceflow audit report`."""

from __future__ import annotations

import hashlib
import platform
import shlex
import time
from contextlib import closing
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from deviceflow._version import __version__
from deviceflow.audit.formats import JSONLines
from deviceflow.cli import options, streams, trail
from deviceflow.cli.commands.audit_filters import FilterOptions, add_filters, filters_of, named
from deviceflow.cli.outfile import writing
from deviceflow.client.identity import actor
from deviceflow.trail import query
from deviceflow.trail.grant_view import Grant
from deviceflow.trail.login_view import counted
from deviceflow.trail.selection import Selection
from deviceflow.trail.stats import Stats

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from deviceflow.stores.sql import SQLStore

_TIMES: Final = ("since", "until")


class ReportOptions(FilterOptions, trail.VerifiedStore):
    """The options of `report`."""

    output: str


def add_report(parser: ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=True, help="write HTML to this file (0600)"
    )
    options.add_evidence(parser)
    add_filters(parser)


def report(args: ReportOptions) -> int:
    """Verify the trail, and write the report."""
    from deviceflow.trail import report

    trail.check(args)
    filters = filters_of(args)
    with closing(trail.store(args)) as kept, writing(args.output) as write:
        verified = trail.verify(args, kept)
        by, findings = verified.by, verified.findings
        stats, data, line = Stats(), hashlib.sha256(), JSONLines().line
        suspects = {finding.flow_id for finding in findings}
        logins, grants = Selection(suspects), Selection(suspects)
        with query.chains(kept, filters, oldest_first=True) as found:
            for chain in found:
                stats.take(chain)
                (grants if isinstance(chain, Grant) else logins).take(chain)
                for event in chain.events:
                    data.update(f"{line(event)}\n".encode())
        # The same as export does, so that its output has this hash.
        if filters.only_times():
            for event in query.notes(kept):
                data.update(f"{line(event)}\n".encode())
        shown = grants.newest_first()
        ids = [one.chain.login_id for one in shown if isinstance(one.chain, Grant)]
        write(
            report.render(
                stats,
                logins.newest_first(),
                query.notes(kept, filters),
                report.Verdict(
                    findings,
                    len(findings),
                    by.events,
                    by.flows,
                    by.digests,
                    by.covered_until,
                    by.signed_by,
                    verified.self_signed,
                    verified.keyed,
                ),
                about=_about(kept, filters),
                made_at=time.time(),
                grants=shown,
                origins=query.some(kept, [*filter(None, ids)]),
                source=report.Source(
                    data_hash=data.hexdigest(),
                    export=_export_command(kept, filters),
                    verify=_verify_command(args, kept),
                ),
            )
        )
    all_found = counted(len(findings), "finding") if findings else "nothing found"
    found_there = [counted(stats.logins, "login")]
    found_there += [counted(stats.grants.grants, "grant")] if stats.grants.grants else []
    summary = ", ".join([*found_there, all_found])
    streams.say(f"The report was written to {args.output}: {summary}.")
    return 0


def _about(kept: SQLStore, filters: query.Filters) -> dict[str, str]:
    shown = {
        name: f"{value[:19].replace('T', ' ')} UTC" if name in _TIMES else value
        for name, value in named(filters).items()
    }
    return {
        "made by": f"{actor() or 'unknown'} on {platform.node() or 'unknown'}",
        "with": f"deviceflow {__version__}",
        "store": trail.name_of(kept),
        **shown,
    }


def _store_option(kept: SQLStore) -> list[str]:
    """Return how the store is named; the URL of another database may contain a password."""
    file = trail.file_of(kept)
    return [] if file is None else ["--store", f"sqlite:///{quote(str(file.absolute()))}"]


def _verify_command(args: ReportOptions, kept: SQLStore) -> str:
    words = ["deviceflow", "audit", "verify", *_store_option(kept)]
    for name, value in (
        ("--digests", args.digests),
        ("--public-key", args.public_key),
        ("--last", args.last),
    ):
        words += [name, str(value)] if value else []
    return shlex.join([*words, *(["--no-key"] if args.no_key else [])])


def _export_command(kept: SQLStore, filters: query.Filters) -> str:
    words = ["deviceflow", "audit", "export", "--format", "jsonl", *_store_option(kept)]
    words += [f"--{name}={value}" for name, value in named(filters).items()]
    return f"{shlex.join(words)} | sha256sum"
