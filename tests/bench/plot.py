"""A line chart as SVG, which is all that the benchmarks need of one."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_COLOURS: Final = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")
_WIDTH: Final = 720
_HEIGHT: Final = 400
_LEFT: Final = 70
_BOTTOM: Final = 50
_STYLE: Final = 'font-family="sans-serif" font-size="12" role="img"'


def chart(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str,
    x: str,
    y: str,
    limit: float | None = None,
) -> str:
    """Return an SVG of lines by name. A dashed line shows the limit, if there is one."""
    points = [point for line in lines.values() for point in line]
    most = max(p[0] for p in points) or 1.0
    high = 1.1 * max([p[1] for p in points] + ([limit] if limit else [])) or 1.0
    across, up = _WIDTH - _LEFT - 20, _HEIGHT - _BOTTOM - 40

    def at(px: float, py: float) -> tuple[float, float]:
        return _LEFT + across * px / most, _HEIGHT - _BOTTOM - up * py / high

    def text(px: float, py: float, said: str, anchor: str = "middle") -> str:
        return f'<text x="{px:.1f}" y="{py:.1f}" text-anchor="{anchor}">{escape(said)}</text>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" {_STYLE}>',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        text(_WIDTH / 2, 20, title),
        text(_WIDTH / 2, _HEIGHT - 10, x),
        text(_LEFT, 38, y),
    ]
    for step in range(6):
        for px, py in ((0.0, high * step / 5), (most * step / 5, 0.0)):
            sx, sy = at(px, py)
            if px == 0.0:
                end = at(most, py)
                parts.append(
                    f'<path d="M{sx:.1f} {sy:.1f}H{end[0]:.1f}" stroke="#ddd" fill="none"/>'
                )
                parts.append(text(sx - 6, sy + 4, f"{py:,.0f}", "end"))
            else:
                parts.append(text(sx, sy + 18, f"{px:,.0f}"))
    if limit is not None:
        (sx, sy), (ex, _) = at(0, limit), at(most, limit)
        parts.append(
            f'<path d="M{sx:.1f} {sy:.1f}H{ex:.1f}" stroke="black"'
            ' stroke-dasharray="4 4" fill="none"/>'
        )
    for number, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        places = " ".join(f"{px:.1f},{py:.1f}" for px, py in (at(*point) for point in sorted(line)))
        parts.append(
            f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        row = 56 + 16 * number
        parts.append(
            f'<path d="M{_LEFT + 12} {row - 4}h20" stroke="{colour}" stroke-width="2" fill="none"/>'
        )
        parts.append(text(_LEFT + 38, row, name, "start"))
    return "\n".join([*parts, "</svg>", ""])
