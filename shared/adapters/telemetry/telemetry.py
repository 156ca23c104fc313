"""One service's OpenTelemetry: its spans, counters and histograms, behind the Telemetry port."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import Counter, Histogram
from opentelemetry.metrics import _Gauge as Gauge
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from shared.adapters.telemetry import traceparent as w3c
from shared.adapters.telemetry.families import FamilyProcessor, Sink
from shared.adapters.telemetry.logging import bind
from shared.adapters.telemetry.otlp import OtlpSink
from shared.adapters.telemetry.span_file import SpanFile
from shared.adapters.telemetry.subject import subject_of
from shared.errors import Outcome, Rejected
from shared.events.base import Envelope

SCOPE = "fedlora"
CLOSE_TIMEOUT_S = 2.0
_UNITS = {"s": "s", "bytes": "By"}
_BUCKETS = {
    "s": tuple(round(10 ** (power / 2), 4) for power in range(-7, 9)),  # 0.3 ms to 2.8 h
    "bytes": tuple(4.0**power for power in range(4, 17)),  # 256 B to 4 GiB
}


def open_telemetry(
    service_name: str, *, traces_file: Path | None = None, messaging_system: str = "in_process"
) -> "OpenTelemetry":
    """Telemetry of one service, which shares nothing with others in the same process.

    Spans go to OTLP/HTTP when OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is
    set, else to `traces_file`, else nowhere; metrics likewise by OTEL_EXPORTER_OTLP_ENDPOINT or
    OTEL_EXPORTER_OTLP_METRICS_ENDPOINT. The exporters read the other standard variables themselves.

    Args:
        service_name: `service.name` of the spans and metrics.
        traces_file: where `fedlora trace` will look; made when absent.
        messaging_system: `rabbitmq`, or `in_process`.
    """
    sinks: list[Sink] = []
    if _otlp_is_set("TRACES"):
        sinks.append(OtlpSink(OTLPSpanExporter()))
    elif traces_file is not None:
        sinks.append(SpanFile(traces_file))
    readers: list[MetricReader] = []
    if _otlp_is_set("METRICS"):
        readers.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
    return OpenTelemetry(service_name, sinks, readers, messaging_system=messaging_system)


def _otlp_is_set(signal: str) -> bool:
    names = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    return any(os.environ.get(name, "").strip() for name in names)


class OpenTelemetry:
    """Implements shared.ports.Telemetry with providers of its own; the global ones stay untouched."""

    def __init__(
        self,
        service_name: str,
        sinks: Sequence[Sink],
        readers: Sequence[MetricReader] = (),
        *,
        messaging_system: str = "in_process",
    ) -> None:
        self._service_name = service_name
        self._messaging_system = messaging_system
        self._sinks = tuple(sinks)
        resource = Resource.create({"service.name": service_name, "service.namespace": SCOPE})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        for sink in sinks:
            self._provider.add_span_processor(FamilyProcessor(sink))
        self._tracer = self._provider.get_tracer(SCOPE)
        self._meters = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
        self._meter = self._meters.get_meter(SCOPE)
        self._ids = RandomIdGenerator()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        self._open = True

    @contextmanager
    def process(self, envelope: Envelope) -> Iterator[None]:
        """See the port. Log lines inside carry the message's ids. A message without a valid
        traceparent starts a trace of its own. An Outcome other than Rejected is not an error."""
        parent = w3c.parse(envelope.traceparent)
        producer = w3c.parse(envelope.producer)
        context = Context()  # not the context in progress, which may be the publisher's
        if parent is not None:
            context = trace.set_span_in_context(NonRecordingSpan(parent), context)
        with (
            bind(self._service_name, envelope),
            self._tracer.start_as_current_span(
                f"process {envelope.type_name}",
                context=trace.set_span_in_context(NonRecordingSpan(parent), Context())
                if parent
                else Context(),
                kind=SpanKind.CONSUMER,
                attributes=self._message_attributes(envelope),
                links=[Link(producer)] if producer else [],
                record_exception=False,
                set_status_on_exception=False,
            ) as span,
            _recorded(span),
        ):
            yield

    @contextmanager
    def span(self, name: str, **attributes: Any) -> Iterator[None]:  # noqa: ANN401 - the port's
        """See the port."""
        with (
            self._tracer.start_as_current_span(
                name,
                attributes=_attributes(attributes),
                record_exception=False,
                set_status_on_exception=False,
            ) as span,
            _recorded(span),
        ):
            yield

    @contextmanager
    def resume(self, traceparent: str, name: str) -> Iterator[None]:
        """See the port."""
        parent = w3c.parse(traceparent)
        context = trace.set_span_in_context(NonRecordingSpan(parent), Context()) if parent else Context()
        with (
            self._tracer.start_as_current_span(
                name, context=context, record_exception=False, set_status_on_exception=False
            ) as span,
            _recorded(span),
        ):
            yield

    def current(self) -> str:
        """See the port."""
        return w3c.render(trace.get_current_span().get_span_context())

    def new_root(self) -> str:
        """See the port."""
        flags = TraceFlags(TraceFlags.SAMPLED)
        ids = self._ids
        return w3c.render(SpanContext(ids.generate_trace_id(), ids.generate_span_id(), False, flags))

    def export_root(
        self, traceparent: str, name: str, start: datetime, end: datetime, attributes: Mapping[str, Any]
    ) -> None:
        """See the port. Built from what the caller kept, so it works after a restart; exported again
        when called again, with the same ids. Raises: ValueError for an invalid traceparent."""
        context = w3c.parse(traceparent, remote=False)
        if context is None:
            raise ValueError(f"not a traceparent: {traceparent[:80]!r}")
        span = ReadableSpan(
            name,
            context=context,
            resource=self._provider.resource,
            attributes=_attributes(attributes),
            kind=SpanKind.INTERNAL,
            instrumentation_scope=InstrumentationScope(SCOPE),
            start_time=_nanoseconds(start),
            end_time=max(_nanoseconds(start), _nanoseconds(end)),
        )
        for sink in self._sinks:
            sink.export([span])

    def count(self, name: str, value: float = 1, **attributes: str) -> None:
        """See the port."""
        if name not in self._counters:
            self._counters[name] = self._meter.create_counter(name, unit=_unit(name))
        self._counters[name].add(value, attributes)

    def gauge(self, name: str, value: float, **attributes: str) -> None:
        """See the port."""
        if name not in self._gauges:
            self._gauges[name] = self._meter.create_gauge(name, unit=_unit(name))
        self._gauges[name].set(value, attributes)

    def observe(self, name: str, value: float, **attributes: str) -> None:
        """See the port."""
        if name not in self._histograms:
            self._histograms[name] = self._meter.create_histogram(
                name,
                unit=_unit(name),
                explicit_bucket_boundaries_advisory=_BUCKETS.get(name.rsplit("_", 1)[-1]),
            )
        self._histograms[name].record(value, attributes)

    def shutdown(self) -> None:
        """See the port; a second call does nothing. Spans still open are lost."""
        if not self._open:
            return
        self._open = False
        self._provider.shutdown()
        for sink in self._sinks:
            sink.close(CLOSE_TIMEOUT_S)
        self._meters.shutdown(timeout_millis=CLOSE_TIMEOUT_S * 1000)

    def _message_attributes(self, envelope: Envelope) -> dict[str, AttributeValue]:
        """Source: OpenTelemetry semantic conventions for messaging spans, and for RabbitMQ."""
        found: dict[str, str | int] = {
            "messaging.system": self._messaging_system,
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": str(envelope.channel),
            "messaging.rabbitmq.destination.routing_key": envelope.routing_key,
            "messaging.message.id": envelope.event_id,
            "messaging.message.conversation_id": envelope.correlation_id,
            "messaging.message.body.size": len(envelope.body),
            "fedlora.causation_id": envelope.causation_id,
            **{f"fedlora.{name}": value for name, value in subject_of(envelope).items()},
        }
        return {name: value for name, value in found.items() if value != ""}


@contextmanager
def _recorded(span: trace.Span) -> Iterator[None]:
    try:
        yield
    except Outcome as outcome:
        span.set_attribute("fedlora.outcome", type(outcome).__name__.lower())
        if isinstance(outcome, Rejected):
            span.set_status(Status(StatusCode.ERROR, str(outcome)))
        raise
    except BaseException as error:
        # The type and the message only: a stack trace belongs in the log, where it is redacted.
        span.set_attribute("error.type", type(error).__qualname__)
        span.set_status(Status(StatusCode.ERROR, type(error).__name__))
        raise


def _attributes(attributes: Mapping[str, Any]) -> dict[str, AttributeValue]:
    """Attributes that OpenTelemetry takes; `x_id` becomes `fedlora.x_id`; None and bytes are left out."""
    kept: dict[str, AttributeValue] = {}
    for name, value in attributes.items():
        full_name = name if "." in name else f"fedlora.{name}"
        if isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
            kept[full_name] = value
        elif isinstance(value, list | tuple | set | frozenset):
            kept[full_name] = [str(item) for item in value if not isinstance(item, bytes)]
        elif value is not None and not isinstance(value, bytes | bytearray | memoryview):
            kept[full_name] = str(value)
    return kept


def _unit(name: str) -> str:
    return _UNITS.get(name.rsplit("_", 1)[-1], "1")


def _nanoseconds(moment: datetime) -> int:
    delta = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return ((delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds) * 1000
