"""One line of the benchmarks' output."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Row:
    what: str
    ours: float
    compared: float
    goal: float
    unit: str

    def __str__(self) -> str:
        ours, compared = (f"{value:,.1f} {self.unit}" for value in (self.ours, self.compared))
        ratio = self.ours / self.compared
        return f"{self.what:<58} {ours:>12} {compared:>12} {ratio:>7.2f} {self.goal:>7.2f}"
