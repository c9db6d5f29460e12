"""The results as tables: for a terminal, and for a page that compares clients."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from deviceflow._version import __version__
from deviceflow.testing.conformance._checks import CHECKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from deviceflow.testing.conformance._judge import Result, Verdict

_MARKS: Final = {"pass": "✓", "note": "•", "fail": "✗"}
_WORDS: Final[dict[Verdict, str]] = {"pass": "passed", "note": "with notes", "fail": "failed"}


def lines(results: Iterable[Result]) -> list[str]:
    """Return a table for a terminal, and the sums."""
    results = list(results)
    shown = [
        f"{_MARKS[one.verdict]} {one.check.level:<8} {one.check.name:<19}"
        f" {one.polls:>5} {one.seconds:>6.1f} s  {remarks(one)}".rstrip()
        for one in results
    ]
    early = sum(one.early for one in results)
    polls = sum(one.polls for one in results)
    ended = f"{_counts(results)}; {early} of {polls} polls came too early"
    return [f"  {'level':<8} {'check':<19} polls     time", *shown, ended]


def badge(results: Sequence[Result]) -> str:
    """Return one line for a README, with the kit's version, the day, and what was left out."""
    left_out = len(results) < len(CHECKS)
    counts = f"{len(results)} of {len(CHECKS)} checks: " if left_out else ""
    by = f"deviceflow {__version__}, {datetime.now(UTC):%Y-%m-%d}"
    return f"RFC 8628 client: {counts}{_counts(results)} ({by})"


def _counts(results: Iterable[Result]) -> str:
    seen = [one.verdict for one in results]
    return ", ".join(f"{seen.count(verdict)} {word}" for verdict, word in _WORDS.items())


def remarks(result: Result) -> str:
    """Return what a client did wrong, and what else was seen."""
    return "; ".join([*result.problems, *result.notes])


def markdown(results: Mapping[str, Sequence[Result]]) -> str:
    """Return a Markdown table with a column for each client.

    Args:
        results: The results of each client, by its name, all of the same checks.
    """
    clients = list(results)
    rows = [["check", "the server", *clients], ["---"] * (2 + len(clients))]
    notes: list[str] = []
    for row in zip(*results.values(), strict=True):
        check = row[0].check
        cells = []
        for one in row:
            mark = _MARKS[one.verdict]
            if remarks(one):
                if remarks(one) not in notes:
                    notes.append(remarks(one))
                mark += f" ({notes.index(remarks(one)) + 1})"
            cells.append(mark)
        source = f" ({check.source})" if check.source else ""
        rows.append([f"`{check.name}`", f"{check.title}{source}", *cells])
    for wanted, title in _WORDS.items():
        counts = [str(sum(one.verdict == wanted for one in each)) for each in results.values()]
        rows.append(["", f"**{title}**", *counts])
    sums = [
        f"{sum(one.early for one in each)} of {sum(one.polls for one in each)}"
        for each in results.values()
    ]
    rows.append(["", "**polls that came too early**", *sums])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return "\n\n".join([table, "\n".join(f"{n}. {note}." for n, note in enumerate(notes, 1))])
