"""The actions of `deviceflow audit` that read the trail."""

from __future__ import annotations

import json
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from deviceflow.audit.events import STORE, text_of
from deviceflow.audit.formats import CSV, ECS, JSONLines
from deviceflow.cli import arguments, options, streams, trail
from deviceflow.cli.commands import Command
from deviceflow.cli.outfile import writing
from deviceflow.core.actions import COUNTED, POLL
from deviceflow.core.sanitize import printable
from deviceflow.core.states import Reason, State
from deviceflow.errors import UnknownLoginError
from deviceflow.trail import query
from deviceflow.trail.login_view import counted, span
from deviceflow.trail.stats import PERCENTILES, Stats

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Callable, Iterator

    from deviceflow.stores.sql import SQLStore
    from deviceflow.trail.login_view import Line, Login


class ShowOptions(options.JobOptions):
    """The options of `show`."""

    id: str | None
    all: bool


class FilterOptions(options.StoreOptions):
    """The filters for logins."""

    since: float | None
    until: float | None
    state: str | None
    reason: str | None
    client: str | None
    actor: str | None


class ListOptions(FilterOptions, options.JSONOption):
    """The options of `list`."""

    limit: int | None


class ExportOptions(FilterOptions):
    """The options of `export`."""

    format: str
    output: str | None


class StatsOptions(FilterOptions, options.JSONOption):
    """The options of `stats`."""


class ReportOptions(FilterOptions, trail.VerifiedStore):
    """The options of `report`."""

    output: str


def _add_show(parser: ArgumentParser) -> None:
    parser.add_argument("id", nargs="?", metavar="FLOW", help="by default the newest login")
    parser.add_argument(
        "--all", action="store_true", help="one line per event, without grouping polls"
    )
    options.add_json(parser)


def _add_filters(parser: ArgumentParser) -> None:
    which = parser.add_argument_group("filters (by default all logins)")
    which.add_argument(
        "--since",
        type=arguments.moment,
        metavar="WHEN",
        help="started since: 2d ago, or 2026-01-31 (UTC)",
    )
    which.add_argument("--until", type=arguments.moment, metavar="WHEN", help="started before")
    which.add_argument("--state", choices=[*map(str, State)], help="in this state")
    which.add_argument("--reason", choices=[*map(str, Reason)], help="failed for this reason")
    which.add_argument("--client", metavar="NAME", help="of the client of this name or id")
    which.add_argument("--actor", metavar="NAME", help="with an event of this actor")


def _add_list(parser: ArgumentParser) -> None:
    _add_filters(parser)
    parser.add_argument(
        "--limit", type=arguments.natural, metavar="N", help="at most N logins, the newest"
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
    _add_filters(parser)


def _add_stats(parser: ArgumentParser) -> None:
    _add_filters(parser)
    options.add_json(parser)


def _add_report(parser: ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=True, help="write HTML to this file (0600)"
    )
    options.add_evidence(parser)
    _add_filters(parser)


def _show(args: ShowOptions) -> int:
    with closing(trail.store(args)) as kept:
        if args.id == STORE and not query.notes(kept):
            if args.json:
                streams.show(json.dumps({"flow_id": STORE, "events": []}))
            streams.say("The trail has no store events.")
            return 0
        login = query.one(kept, args.id) if args.id else _newest(kept)
    if args.json:
        streams.show(json.dumps(_facts(login) | {"events": login.events}))
        return 0
    if login.id != STORE:
        for line in _head(login):
            streams.show(line)
    rows = [_HEADINGS, *(_row(line) for line in login.story(whole=args.all))]
    widths = [max(len(row[place]) for row in rows) for place in range(3)]
    for row in rows:
        streams.show(
            f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}"
        )
    return 0


_HEADINGS: Final = ("TIME (UTC)", "STATE", "FOR", "WHY")


def _row(line: Line) -> tuple[str, str, str, str]:
    lasted = "" if line.lasted is None else span(line.lasted)
    return _moment(line.time), printable(line.state, 20), lasted, printable(line.message)


def _newest(kept: SQLStore) -> Login:
    with query.logins(kept) as found:
        for login in found:
            return login
    raise UnknownLoginError("The trail has no logins.", hint="Start one with: deviceflow start")


def _head(login: Login) -> Iterator[str]:
    yield f"{printable(login.id)}  {_outcome(login)}"
    who = (login.client, login.issuer, login.actor)
    client, issuer, actor = (printable(name or "?", 200) for name in who)
    yield f"{client} at {issuer}, by {actor}"
    scopes = login.events[0]["scopes"]
    if scopes:
        yield f"for {printable(' '.join(scopes), 200)}"
    if login.purpose:
        yield f"purpose: {printable(login.purpose, 200)}"


def _outcome(login: Login) -> str:
    state = printable(login.state, 20)
    return f"{state}: {printable(login.reason, 40)}" if login.reason else state


def _moment(at: float) -> str:
    return text_of(at)[:23].replace("T", " ")


def _list(args: ListOptions) -> int:
    left = args.limit
    with closing(trail.store(args)) as kept, query.logins(kept, _filters(args)) as found:
        for login in found:
            if left == 0:
                break
            left = left and left - 1
            streams.show(json.dumps(_facts(login)) if args.json else _entry(login))
    return 0


def _entry(login: Login) -> str:
    polls = counted(login.count(POLL), "poll")
    who = (login.client, login.issuer, login.actor)
    client, issuer, actor = (printable(name or "?", 100) for name in who)
    return (
        f"{printable(login.id, 40):<16}  {_moment(login.started)[:19]}  {_outcome(login):<20}"
        f"  {polls:>9} in {span(login.seconds):<10}  {client} at {issuer} by {actor}"
    )


def _facts(login: Login) -> dict[str, Any]:
    return {
        "flow_id": login.id,
        "started": text_of(login.started),
        "ended": None if login.ended is None else text_of(login.ended),
        "state": login.state,
        "reason": login.reason,
        "client": login.client,
        "issuer": login.issuer,
        "actor": login.actor,
        "purpose": login.purpose,
        "polls": login.count(POLL),
        "seconds": round(login.seconds, 3),
        "approved_after": login.approved_after and round(login.approved_after, 3),
    }


def _export(args: ExportOptions) -> int:
    filters = _filters(args)
    sinks: dict[str, Callable[[], JSONLines | ECS | CSV]]
    sinks = {"jsonl": JSONLines, "ecs": ECS, "csv": CSV}
    sink = sinks[args.format]()
    with (
        closing(trail.store(args)) as kept,
        writing(args.output) as write,
        query.logins(kept, filters, oldest_first=True) as found,
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
    with closing(trail.store(args)) as kept, query.logins(kept, _filters(args)) as found:
        facts = Stats(found).facts()
    if args.json:
        streams.show(json.dumps(facts))
        return 0
    for name, text in _lines(facts):
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
    for kind in ("client", "issuer"):
        for number, row in enumerate(facts[f"{kind}s"]):
            text = f"{row['logins']}, {row['approved']} approved: {printable(row[kind], 200)}"
            yield f"{kind}s" * (not number), text


def _report(args: ReportOptions) -> int:
    from deviceflow.trail import report

    trail.check(args)
    filters = _filters(args)
    with closing(trail.store(args)) as kept, writing(args.output) as write:
        verified = trail.verify(args, kept)
        stats = Stats()
        drawn: list[Login] = []
        with query.logins(kept, filters) as found:
            for login in found:
                stats.take(login)
                if len(drawn) < report.TIMELINES:
                    drawn.append(login)
        by, findings = verified.by, verified.findings
        verdict = report.Verdict(
            findings,
            len(findings),
            by.events,
            by.flows,
            by.digests,
            by.covered_until,
            by.signed_by,
            verified.self_signed,
            verified.keyed,
        )
        page = report.render(
            stats,
            drawn,
            query.notes(kept, filters),
            verdict,
            about={"store": trail.name_of(kept)} | _about(filters),
            made_at=time.time(),
        )
        write(page)
    all_found = counted(len(findings), "finding") if findings else "nothing found"
    summary = f"{counted(stats.logins, 'login')}, {all_found}"
    streams.say(f"The report was written to {args.output}: {summary}.")
    return 0


def _filters(args: FilterOptions) -> query.Filters:
    return query.Filters(args.since, args.until, args.state, args.client, args.actor, args.reason)


def _about(filters: query.Filters) -> dict[str, str]:
    about = {
        "since": None if filters.since is None else f"{_moment(filters.since)[:19]} UTC",
        "until": None if filters.until is None else f"{_moment(filters.until)[:19]} UTC",
        "state": filters.state,
        "reason": filters.reason,
        "client": filters.client,
        "actor": filters.actor,
    }
    return {name: value for name, value in about.items() if value is not None}


ACTIONS: Final = {
    "show": ("show the events of a login", Command(_add_show, _show)),
    "list": ("list the logins, newest first", Command(_add_list, _list)),
    "export": ("print the events for other programs", Command(_add_export, _export)),
    "stats": ("show numbers of outcomes, waiting times and polls", Command(_add_stats, _stats)),
    "report": ("write an HTML report", Command(_add_report, _report)),
}
