"""The actions of `deviceflow audit` that read the trail."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from deviceflow.audit.formats import CSV, ECS, JSONLines
from deviceflow.cli import arguments, options, streams, trail
from deviceflow.cli.commands import Command, audit_report, audit_show
from deviceflow.cli.commands.audit_facts import entry, facts
from deviceflow.cli.commands.audit_filters import FilterOptions, add_filters, filters_of
from deviceflow.cli.outfile import writing
from deviceflow.core.actions import COUNTED
from deviceflow.core.sanitize import printable
from deviceflow.trail import query
from deviceflow.trail.grant_stats import COUNTED as GRANT_TOTALS
from deviceflow.trail.login_view import span
from deviceflow.trail.percentiles import PERCENTILES
from deviceflow.trail.stats import Stats

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Callable, Iterator


class ListOptions(FilterOptions, options.JSONOption):
    """The options of `list`."""

    limit: int | None


class ExportOptions(FilterOptions):
    """The options of `export`."""

    format: str
    output: str | None


class StatsOptions(FilterOptions, options.JSONOption):
    """The options of `stats`."""


def _add_list(parser: ArgumentParser) -> None:
    add_filters(parser)
    parser.add_argument(
        "--limit", type=arguments.natural, metavar="N", help="at most N, the newest"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")


def _add_export(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        choices=("jsonl", "ecs", "csv"),
        required=True,
        help="JSON lines for verify --file, Elastic Common Schema, or CSV for spreadsheets",
    )
    parser.add_argument("--output", metavar="FILE", help="write to this file (0600)")
    add_filters(parser)


def _add_stats(parser: ArgumentParser) -> None:
    add_filters(parser)
    options.add_json(parser)


def _list(args: ListOptions) -> int:
    left = args.limit
    with closing(trail.store(args)) as kept, query.chains(kept, filters_of(args)) as found:
        for login in found:
            if left == 0:
                break
            left = left and left - 1
            streams.show(json.dumps(facts(login)) if args.json else entry(login))
    return 0


def _export(args: ExportOptions) -> int:
    filters = filters_of(args)
    sinks: dict[str, Callable[[], JSONLines | ECS | CSV]]
    sinks = {"jsonl": JSONLines, "ecs": ECS, "csv": CSV}
    sink = sinks[args.format]()
    with (
        closing(trail.store(args)) as kept,
        writing(args.output) as write,
        query.chains(kept, filters, oldest_first=True) as found,
    ):
        if isinstance(sink, CSV):
            write(CSV.header)
        for login in found:
            for event in login.events:
                write(sink.line(event))
        if filters.only_times():
            # To verify the file, the chain of store events must be complete.
            of = query.ALL if isinstance(sink, JSONLines) else filters
            for event in query.notes(kept, of):
                write(sink.line(event))
    return 0


def _stats(args: StatsOptions) -> int:
    with closing(trail.store(args)) as kept, query.chains(kept, filters_of(args)) as found:
        counts = Stats(found).facts()
    if args.json:
        streams.show(json.dumps(counts))
        return 0
    for name, text in (*_lines(counts), *_grant_lines(counts["grants"])):
        streams.show(f"{name:<18}{text}".rstrip())
    return 0


def _lines(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "logins", str(facts["logins"])
    if not facts["logins"]:
        return
    yield "started", f"{facts['first'][:19]} to {facts['last'][:19]}".replace("T", " ")
    for outcome, count in facts["outcomes"].items():
        yield f"  {printable(outcome, 40)}", str(count)
    waits, polls = facts["time_to_approval"], facts["polls_per_login"]
    for percent in PERCENTILES if waits["approvals"] else ():
        yield "time to approval" * (percent == 50), f"p{percent} {span(waits[f'p{percent}'])}"
    for percent in PERCENTILES:
        yield "polls per login" * (percent == 50), f"p{percent} {polls[f'p{percent}']}"
    for name in (*COUNTED, "in_doubt"):
        yield name.replace("_", " "), str(facts[name])
    for name, count in facts["practice"].items():
        yield name.replace("_", " "), str(count)
    for kind, title in _WHO.items():
        for number, row in enumerate(facts[f"{kind}s"]):
            approved = f", {row['approved']} approved" if kind != "subject" else ""
            yield title * (not number), f"{row['logins']}{approved}: {printable(row[kind], 200)}"


def _grant_lines(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if not facts["grants"]:
        return
    yield "grants", str(facts["grants"])
    for state, count in facts["states"].items():
        yield f"  {printable(state, 40)}", str(count)
    for name in ("in_doubt", *GRANT_TOTALS):
        yield name.replace("_", " "), str(facts[name])
    for reason, count in facts["losses"].items():
        yield f"lost: {printable(reason, 40)}", str(count)
    needs = facts["needs"]
    yield "needs", f"{needs['raised']}, {needs['open']} open"
    for percent in PERCENTILES if needs["lasted"]["ended"] else ():
        lasted = span(needs["lasted"][f"p{percent}"])
        yield "needs lasted" * (percent == 50), f"p{percent} {lasted}"


_WHO: Final = {
    "client": "clients",
    "issuer": "issuers",
    "actor": "requested by",
    "subject": "approved by",
}
ACTIONS: Final = {
    "show": (
        "show the events of a login or a grant",
        Command(audit_show.add_show, audit_show.show),
    ),
    "list": ("list the logins and grants, newest first", Command(_add_list, _list)),
    "export": ("print the events for other programs", Command(_add_export, _export)),
    "stats": ("show numbers of outcomes, waiting times and polls", Command(_add_stats, _stats)),
    "report": ("write an HTML report", Command(audit_report.add_report, audit_report.report)),
}
