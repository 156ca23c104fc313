"""Inline SVG plots of the report: bars and lines, no script, readable in light and dark."""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 150, 16, 34
PALETTE = ("#3b6fd4", "#d4573b", "#2f9e6e", "#a04bc4", "#c79a2b", "#3aa6b9", "#d43b86", "#7a8b2f")

Point = tuple[float, float]


def bars(values: Mapping[str, float], unit: str) -> str:
    """Horizontal bars from zero, one a label, with the value beside it."""
    row, label, full = 30, 150, 380
    top = max([value for value in values.values() if math.isfinite(value)], default=0.0) or 1.0
    parts = []
    for index, (name, value) in enumerate(values.items()):
        y = 8 + index * row
        length = full * max(value, 0.0) / top if math.isfinite(value) else 0.0
        parts.append(
            f'<text x="{label - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{label}" y="{y}" width="{length:.1f}" height="20" rx="2" '
            f'fill="{PALETTE[index % len(PALETTE)]}"/>'
            f'<text x="{label + length + 6:.1f}" y="{y + 15}">{_number(value)} {escape(unit)}</text>'
        )
    return _svg(WIDTH, 16 + row * max(len(values), 1), parts)


def lines(series: Mapping[str, Sequence[Point]], x_name: str, y_name: str, limit: float | None = None) -> str:
    """One line a name over whole-numbered x, from y = 0; `limit` is drawn as a dashed line."""
    points = [point for line in series.values() for point in line]
    xs = sorted({x for x, _ in points}) or [0.0]
    low, high = xs[0], xs[-1] if xs[-1] > xs[0] else xs[0] + 1
    top = max([y for _, y in points] + ([limit] if limit is not None else []), default=1.0) * 1.05 or 1.0

    def place(point: Point) -> Point:
        x = LEFT + (point[0] - low) / (high - low) * (WIDTH - LEFT - RIGHT)
        return x, HEIGHT - BOTTOM - point[1] / top * (HEIGHT - TOP - BOTTOM)

    parts = _axes(top, xs, x_name, y_name)
    if limit is not None:
        (x0, y), (x1, _) = place((low, limit)), place((high, limit))
        parts.append(
            f'<line x1="{x0}" y1="{y:.1f}" x2="{x1}" y2="{y:.1f}" stroke="currentColor" '
            f'stroke-dasharray="5 4"/><text x="{x1 + 6}" y="{y + 4:.1f}">limit {_number(limit)}</text>'
        )
    for index, (name, line) in enumerate(series.items()):
        colour = PALETTE[index % len(PALETTE)]
        placed = [place(point) for point in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed]
        if index < 12:
            y = TOP + 34 + index * 15
            parts.append(
                f'<rect x="{WIDTH - RIGHT + 12}" y="{y - 8}" width="9" height="9" fill="{colour}"/>'
                f'<text x="{WIDTH - RIGHT + 26}" y="{y}">{escape(name[:20])}</text>'
            )
    return _svg(WIDTH, HEIGHT, parts)


def _axes(top: float, xs: Sequence[float], x_name: str, y_name: str) -> list[str]:
    bottom = HEIGHT - BOTTOM
    parts = [
        f'<path d="M{LEFT},{TOP} V{bottom} H{WIDTH - RIGHT}" fill="none" '
        'stroke="currentColor" opacity=".4"/>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" '
        f'text-anchor="middle">{escape(x_name)}</text>',
        f'<text x="12" y="{(TOP + bottom) / 2}" transform="rotate(-90 12 {(TOP + bottom) / 2})" '
        f'text-anchor="middle">{escape(y_name)}</text>',
    ]
    for step in range(5):
        value = top * step / 4
        y = bottom - step / 4 * (bottom - TOP)
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>')
    shown = xs if len(xs) <= 10 else xs[:: math.ceil(len(xs) / 10)]
    span = (xs[-1] - xs[0]) or 1
    for x in shown:
        at = LEFT + (x - xs[0]) / span * (WIDTH - LEFT - RIGHT)
        parts.append(f'<text x="{at:.1f}" y="{bottom + 14}" text-anchor="middle">{x:g}</text>')
    return parts


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "infinite"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _svg(width: int, height: int, parts: Sequence[str]) -> str:
    style = "font: 12px system-ui, sans-serif; fill: currentColor; max-width: 100%; height: auto"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
    )
    return head + f'style="{style}">' + "".join(parts) + "</svg>"
