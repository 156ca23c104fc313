"""The thread that exports to a collector: it never splits a family, blocks a service or dies."""

import threading

from opentelemetry.sdk.trace.export import SpanExportResult

from shared.adapters.telemetry import otlp
from shared.adapters.telemetry.otlp import OtlpSink


class Exporter:
    """Keeps batches; waits for `gate` first, and fails `failing` times."""

    def __init__(self, *, open_gate=True):
        self.batches, self.gate, self.failing, self.closed = [], threading.Event(), 0, False
        self.reached, self.delivered = threading.Event(), threading.Event()
        if open_gate:
            self.gate.set()

    def export(self, spans):
        self.reached.set()
        assert self.gate.wait(10)
        if self.failing:
            self.failing -= 1
            if self.failing % 2:
                raise ConnectionError("away")
            return SpanExportResult.FAILURE
        self.batches.append(list(spans))
        self.delivered.set()
        return SpanExportResult.SUCCESS

    def shutdown(self):
        self.closed = True


def family(name, size=3):
    return [f"{name}.{number}" for number in range(size)]


def test_what_was_taken_is_exported_in_order_before_it_closes():
    exporter = Exporter()
    sink = OtlpSink(exporter, linger_s=0.01)
    for name in "abc":
        sink.export(family(name))
    sink.close(10)
    assert [span for batch in exporter.batches for span in batch] == [
        *family("a"),
        *family("b"),
        *family("c"),
    ]
    assert exporter.closed


def test_no_family_is_split_between_requests():
    exporter = Exporter(open_gate=False)
    sink = OtlpSink(exporter, linger_s=0.01)
    for number in range(100):
        sink.export(family(str(number), size=50))
    exporter.gate.set()
    sink.close(10)
    assert len(exporter.batches) > 1
    assert all(len(batch) % 50 == 0 for batch in exporter.batches)
    assert sum(map(len, exporter.batches)) == 5000


def test_a_queue_that_is_full_drops_whole_families_at_once_without_waiting(monkeypatch):
    monkeypatch.setattr(otlp, "MAX_FAMILIES", 4)
    exporter = Exporter(open_gate=False)
    sink = OtlpSink(exporter, linger_s=0.01)
    sink.export(family("first"))
    assert exporter.reached.wait(10)
    for number in range(10):
        sink.export(family(str(number)))
    exporter.gate.set()
    sink.close(10)
    sent = [span for batch in exporter.batches for span in batch]
    assert sent == [s for name in ("first", "0", "1", "2", "3") for s in family(name)]


def test_a_failed_request_is_tried_again_and_does_not_end_the_thread():
    exporter = Exporter(open_gate=False)
    exporter.failing = 2
    sink = OtlpSink(exporter, linger_s=0.01, backoff_s=0.001)
    sink.export(family("first"))
    exporter.gate.set()
    assert exporter.delivered.wait(10)
    sink.export(family("second"))
    sink.close(10)
    assert exporter.batches == [family("first"), family("second")]


def test_spans_that_are_always_refused_make_way_for_others(monkeypatch):
    monkeypatch.setattr(otlp, "MAX_TRIES", 3)
    exporter = Exporter(open_gate=False)
    exporter.failing = 3
    sink = OtlpSink(exporter, linger_s=0.01, backoff_s=0.001)
    sink.export(family("refused"))
    assert exporter.reached.wait(10)
    sink.export(family("taken"))
    exporter.gate.set()
    assert exporter.delivered.wait(10)
    sink.close(10)
    assert exporter.batches == [family("taken")]
