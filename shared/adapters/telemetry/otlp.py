"""Sends span families to an OTLP collector from a thread of its own, so that no service waits for it."""

import queue
import threading
from collections.abc import Sequence

import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

log = structlog.get_logger(__name__)

MAX_FAMILIES = 4096  # waiting for a collector that is away; past that whole families are dropped
MAX_SPANS_A_REQUEST = 512
MAX_TRIES = 10  # of one request, beside the exporter's own; a refusal would come back forever
BACKOFF_S = 1.0
MAX_BACKOFF_S = 30.0
LINGER_S = 0.2  # how long a family waits for company


class OtlpSink:
    """A bounded queue of families and the thread that exports them, in order, never splitting one.

    (The SDK's BatchSpanProcessor splits families between requests and drops single spans, either of
    which leaves orphans when the process is killed or the collector is away.)
    """

    def __init__(
        self, exporter: SpanExporter, *, linger_s: float = LINGER_S, backoff_s: float = BACKOFF_S
    ) -> None:
        self._exporter = exporter
        self._linger_s = linger_s
        self._backoff_s = backoff_s
        self._families: queue.Queue[Sequence[ReadableSpan]] = queue.Queue(MAX_FAMILIES)
        self._closing = threading.Event()
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="otlp-spans", daemon=True)
        self._thread.start()

    def export(self, spans: Sequence[ReadableSpan]) -> None:
        """Queue the family, or drop it whole."""
        try:
            self._families.put_nowait(spans)
        except queue.Full:
            self._dropped += 1
            if self._dropped & (self._dropped - 1) == 0:  # 1, 2, 4, 8: few lines however long it lasts
                log.warning("spans dropped: the collector does not take them", families=self._dropped)

    def close(self, timeout_s: float) -> None:
        """Export what is queued, for at most `timeout_s`, then stop."""
        self._closing.set()
        self._thread.join(timeout_s)
        self._exporter.shutdown()

    def _run(self) -> None:
        while not (self._closing.is_set() and self._families.empty()):
            try:
                batch = list(self._families.get(timeout=self._linger_s))
            except queue.Empty:
                continue
            self._closing.wait(self._linger_s)
            while len(batch) < MAX_SPANS_A_REQUEST:
                try:
                    batch.extend(self._families.get_nowait())
                except queue.Empty:
                    break
            self._deliver(batch)

    def _deliver(self, batch: Sequence[ReadableSpan]) -> None:
        for attempt in range(MAX_TRIES):
            try:
                if self._exporter.export(batch) is SpanExportResult.SUCCESS:
                    return
                reason = "the collector did not take them"
            except Exception as error:
                reason = str(error)
            if self._closing.wait(min(self._backoff_s * 2**attempt, MAX_BACKOFF_S)):
                break
        log.warning("spans lost", reason=reason, count=len(batch))
