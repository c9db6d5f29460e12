"""A trail as one page that a person can be handed: HTML with nothing outside itself, and no script.

Everything in it that a server, a client or a database may have sent is escaped, and nothing of it
steers what is around it.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections import Counter
from importlib.resources import files
from itertools import groupby
from operator import itemgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from deviceflow.audit.events import text_of
from deviceflow.core.actions import ACTIONS, POLL
from deviceflow.core.sanitize import printable
from deviceflow.core.states import ENDS, POLLING
from deviceflow.trail.grant_view import parties
from deviceflow.trail.login_view import END_OF_TIME, UNFINISHED, counted, seconds_of, span

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from deviceflow.trail.grant_view import Grant
    from deviceflow.trail.ledger import Finding
    from deviceflow.trail.login_view import Line, Login
    from deviceflow.trail.selection import Picked
    from deviceflow.trail.stats import Stats

FINDINGS: Final = 1000
"""How many findings are listed."""

_FIRST: Final = 20  # findings that are not folded
_ALIKE: Final = 20  # findings alike, of which the events are named
_NOTES: Final = 200
_LOGINS: Final = 20  # of one grant
_LINES: Final = 55  # of one login's story
_TICKS: Final = 400  # of one login's polls
_MARKS: Final = 40  # of what went wrong in one login
_BARS: Final = 62
_SLOTS: Final = 12  # the places for bars, at least, so that a bar is not a wall
_LONGEST: Final = 300  # characters of a text from elsewhere
_COMMAND: Final = 4000  # characters of a command
_NAME: Final = 100  # characters of a name
_THIN: Final = 0.8  # percent of a timeline, below which a poll is drawn as a tick

OUTCOMES: Final = ("authorized", "expired", "denied", "cancelled", "failed", UNFINISHED)
"""What outcomes are drawn as; all other reasons count as `failed`."""

_SIZES: Final = (
    (60, "minute"),
    (300, "5 minutes"),
    (900, "15 minutes"),
    (3600, "hour"),
    (6 * 3600, "6 hours"),
    (86_400, "day"),
    (7 * 86_400, "7 days"),
    (30 * 86_400, "30 days"),
)
_BINS: Final = (10, 30, 60, 120, 300, 600, 900, math.inf)
_ANCHOR: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MARKED: Final = {action: action.words for action in ACTIONS.values() if action.mark}


class Verdict(NamedTuple):
    """What the verification of the trail has found.

    Attributes:
        findings: The first of what should not be so.
        found: How much there is of it.
        events: How many events were read.
        flows: How many flows they were of.
        digests: How many digests were read.
        covered_until: When the last of them was taken.
        signed_by: Whose signature they bear.
        self_signed: Whether no expected key was given.
        keyed: Whether the events' MACs were checked.
    """

    findings: Sequence[Finding]
    found: int
    events: int
    flows: int
    digests: int
    covered_until: str | None
    signed_by: str | None
    self_signed: bool
    keyed: bool = True


class Source(NamedTuple):
    """Where the report is from, so that a reader can check it.

    Attributes:
        data_hash: The SHA-256 of the events that the report is about, in hex: of the output of
            `export`.
        export: The command that prints these events, and their hash.
        verify: The command that verifies the trail again.
    """

    data_hash: str
    export: str
    verify: str


def render(
    stats: Stats,
    logins: Sequence[Picked],
    notes: Sequence[Mapping[str, Any]],
    verdict: Verdict,
    *,
    about: Mapping[str, str],
    made_at: float,
    source: Source,
    grants: Sequence[Picked] = (),
    origins: Mapping[str, Login] = MappingProxyType({}),
) -> str:
    """Return the page.

    Args:
        stats: The numbers of all logins that it is about.
        logins: Those of them that are shown one by one, as from `Selection`.
        notes: What belongs to no login.
        verdict: What the verification has found.
        about: What it is about and who made it: facts for the top, each with its name.
        made_at: When it was made, in seconds since 1970.
        source: How a reader can check it.
        grants: The grants that are shown one by one, as from `Selection`.
        origins: The logins that their tokens descend from, by their ids.

    Raises:
        ImportError: `jinja2` is missing (extra `audit`).
    """
    try:
        import jinja2  # noqa: PLC0415  # an extra
        import markupsafe  # noqa: PLC0415
    except ImportError:
        raise ImportError("The report needs a library: pip install 'deviceflow[audit]'") from None

    folder = files("deviceflow.trail")
    style = folder.joinpath("report.css").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, markupsafe.Markup) else _shown(value),
    )
    facts = stats.facts()
    suspects = Counter(finding.flow_id for finding in verdict.findings)
    template = environment.from_string(folder.joinpath("report.html").read_text("utf-8"))
    return template.render(
        style=markupsafe.Markup(style),  # noqa: S704  # our own file
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        made_at=_minute(made_at),
        period=_period(stats),
        about=about,
        source=source,
        verdict=verdict,
        listed=min(FINDINGS, len(verdict.findings)),
        findings=list(_findings(verdict.findings[:FINDINGS])),
        first_findings=_FIRST,
        facts=facts,
        groups=_groups(stats.outcomes),
        reasons=[pair for pair in facts["outcomes"].items() if pair[0] not in OUTCOMES],
        outcomes=OUTCOMES,
        periods=_periods(stats),
        bins=_bins(stats.waits()),
        notes=[_note(event) for event in notes[-_NOTES:][::-1]],
        notes_in_all=len(notes),
        grants=_anchored(_listed(one, suspects[one.chain.id], origins) for one in grants),
        logins=_anchored(_drawn(one, suspects[one.chain.id]) for one in logins),
        span=span,
        whole=lambda command: markupsafe.escape(printable(command, _COMMAND)),
        short=_short_name,
        when=_when,
        number=_number,
        marked=_MARKED,
        marks={action: action.mark for action in _MARKED},
        counted=counted,
        kinds=_kind,
    )


def _findings(findings: Sequence[Finding]) -> Iterator[dict[str, Any]]:
    """Yield what was found, alike things in a row as one."""
    for (kind, flow_id, message), alike in groupby(findings, itemgetter(0, 1, 3)):
        seqs = [finding.seq for finding in alike if finding.seq is not None]
        events = ", ".join(map(str, seqs[:_ALIKE])) + ", …" * (len(seqs) > _ALIKE)
        yield {"kind": kind, "flow_id": flow_id, "events": events, "message": message}


def _shown(value: Any) -> str:
    """Return what may be shown of a value: one line, without what steers, not endlessly long."""
    text = printable(str(value), _LONGEST + 1)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _short_name(value: str | None) -> str:
    return "?" if value is None else value if len(value) <= _NAME else f"{value[:_NAME]}…"


def _when(time: str | None) -> str:
    at = seconds_of(time)
    return str(time) if at is None else f"{_second(at)} UTC"


def _number(value: float) -> str:
    return f"{value:,}"


def _kind(kind: str) -> str:
    return kind.replace("_", " ")


def _minute(at: float) -> str:
    return text_of(at)[:16].replace("T", " ")


def _second(at: float) -> str:
    return text_of(at)[:19].replace("T", " ")


def _period(stats: Stats) -> str | None:
    """Return from when to when logins began."""
    if stats.first is None or stats.last is None:
        return None
    first, last = _minute(stats.first), _minute(stats.last)
    return f"{first} UTC" if first == last else f"{first} to {last} UTC"


def _anchored(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with a name for links, which is the flow's id if that is one."""
    return [
        row | {"anchor": row["id"] if _ANCHOR.fullmatch(row["id"]) else f"row-{number}"}
        for number, row in enumerate(rows)
    ]


def _group(outcome: str) -> str:
    return outcome if outcome in OUTCOMES else "failed"


def _groups(outcomes: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return how many logins had each outcome, those that were drawn alike together."""
    counted: Counter[str] = Counter()
    for outcome, count in outcomes.items():
        counted[_group(outcome)] += count
    most = max(counted.values(), default=1)
    return [
        {
            "name": name,
            "count": counted[name],
            "width": _percent(counted[name] / most),
        }
        for name in OUTCOMES
    ]


def _periods(stats: Stats) -> dict[str, Any]:
    """Return the outcomes over time, as bars."""
    if stats.first is None or stats.last is None:
        return {"bars": [], "most": 0, "name": ""}
    first, last = stats.first, stats.last
    size, name = next(
        ((size, name) for size, name in _SIZES if last // size - first // size < _BARS), (0, "")
    )
    if not size:
        days = math.ceil((last - first) / 86_400 / _BARS)
        size, name = days * 86_400, f"{days} days"
    start = int(first - first % min(size, 86_400))
    counted: dict[int, Counter[str]] = {}
    for outcome, starts in stats.starts.items():
        for place, count in Counter(int((at - start) // size) for at in starts).items():
            counted.setdefault(place, Counter())[_group(outcome)] += count
    most = max(sum(counts.values()) for counts in counted.values())
    slots = max(*counted, _SLOTS - 1) + 1
    width = 100 / slots
    digits = 10 if size >= 86_400 else 16  # of a time: those of the day, or of the minute
    bars = [
        {
            "label": _second(start + place * size)[:digits],
            "x": round(place * width + width * 0.1, 3),
            "width": round(width * 0.8, 3),
            "parts": list(_stacked(counts, most)),
            "counts": counts,
            "total": sum(counts.values()),
        }
        for place, counts in sorted(counted.items())
    ]
    ends = [_second(min(at, END_OF_TIME - 1))[:digits] for at in (start, start + slots * size - 1)]
    return {"bars": bars, "most": most, "name": name, "ends": ends}


def _stacked(counts: Mapping[str, int], most: int) -> Iterator[dict[str, Any]]:
    top = 100.0
    for name in OUTCOMES:
        if height := 100 * counts.get(name, 0) / most:
            top -= height
            yield {"name": name, "y": round(top, 3), "height": round(height, 3)}


def _bins(waits: Sequence[float]) -> list[dict[str, Any]]:
    """Return how many approvals took how long."""
    counts: Counter[float] = Counter(next(end for end in _BINS if wait < end) for wait in waits)
    most = max(counts.values(), default=1)
    rows = list[dict[str, Any]]()
    for start, end in zip((0, *_BINS), _BINS, strict=False):
        name = f"{_short(start)} to {_short(end)}" if end < math.inf else f"{_short(start)} or more"
        share = _percent(counts[end] / most)
        rows.append(
            {
                "name": name if start else f"under {_short(end)}",
                "count": counts[end],
                "width": share,
            }
        )
    filled = [number for number, row in enumerate(rows) if row["count"]]
    return rows[filled[0] : filled[-1] + 1] if filled else []


def _short(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.0f} min"


def _percent(share: float) -> float:
    return round(100 * share, 3)


def _note(event: Mapping[str, Any]) -> dict[str, Any]:
    at = seconds_of(event["time"])
    return dict(event) | {"at": event["time"] if at is None else _second(at)}


def _drawn(picked: Picked, findings: int) -> dict[str, Any]:
    login, whole = picked.chain, picked.chain.seconds
    lines = [_line(line) for line in login.story()]
    return {
        "id": login.id,
        "login": login,
        "parties": _parties(login),
        "matters": picked.matters,
        "started": _second(login.started),
        "took": span(whole),
        "group": _group(login.outcome),
        "findings": findings,
        "polls": login.count(POLL),
        "scopes": _scopes(login),
        "lines": lines[:_LINES],
        "more_lines": max(0, len(lines) - _LINES),
        **_timeline(login, whole),
    }


def _listed(picked: Picked, findings: int, origins: Mapping[str, Login]) -> dict[str, Any]:
    grant = cast("Grant", picked.chain)
    lines = [_line(line) for line in grant.story()]
    generations = grant.generations()
    needs = grant.needs()
    in_use = generations[-1] if generations and generations[-1].until is None else None
    return {
        "id": grant.id,
        "grant": grant,
        "parties": _parties(grant, origins.get(grant.login_id or "")),
        "matters": picked.matters,
        "started": _second(grant.started),
        "last": _second(grant.times[-1]),
        "findings": findings,
        "logins": [one.login_id for one in generations if one.login_id is not None][-_LOGINS:],
        "fingerprint": in_use and in_use.fingerprint,
        "expires": in_use and in_use.expires_at and _second(in_use.expires_at),
        "losses": grant.losses.total(),
        "needs": len(needs),
        "needed_since": None if not needs or needs[-1].until else _second(needs[-1].since),
        "lines": lines[-_LINES:],
        "more_lines": max(0, len(lines) - _LINES),
    }


def _parties(chain: Login, origin: Login | None = None) -> list[tuple[str, str, str]]:
    """Return who had which part in a login or a grant, and when."""
    return [
        (part, who, "" if at is None else f"{_second(at)} UTC")
        for part, who, at in parties(chain, origin)
    ]


def _scopes(login: Login) -> tuple[str, str | None]:
    asked = " ".join(login.events[0]["scopes"] or ())
    granted = login.granted_scopes
    return asked, None if granted is None else " ".join(granted)


def _line(line: Line) -> dict[str, Any]:
    return {
        "at": _second(line.time),
        "state": line.state,
        "lasted": "" if line.lasted is None else span(line.lasted),
        "message": line.message,
    }


def _timeline(login: Login, whole: float) -> dict[str, Any]:
    """Return the login along its states, in percent of the time that it took."""

    def place(at: float) -> float:
        share = (at - login.started) / whole if whole else 0.0
        return round(100 * min(1.0, max(0.0, share)), 2)

    bands: list[dict[str, Any]] = []
    ticks: list[float] = []
    for spell in login.spells():
        start, end = place(spell.since), place(spell.until)
        thin = spell.state == POLLING and end - start < _THIN
        if thin:
            ticks.append(start)
        # A poll takes a moment: it stands in what is before it, and so that is drawn as one.
        state = bands[-1]["state"] if thin and bands else spell.state
        if bands and bands[-1]["state"] == state:
            bands[-1]["end"] = end
            bands[-1]["seconds"] += spell.until - spell.since
        else:
            seconds = spell.until - spell.since
            bands.append({"state": state, "start": start, "end": end, "seconds": seconds})
    marks = [
        {"action": event["action"], "x": place(at), "words": _MARKED[event["action"]]}
        for event, at in zip(login.events, login.times, strict=True)
        if event["action"] in _MARKED and (login.ended is None or at <= login.ended)
    ]
    return {
        "bands": [band | {"width": round(band["end"] - band["start"], 2)} for band in bands],
        "ticks": sorted({round(tick * _TICKS / 100) * 100 / _TICKS for tick in ticks}),
        "marks": marks[:_MARKS],
        "end": login.state if login.state in ENDS else None,
    }
