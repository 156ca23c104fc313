"""Keeps the finished spans of a process back until everything above them in that process has ended.

A process that is killed then exports either a span's ancestors or none of its descendants, so that
no collector ever holds a span whose parent it will not get.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor


class Sink(Protocol):
    """Where finished families go; a family arrives whole, parents before children."""

    def export(self, spans: Sequence[ReadableSpan]) -> None:
        """Take the spans; return soon and raise nothing."""
        ...

    def close(self, timeout_s: float) -> None:
        """Deliver what was taken, then stop."""
        ...


@dataclass
class _Node:
    parent: "_Node | None"
    ended: ReadableSpan | None = None
    children: dict[int, "_Node"] = field(default_factory=dict)


class FamilyProcessor(SpanProcessor):
    """Hands a span to `sink` once no span above it in this process is open.

    A node stays in `_nodes` while its span is open, or has ended below an open one.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._nodes: dict[int, _Node] = {}
        self._lock = threading.Lock()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Place the span below its parent, when that one is of this process and not yet handed on."""
        parent_id = span.parent.span_id if span.parent is not None else 0
        with self._lock:
            parent = self._nodes.get(parent_id)
            node = _Node(parent)
            self._nodes[span.get_span_context().span_id] = node
            if parent is not None:
                parent.children[span.get_span_context().span_id] = node

    def on_end(self, span: ReadableSpan) -> None:
        """Hand on the span and what waited below it, unless something above it is still open."""
        context = span.context
        if context is None:
            return
        family: list[ReadableSpan] = []
        with self._lock:
            node = self._nodes.get(context.span_id)
            if node is None:
                return
            node.ended = span
            if node.parent is None:
                self._release(context.span_id, node, family)
        if family:
            self._sink.export(family)

    def shutdown(self) -> None:
        """Spans still open are not exported: their process did not finish them."""
        with self._lock:
            self._nodes.clear()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing that may go is ever waiting here."""
        return True

    def _release(self, span_id: int, top: _Node, family: list[ReadableSpan]) -> None:
        waiting = [(span_id, top)]
        while waiting:
            span_id, node = waiting.pop(0)
            if node.ended is None:
                node.parent = None  # still open, and now nothing above it is
                continue
            family.append(node.ended)
            del self._nodes[span_id]
            waiting.extend(node.children.items())
