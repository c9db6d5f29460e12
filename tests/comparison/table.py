"""What was measured, in Markdown."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.released import released

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from tests.comparison.outcome import Outcome
    from tests.comparison.scenarios import Scenario
    from tests.comparison.server import Record

LIBRARIES: Final = ("deviceflow", "requests_oauth2client", "msal")
BEGIN: Final = "<!-- comparison: begin -->"
END: Final = "<!-- comparison: end -->"

_TOLERANCE: Final = 0.02


class Measured(NamedTuple):
    """What one library did at one server; `outcome` is None where it had to be stopped."""

    outcome: Outcome | None
    record: Record


Results = dict[tuple[str, str], Measured]
"""By the scenario's name and the library's."""


def render(scenarios: Iterable[Scenario], results: Results, limit: float) -> str:
    """Return the version line and the three tables."""
    scenarios = list(scenarios)
    stopped = f"still polling, stopped after {limit:.0f} s"
    parts = [
        versions(),
        "**How the login ended, and after how many polls**",
        _table(scenarios, results, lambda one: _ending(one, stopped)),
        "**The tightest gap between two polls, and what the server had asked for then**",
        _table(scenarios, results, _spacing),
        "**What else was seen**, with the rows in which it was",
        _remarks(scenarios, results),
    ]
    return "\n\n".join(parts)


def versions() -> str:
    """Return the line that says what was measured."""
    libraries = ", ".join(map(released, LIBRARIES))
    below = f"requests {version('requests')}, urllib3 {version('urllib3')}"
    return f"Versions: {libraries}; on {below}, Python {platform.python_version()}."


def put(page: Path, text: str) -> None:
    """Write the text between the marks of the page."""
    before, rest = page.read_text().split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def _table(scenarios: Iterable[Scenario], results: Results, cell: Callable[[Measured], str]) -> str:
    heads = (f"{name} {version(name)}" for name in LIBRARIES)
    rows = [("", "The server", *heads), ("--:", *["---"] * (1 + len(LIBRARIES)))]
    for number, scenario in enumerate(scenarios, 1):
        cells = [cell(results[scenario.name, library]) for library in LIBRARIES]
        rows.append((str(number), scenario.title, *cells))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _ending(measured: Measured, stopped: str) -> str:
    said = measured.outcome.said if measured.outcome else stopped
    return f"{said}; {_polls(len(measured.record.polls))}"


def _spacing(measured: Measured) -> str:
    gap = measured.record.tightest()
    if gap is None:
        return "no two polls"
    early = ": **too early**" if gap.early > _TOLERANCE else ""
    return f"{gap.seconds:.1f} s of {gap.asked:g} s{early}"


def _remarks(scenarios: Iterable[Scenario], results: Results) -> str:
    found: dict[str, list[str]] = {}
    for number, scenario in enumerate(scenarios, 1):
        for library in LIBRARIES:
            for remark in _seen(results[scenario.name, library]):
                found.setdefault(f"{library}: {remark}", []).append(str(number))
    lines = [f"- {remark} ({', '.join(where)})." for remark, where in sorted(found.items())]
    return "\n".join(lines) or "Nothing."


def _seen(measured: Measured) -> Iterator[str]:
    record, outcome = measured.record, measured.outcome
    if record.after_final():
        yield f"{_polls(record.after_final())} after a final answer"
    if record.after_lifetime():
        yield f"{_polls(record.after_lifetime())} after the code's lifetime"
    if record.strays:
        yield "the device code is sent on to the host that the redirect names"
    if outcome and outcome.in_error:
        yield f"the {' and the '.join(outcome.in_error)} in the error's text"
    if outcome and outcome.in_logs:
        yield f"the {' and the '.join(outcome.in_logs)} in the logs at DEBUG"


def _polls(number: int) -> str:
    return f"{number} {'poll' if number == 1 else 'polls'}"
