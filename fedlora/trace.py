"""Reads a round's spans back and draws them: a tree with bars, plain text, JSON."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedlora.waterfall import waterfall_svg
from shared.adapters.telemetry.span_file import SpanRecord, read_spans
from shared.errors import Refused

BAR_CELLS = 40
SHOWN_CLIENTS = 12
_EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True)
class Trace:
    """One trace: its spans by start time, each once, and how they hang together.

    Attributes:
        roots: spans without a parent; a finished round has one.
        orphans: spans whose parent is not in the trace.
        dangling: links of the trace's spans to spans that were not found.
    """

    spans: tuple[SpanRecord, ...]
    roots: tuple[SpanRecord, ...]
    orphans: tuple[SpanRecord, ...]
    dangling: int

    @property
    def whole(self) -> bool:
        """Whether there is one root, and every other span has its parent."""
        return len(self.roots) == 1 and not self.orphans

    @property
    def start_ns(self) -> int:
        """When the first span began."""
        return min((span.start_ns for span in self.spans), default=0)

    @property
    def end_ns(self) -> int:
        """When the last span ended."""
        return max((span.end_ns for span in self.spans), default=0)

    def verdict(self) -> str:
        """One line: how many spans, roots and orphans."""
        services = len({span.service for span in self.spans})
        line = f"{len(self.spans)} spans of {services} services, "
        line += "one root" if len(self.roots) == 1 else f"{len(self.roots)} roots"
        line += ", no orphan" if not self.orphans else f", {len(self.orphans)} orphans"
        return line + (f", {self.dangling} unresolved links" if self.dangling else "") + self._judged()

    def _judged(self) -> str:
        """Whom the round's rule left out, as its root span says."""
        said = self.roots[0].attributes if self.roots else {}
        names = said.get("fedlora.left_out", ())
        if not names:
            return ""
        more = f" and {len(names) - SHOWN_CLIENTS} more" if len(names) > SHOWN_CLIENTS else ""
        return f"; {said.get('fedlora.rule')} left out {', '.join(names[:SHOWN_CLIENTS])}{more}"


def assemble(spans: Iterable[SpanRecord], elsewhere: Iterable[SpanRecord] = ()) -> Trace:
    """Put the spans of one trace together; a root that was exported twice counts once.

    Args:
        spans: those of the trace.
        elsewhere: further spans that links may lead to: the round before, the job's beginning.
    """
    unique = {(span.trace_id, span.span_id): span for span in spans}
    ordered = tuple(sorted(unique.values(), key=lambda span: (span.start_ns, span.span_id)))
    reachable = {*unique, *((span.trace_id, span.span_id) for span in elsewhere)}
    return Trace(
        spans=ordered,
        roots=tuple(span for span in ordered if not span.parent_id),
        orphans=tuple(
            span for span in ordered if span.parent_id and (span.trace_id, span.parent_id) not in unique
        ),
        dangling=sum(link not in reachable for span in ordered for link in span.links),
    )


def load(path: Path, round_id: str) -> Trace:
    """The trace of a round, found by the round id that its spans carry.

    Raises: Refused when the file holds no span of that round.
    """
    everything = list(read_spans(path)) if path.exists() else []
    counts: dict[str, int] = defaultdict(int)
    for span in everything:
        if span.attributes.get("fedlora.round_id") == round_id:
            counts[span.trace_id] += 1
    if not counts:
        known = ", ".join(rounds(everything)[-8:]) or "none"
        raise Refused("round", f"no span of {round_id} in {path.name}", f"rounds found there: {known}")
    # The round's own trace has nearly all of its messages; a straggler may have come without context.
    trace_id = max(counts, key=counts.__getitem__)
    return assemble((span for span in everything if span.trace_id == trace_id), everything)


def rounds(spans: Iterable[SpanRecord]) -> list[str]:
    """The rounds that the spans are about, oldest first."""
    first: dict[str, int] = {}
    for span in spans:
        name = span.attributes.get("fedlora.round_id")
        if isinstance(name, str):
            first[name] = min(span.start_ns, first.get(name, span.start_ns))
    return sorted(first, key=first.__getitem__)


def walk(trace: Trace) -> Iterator[tuple[SpanRecord, tuple[bool, ...]]]:
    """Each span from the top down, with whether it and each ancestor below the top is a last child."""
    children: dict[str, list[SpanRecord]] = defaultdict(list)
    orphans = {span.span_id for span in trace.orphans}
    for span in trace.spans:
        if span.parent_id and span.span_id not in orphans:
            children[span.parent_id].append(span)
    waiting: list[tuple[SpanRecord, tuple[bool, ...]]] = [(s, ()) for s in (*trace.roots, *trace.orphans)]
    waiting.reverse()
    while waiting:
        span, path = waiting.pop()
        yield span, path
        below = children.get(span.span_id, [])
        for index in range(len(below) - 1, -1, -1):
            waiting.append((below[index], (*path, index == len(below) - 1)))


def render(path: Path, round_id: str) -> RenderableType:
    """The round's trace for a terminal. Raises: Refused when there is none."""
    return draw(load(path, round_id), title=round_id)


def draw(trace: Trace, title: str) -> RenderableType:
    """A tree with each span's duration and its place within the whole."""
    table = Table(box=None, pad_edge=False, padding=(0, 1), expand=False)
    table.add_column(title, overflow="ellipsis", no_wrap=True, max_width=64)
    table.add_column("service", style="cyan", no_wrap=True)
    table.add_column("took", justify="right", no_wrap=True)
    table.add_column("", width=BAR_CELLS, no_wrap=True)
    for span, path in walk(trace):
        name = Text(_branches(path), style="dim")
        name.append(label(span), style="bold red" if span.error else ("bold" if not path else ""))
        bar = Text(_bar(trace, span), style="red" if span.error else "green")
        table.add_row(name, who(span), duration(span.duration_s), bar)
    style = "green" if trace.whole else "bold red"
    return Group(table, Text(trace.verdict(), style=style))


def plain(trace: Trace) -> str:
    """The tree as text, for a pipe: offset, duration, service, name."""
    lines = [
        f"{(span.start_ns - trace.start_ns) / 1e9:10.3f}s {duration(span.duration_s):>9}  "
        f"{_branches(path)}{label(span)}  [{who(span)}]" + (f"  ERROR {span.error}" if span.error else "")
        for span, path in walk(trace)
    ]
    return "\n".join([*lines, trace.verdict()])


def as_json(trace: Trace) -> dict[str, Any]:
    """The trace as a tree-ordered list, for programs."""
    return {
        "trace_id": trace.roots[0].trace_id if trace.roots else "",
        "whole": trace.whole,
        "roots": len(trace.roots),
        "orphans": len(trace.orphans),
        "unresolved_links": trace.dangling,
        "duration_s": (trace.end_ns - trace.start_ns) / 1e9,
        "spans": [
            {
                **span.model_dump(mode="json"),
                "depth": len(path),
                "offset_s": (span.start_ns - trace.start_ns) / 1e9,
                "duration_s": span.duration_s,
            }
            for span, path in walk(trace)
        ],
    }


def label(span: SpanRecord) -> str:
    """The span's name, with the outcome of a message that had no effect."""
    outcome = span.attributes.get("fedlora.outcome")
    return f"{span.name} ({outcome})" if outcome else span.name


def who(span: SpanRecord) -> str:
    """The service, and the client when the message is one client's."""
    client = span.attributes.get("fedlora.client_id", "")
    return f"{span.service} {client}" if client and client not in span.service else span.service


def duration(seconds: float) -> str:
    """A duration in three significant figures."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _branches(path: Sequence[bool]) -> str:
    if not path:
        return ""
    return "".join("   " if last else "│  " for last in path[:-1]) + ("└─ " if path[-1] else "├─ ")


def _bar(trace: Trace, span: SpanRecord) -> str:
    whole = max(1, trace.end_ns - trace.start_ns)
    first = int((span.start_ns - trace.start_ns) / whole * BAR_CELLS)
    eighths = max(1, round((span.end_ns - span.start_ns) / whole * BAR_CELLS * 8))
    first = min(first, BAR_CELLS - 1)
    eighths = min(eighths, (BAR_CELLS - first) * 8)
    return " " * first + "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


__all__ = [
    "Trace",
    "as_json",
    "assemble",
    "draw",
    "duration",
    "label",
    "load",
    "plain",
    "render",
    "rounds",
    "walk",
    "waterfall_svg",
    "who",
]
