"""The span file: one JSON object a line, appended by any number of processes, read by `fedlora trace`."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import structlog
from opentelemetry.sdk.trace import ReadableSpan
from pydantic import BaseModel, ConfigDict, ValidationError

log = structlog.get_logger(__name__)


class SpanRecord(BaseModel):
    """One finished span. Ids are lower-case hex; times are nanoseconds since the Unix epoch."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    trace_id: str
    span_id: str
    parent_id: str = ""
    name: str
    kind: str
    service: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any] = {}
    links: tuple[tuple[str, str], ...] = ()  # (trace_id, span_id)
    events: tuple[str, ...] = ()
    error: str = ""

    @property
    def duration_s(self) -> float:
        """How long it took."""
        return (self.end_ns - self.start_ns) / 1e9


class SpanFile:
    """A sink that appends each family with a single write, which O_APPEND keeps whole.

    A write that fails (a full disk) loses its spans and is logged once; work goes on.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._failed = False

    def export(self, spans: Sequence[ReadableSpan]) -> None:
        """Append one line for each span."""
        if self._descriptor < 0:
            return
        lines = "".join(record_of(span).model_dump_json() + "\n" for span in spans)
        try:
            os.write(self._descriptor, lines.encode())
        except OSError as error:
            if not self._failed:
                log.warning("spans are not written", path=str(self._path), reason=str(error))
            self._failed = True

    def close(self, timeout_s: float) -> None:
        """Close the file; later spans are dropped."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def record_of(span: ReadableSpan) -> SpanRecord:
    """The span as the file keeps it."""
    context = span.context
    if context is None or span.start_time is None or span.end_time is None:
        raise ValueError(f"span {span.name} has not ended")
    return SpanRecord(
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        parent_id=f"{span.parent.span_id:016x}" if span.parent is not None else "",
        name=span.name,
        kind=span.kind.name.lower(),
        service=str(span.resource.attributes.get("service.name", "")),
        start_ns=span.start_time,
        end_ns=span.end_time,
        attributes={k: list(v) if isinstance(v, tuple) else v for k, v in (span.attributes or {}).items()},
        links=tuple((f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") for link in span.links),
        events=tuple(event.name for event in span.events),
        error="" if span.status.is_ok or span.status.is_unset else span.status.description or "error",
    )


def read_spans(path: Path) -> Iterator[SpanRecord]:
    """The spans of the file, in the order written; a line cut short by a full disk is skipped."""
    with path.open("rb") as lines:
        for line in lines:
            try:
                yield SpanRecord.model_validate(json.loads(line))
            except (ValueError, ValidationError):
                continue
