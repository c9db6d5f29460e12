"""A line chart as SVG, which is all that the benchmarks need of one.

Its background is transparent, and its colours can be read on a light page and on a dark one.
"""

from __future__ import annotations

from html import escape
from math import ceil, floor, log10
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_COLOURS: Final = ("#3987d8", "#d9534f", "#2f9e44", "#9467bd", "#d9822b", "#1797a6")
_INK: Final = "#808080"
_WIDTH: Final = 720
_HEIGHT: Final = 400
_LEFT: Final = 70
_RIGHT: Final = 20
_TOP: Final = 48
_BOTTOM: Final = 50
_STYLE: Final = f'font-family="sans-serif" font-size="12" role="img" fill="{_INK}"'


def chart(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str,
    x: str,
    y: str,
    limit: float,
    marks: Mapping[str, float],
) -> str:
    """Return an SVG of lines by name; its vertical axis is logarithmic.

    Args:
        lines: The points of each line.
        title: What the chart shows.
        x: What is on the horizontal axis.
        y: What is on the vertical one.
        limit: Where a dashed line is.
        marks: Where a model has each line cross the limit.
    """
    points = [point for line in lines.values() for point in line]
    most = 1000 * ceil(max([p[0] for p in points] + [*marks.values()]) / 1000 + 0.5)
    low = floor(log10(max(1.0, min([p[1] for p in points] + [limit]))))
    high = ceil(log10(max([p[1] for p in points] + [limit + 1])))
    across, up = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def at(px: float, py: float) -> tuple[float, float]:
        part = (log10(max(py, 10.0**low)) - low) / (high - low)
        return _LEFT + across * px / most, _HEIGHT - _BOTTOM - up * part

    def text(px: float, py: float, said: str, anchor: str = "middle") -> str:
        return f'<text x="{px:.1f}" y="{py:.1f}" text-anchor="{anchor}">{escape(said)}</text>'

    def level(py: float, style: str) -> str:
        sy = at(0, py)[1]
        return f'<path d="M{_LEFT} {sy:.1f}H{_WIDTH - _RIGHT}" stroke="{_INK}" {style}/>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" {_STYLE}>',
        f"<title>{escape(title)}</title>",
        text(_WIDTH / 2, 16, title),
        text(_WIDTH / 2, _HEIGHT - 10, x),
        text(_LEFT, 36, y, "start"),
        level(limit, 'stroke-dasharray="4 4"'),
        text(_WIDTH - _RIGHT, at(0, limit)[1] - 4, f"{limit:,.0f}", "end"),
    ]
    for power in range(low, high + 1):
        parts.append(level(10**power, 'stroke-opacity="0.3"'))
        parts.append(text(_LEFT - 6, at(0, 10**power)[1] + 4, f"{10**power:,}", "end"))
    below = _HEIGHT - _BOTTOM + 18
    parts += [text(at(px, 1)[0], below, f"{px:,}") for px in range(0, most + 1, 2000)]
    for number, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        places = [at(*point) for point in sorted(line)]
        joined = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
        parts.append(
            f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        parts += [
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in places
        ]
        if name in marks:
            px, py = at(marks[name], limit)
            style = f'fill="none" stroke="{colour}" stroke-width="2"'
            parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="6" {style}/>')
        row = _TOP + 16 + 16 * number
        parts.append(f'<path d="M{_LEFT + 12} {row - 4}h20" stroke="{colour}" stroke-width="2"/>')
        parts.append(text(_LEFT + 38, row, name, "start"))
    return "\n".join([*parts, "</svg>", ""])
