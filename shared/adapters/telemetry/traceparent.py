"""W3C trace context, version 00: text to span context and back (https://www.w3.org/TR/trace-context/)."""

import re

from opentelemetry.trace import SpanContext, TraceFlags

_PATTERN = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


def parse(traceparent: str, *, remote: bool = True) -> SpanContext | None:
    """The span context, or None when the text is not a valid traceparent."""
    match = _PATTERN.fullmatch(traceparent)
    if match is None or match[1] == "ff":
        return None
    context = SpanContext(int(match[2], 16), int(match[3], 16), remote, TraceFlags(int(match[4], 16)))
    return context if context.is_valid else None


def render(context: SpanContext) -> str:
    """The traceparent that names this span; empty for an invalid context."""
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
