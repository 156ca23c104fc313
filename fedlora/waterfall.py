"""Draws spans as a waterfall in inline SVG, for the HTML report."""

from collections.abc import Iterable
from html import escape

from shared.adapters.telemetry.span_file import SpanRecord

WIDTH = 960
NAMES = 330  # pixels for the names, left of the bars
ROW = 18
TOP = 26
TICKS = 5
MAX_ROWS = 400
# Okabe and Ito's palette, which colour-blind readers can tell apart.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999")
_ERROR = "#b00020"


def waterfall_svg(spans: Iterable[SpanRecord]) -> str:
    """One row a span, children below their parent, time from left to right; hover for details.

    Args:
        spans: of one trace; duplicates count once. Past 400 the shortest are left out, and said so.

    Returns: an `<svg>` element without scripts or outside references.
    """
    rows, left_out = _rows(spans)
    if not rows:
        return '<svg xmlns="http://www.w3.org/2000/svg" width="0" height="0" role="img"></svg>'
    start = min(span.start_ns for span, _ in rows)
    whole = max(1, max(span.end_ns for span, _ in rows) - start)
    scale = (WIDTH - NAMES - 70) / whole
    services = sorted({span.service for span, _ in rows})
    colours = {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(services)}
    height = TOP + ROW * (len(rows) + (1 if left_out else 0)) + 6
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="100%" role="img" '
        f'aria-label="Trace of {len(rows)} spans" font-family="system-ui, sans-serif" font-size="11">'
    ]
    for tick in range(TICKS + 1):
        x = NAMES + (WIDTH - NAMES - 70) * tick / TICKS
        parts.append(
            f'<line x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{height}" stroke="currentColor" '
            f'stroke-opacity=".15"/><text x="{x:.1f}" y="14" text-anchor="middle" fill="currentColor">'
            f"{_seconds(whole / 1e9 * tick / TICKS)}</text>"
        )
    for index, (span, depth) in enumerate(rows):
        y = TOP + ROW * index
        x = NAMES + (span.start_ns - start) * scale
        width = max(1.5, (span.end_ns - span.start_ns) * scale)
        client = str(span.attributes.get("fedlora.client_id", ""))
        indent = 4 + 12 * min(depth, 6)
        owner = f"{span.service} {client}".strip() if client not in span.service else span.service
        parts.append(
            f"<g><title>{escape(span.name)}\n{escape(owner)}\n{_seconds(span.duration_s)}"
            f"{escape(chr(10) + span.error) if span.error else ''}</title>"
            f'<text x="{indent}" y="{y + 12}" fill="currentColor">'
            f"{escape(_cut(f'{span.name} · {owner}', 54 - 2 * min(depth, 6)))}</text>"
            f'<rect x="{x:.1f}" y="{y + 3}" width="{width:.1f}" height="{ROW - 6}" rx="2" '
            f'fill="{_ERROR if span.error else colours[span.service]}"/>'
            f'<text x="{x + width + 4:.1f}" y="{y + 12}" fill="currentColor" fill-opacity=".7">'
            f"{_seconds(span.duration_s)}</text></g>"
        )
    if left_out:
        parts.append(
            f'<text x="4" y="{TOP + ROW * len(rows) + 12}" fill="currentColor">'
            f"and {left_out} shorter spans</text>"
        )
    return "".join([*parts, "</svg>"])


def _rows(spans: Iterable[SpanRecord]) -> tuple[list[tuple[SpanRecord, int]], int]:
    """Spans with their depths, a parent before its children, and how many were left out."""
    unique = {span.span_id: span for span in spans}
    shown = sorted(unique.values(), key=lambda span: (bool(span.parent_id), -span.duration_s))[:MAX_ROWS]
    by_id = {span.span_id: span for span in shown}
    children: dict[str, list[SpanRecord]] = {}
    for span in sorted(shown, key=lambda span: (span.start_ns, span.span_id)):
        children.setdefault(span.parent_id if span.parent_id in by_id else "", []).append(span)
    rows: list[tuple[SpanRecord, int]] = []
    waiting = [(span, 0) for span in reversed(children.get("", []))]
    while waiting:
        span, depth = waiting.pop()
        rows.append((span, depth))
        waiting.extend((child, depth + 1) for child in reversed(children.get(span.span_id, [])))
    return rows, len(unique) - len(rows)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _seconds(value: float) -> str:
    if value == 0:
        return "0"
    if value < 1e-3:
        return f"{value * 1e6:.0f} µs"
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"
