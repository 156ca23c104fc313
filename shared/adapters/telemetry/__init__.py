"""OpenTelemetry traces and metrics, and structured logs."""

from shared.adapters.telemetry.logging import bind, configure_logging
from shared.adapters.telemetry.span_file import SpanRecord, read_spans
from shared.adapters.telemetry.telemetry import OpenTelemetry, open_telemetry

__all__ = ["OpenTelemetry", "SpanRecord", "bind", "configure_logging", "open_telemetry", "read_spans"]
