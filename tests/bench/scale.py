"""How many logins one core drives: `python -m tests.bench.scale`.

A client process has a core of its own. A server, and PostgreSQL if that is the store, share another
one. Each login polls every five seconds. What is measured begins once all logins wait.

`--driver bare` is what the others are compared with: aiohttp, and one sleeping task for each login,
without deviceflow. `tasks` is `AsyncClient.wait_for_token` in one task for each login, and `worker`
is `deviceflow.worker.Worker`. The rows name everything that makes a difference.

`--all` makes the runs of all goals, then prints each goal with what was measured, and the model of
docs/explanation/scale.md beside the measured curve. `--quick` makes them short. `--knee` has each
store's logins become more and more until they are late, and draws the curves.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tests.bench.fast_server import INTERVAL
from tests.bench.plot import chart
from tests.bench.scale_run import Run, climb, machine, measure, waiting_polls

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LATE: Final = 250.0
"""The lateness in milliseconds, at the 99th percentile, at which the knee is."""

PLOT: Final = Path(__file__).parents[2] / "docs/explanation/scale.svg"

_STORES: Final = {"memory": 8_000, "sqlite": 6_000, "postgresql": 6_000}
"""The stores, and with how many logins their curves begin."""

_MOST: Final = 150.0
"""How many seconds the curve of one store takes at the most, and one load more."""

_WAITING: Final = Run(logins=1_000, store="postgresql", concurrency=16)
"""What two workers share whose only limit is waiting."""

_COLUMNS: Final = {
    "driver": 6,
    "store": 10,
    "sync": 6,
    "trail": 7,
    "client": 9,
    "loop": 7,
    "logins": 6,
    "polls/s": 7,
    "due/s": 6,
    "early": 5,
    "p50 ms": 6,
    "p99 ms": 7,
    "us/poll": 7,
    "ratio": 5,
    "busy": 5,
    "lag ms": 6,
    "B/login": 7,
    "token ms": 8,
}


# The model of docs/explanation/scale.md.

MODEL_US: Final = {"memory": 368.0, "sqlite": 1340.0, "postgresql": 2200.0}
"""CPU time of a poll in microseconds."""

MODEL_BUSY: Final = 0.8
"""How much of a core a worker takes while it is in time."""

MODEL_BYTES: Final = 1_400.0
"""What a remembered login takes."""

MODEL_WAL: Final = 7_000.0
"""How many bytes a poll takes in the write-ahead log of PostgreSQL."""


def model_knee(us_per_poll: float) -> float:
    """Return how many logins one core drives in time."""
    return INTERVAL * MODEL_BUSY / us_per_poll * 1e6


# Goals.


class Goal(NamedTuple):
    """A goal, and what was measured.

    Attributes:
        what: What is measured.
        goal: The least or the greatest value.
        value: What was measured; None if nothing was.
        at_least: Whether the goal is the least value.
    """

    what: str
    goal: float
    value: float | None
    at_least: bool = False

    def line(self) -> str:
        """Return it as a line of a table."""
        sign = "≥" if self.at_least else "≤"
        if self.value is None:
            return f"| {self.what} | {sign} {self.goal:,g} | - | not measured |"
        is_met = self.value >= self.goal if self.at_least else self.value <= self.goal
        digits = 2 if self.goal < 10 else 0
        value = f"{self.value:,.{digits}f}"
        return f"| {self.what} | {sign} {self.goal:,g} | {value} | {'yes' if is_met else 'NO'} |"


def _goals(
    rows: dict[str, dict[str, Any]], knees: dict[str, int], token: float | None, sharing: float
) -> Iterator[Goal]:
    def ratio(name: str, other: str) -> float:
        return float(rows[name]["us/poll"] / rows[other]["us/poll"])

    for name, what in (("sqlite", "SQLite"), ("postgresql", "PostgreSQL")):
        yield Goal(f"10,000 logins in {what}: polls/s of 2,000", 1980, rows[name]["polls/s"], True)
        yield Goal(f"10,000 logins in {what}: lateness p99, ms", 100, rows[name]["p99 ms"])
    yield Goal("early polls, all runs", 0, sum(row["early"] for row in rows.values()))
    yield Goal("CPU of a poll in memory / bare aiohttp", 1.0, ratio("memory", "bare"))
    yield Goal("the same, with aiohttp", 1.4, ratio("memory, aiohttp", "bare"))
    yield Goal("CPU of a poll in SQLite / bare aiohttp", 1.2, ratio("sqlite", "bare"))
    yield Goal("the same, with aiohttp", 1.5, ratio("sqlite, aiohttp", "bare"))
    yield Goal("CPU of a poll, FULL / NORMAL", 1.15, ratio("sqlite, FULL", "sqlite"))
    yield Goal("bytes of a waiting login in memory, by RSS", 600, rows["memory"]["B/login"])
    yield Goal("bytes of a stored login, by RSS", 1000, rows["sqlite"]["B/login"])
    for name, least in (("memory", 14_000), ("sqlite", 12_000), ("postgresql", 12_000)):
        yield Goal(f"knee at {INTERVAL:g} s, {name}: logins", least, knees.get(name), True)
    yield Goal("two workers on PostgreSQL / one, limited by waiting", 1.9, sharing, True)
    yield Goal("approval to token, ms, over an ideal poller", 15, token)


def _all(base: Run) -> None:
    """Make the runs of all goals."""
    began, sqlite = time.monotonic(), replace(base, store="sqlite")
    runs = {
        "bare": replace(base, driver="bare"),
        "memory": base,
        "memory, aiohttp": replace(base, transport="aiohttp"),
        "sqlite": sqlite,
        "sqlite, FULL": replace(sqlite, synchronous="FULL"),
        "sqlite, aiohttp": replace(sqlite, transport="aiohttp"),
        "postgresql": replace(base, store="postgresql"),
    }
    rows: dict[str, dict[str, Any]] = {}
    _show({name: name for name in _COLUMNS})
    for name, run in runs.items():
        rows[name] = row = measure(run)
        row["ratio"] = row["us/poll"] / rows["bare"]["us/poll"]
        _show(row)
    approving = replace(sqlite, logins=1_000, approvals=1_000, seconds=5.0)
    rows["approvals"] = row = measure(approving)
    _show(row)
    seconds = min(base.seconds, 20.0)
    one, two = (
        waiting_polls(replace(_WAITING, uvloop=base.uvloop, seconds=seconds), workers)
        for workers in (1, 2)
    )
    print(f"polls/s with {_WAITING.concurrency} steps at a time: {one:.1f}, two workers: {two:.1f}")
    curves = _curves(replace(base, seconds=min(base.seconds, 15.0)), [*_STORES], PLOT)
    for name, curve in curves.items():
        rows |= {f"{name}, {row['logins']}": row for row in curve}
    knees = {name: knee for name, curve in curves.items() if (knee := _knee(curve)) is not None}
    print("\n| what | goal | measured | met |\n|---|---|---|---|")
    for goal in _goals(rows, knees, rows["approvals"]["token ms"], two / one):
        print(goal.line())
    print("\n| model | model | measured |\n|---|---|---|")
    for line in _beside_model(rows, curves):
        print(line)
    print(f"\n{time.monotonic() - began:.0f} seconds")


# Curves.


def _curves(base: Run, stores: Sequence[str], plot: Path) -> dict[str, list[dict[str, Any]]]:
    """Measure and draw how late polls are, by the number of logins."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for name in stores:
        curves[name] = []
        for row in climb(replace(base, store=name, logins=_STORES[name]), LATE, _MOST):
            _show(row)
            curves[name].append(row)
    plot.write_text(
        chart(
            {
                name: [(row["logins"], row["p99 ms"]) for row in curve]
                for name, curve in curves.items()
            },
            title="Lateness of polls on one core, by the number of waiting logins",
            x=f"logins that poll every {INTERVAL:g} seconds (circles: the knees of the model)",
            y="lateness in ms, 99th percentile",
            limit=LATE,
            marks={name: model_knee(MODEL_US[name]) for name in curves},
        )
    )
    return curves


def _in_time(curve: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in curve if row["p99 ms"] <= LATE and not row["early"]]


def _knee(curve: Sequence[dict[str, Any]]) -> int | None:
    """Return the most logins whose polls were in time."""
    last = _last(curve)
    return None if last is None else int(last["logins"])


def _last(curve: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    return max(_in_time(curve), key=lambda row: int(row["logins"]), default=None)


def _beside_model(
    rows: dict[str, dict[str, Any]], curves: dict[str, list[dict[str, Any]]]
) -> Iterator[str]:
    for name, curve in curves.items():
        modelled = model_knee(MODEL_US[name])
        yield f"| {name}: knee, logins | {modelled:,.0f} | {_knee(curve) or 0:,} |"
        if last := _last(curve):
            modelled = model_knee(last["us/poll"])
            yield f"| the same, by its CPU time | {modelled:,.0f} | {last['logins']:,} |"
        for row in sorted(_in_time(curve), key=lambda row: row["logins"]):
            logins, rate = row["logins"], row["logins"] / INTERVAL
            yield f"| {name}, {logins:,}: polls/s | {rate:,.0f} | {row['polls/s']:,.0f} |"
            busy = MODEL_US[name] * rate / 1e6
            yield f"| {name}, {logins:,}: a core is busy | {busy:.0%} | {row['busy']:.0%} |"
    yield f"| bytes of a stored login | {MODEL_BYTES:,.0f} | {rows['sqlite']['B/login']:,.0f} |"
    logged = rows["postgresql"]["wal B"]
    yield f"| bytes of PostgreSQL's log, a poll | {MODEL_WAL:,.0f} | {logged:,.0f} |"
    for name, curve in curves.items():
        rate = 1_000_000 / INTERVAL / MODEL_BUSY / 1e6
        last = _last(curve)
        measured = "-" if last is None else f"{rate * last['us/poll']:,.0f}"
        yield f"| a million logins, {name}: cores | {rate * MODEL_US[name]:,.0f} | {measured} |"


def _show(row: dict[str, Any]) -> None:
    def cell(name: str) -> str:
        value = row.get(name)
        if value is None:
            return "-"
        if isinstance(value, float):
            return f"{value:.2f}" if name in ("ratio", "busy") else f"{value:.1f}"
        return str(value)

    print("  ".join(f"{cell(name):>{width}}" for name, width in _COLUMNS.items()), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--all", action="store_true", help="measure all goals, and draw the curves")
    what.add_argument("--knee", nargs="+", choices=_STORES, help="draw the curves of these stores")
    parser.add_argument("--quick", action="store_true", help="measure for 15 seconds each")
    parser.add_argument("--plot", type=Path, default=PLOT, metavar="SVG", help="for --knee")
    parser.add_argument("--driver", choices=("bare", "tasks", "worker"), default="worker")
    parser.add_argument("--logins", type=int, default=10_000)
    parser.add_argument("--store", choices=_STORES, default="memory")
    parser.add_argument("--synchronous", choices=("NORMAL", "FULL"), default="NORMAL")
    parser.add_argument(
        "--transport", choices=("httptools", "aiohttp", "httpx"), default="httptools"
    )
    parser.add_argument("--trail", choices=("each", "summary"), default="each")
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--seconds", type=float, help="how long to measure")
    parser.add_argument("--approvals", type=int, default=0, help="how many to approve afterwards")
    parser.add_argument("--concurrency", type=int, default=256, help="of a worker")
    parser.add_argument("--no-bare", action="store_true", help="compare with nothing")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    usual = 30.0 if options.all else 60.0
    seconds = options.seconds or (15.0 if options.quick or options.knee else usual)
    fields = {name: value for name, value in vars(options).items() if name in vars(Run())}
    run = Run(**{**fields, "seconds": seconds})
    print(machine(), flush=True)
    if options.all:
        _all(run)
        return
    _show({name: name for name in _COLUMNS})
    if options.knee:
        _curves(run, options.knee, options.plot)
        return
    bare = None if options.no_bare else measure(replace(run, driver="bare", approvals=0))
    if bare is not None:
        _show(bare | {"ratio": 1.0})
    row = measure(run)
    _show(row | {"ratio": row["us/poll"] / bare["us/poll"]} if bare is not None else row)


if __name__ == "__main__":
    main()
