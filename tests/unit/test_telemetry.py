"""What the spans of one or several services in a process look like once they are exported."""

import asyncio
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace as otel
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from shared.adapters.telemetry import OpenTelemetry, open_telemetry, read_spans
from shared.adapters.telemetry.span_file import SpanFile
from shared.errors import Rejected, Stale
from shared.events import Envelope, RoundClosed

START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


class Recorder:
    """A sink that keeps what it gets."""

    def __init__(self):
        self.families = []

    def export(self, spans):
        self.families.append([span.name for span in spans])

    def close(self, timeout_s):
        pass


@pytest.fixture(autouse=True)
def _no_collector(monkeypatch):
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


def message(root="", producer="", correlation="job-1-r2"):
    event = RoundClosed(client_id="client-7", job_id="job-1", round_id="job-1-r2", outcome="completed")
    return Envelope.wrap(
        event, event_id="e-1", correlation_id=correlation, traceparent=root, producer=producer
    )


@pytest.fixture
def telemetry():
    made = OpenTelemetry("coordinator", [Recorder()])
    yield made
    made.shutdown()


def families(telemetry):
    return telemetry._sinks[0].families


def test_a_consumer_span_is_a_child_of_the_root_and_links_to_its_producer(tmp_path):
    path = tmp_path / "deep" / "spans.jsonl"
    first, second = (open_telemetry(name, traces_file=path) for name in ("coordinator", "accountant"))
    root = first.new_root()
    with first.span("publishing"):
        producer = first.current()
    with second.process(message(root, producer)):
        pass
    first.export_root(root, "round job-1-r2", START, START + timedelta(seconds=2), {"round_id": "job-1-r2"})
    first.shutdown()
    second.shutdown()

    spans = {span.name: span for span in read_spans(path)}
    top, consumer, publishing = spans["round job-1-r2"], spans["process round.closed.v1"], spans["publishing"]
    assert consumer.parent_id == top.span_id == root.split("-")[2]
    assert consumer.trace_id == top.trace_id == root.split("-")[1]
    assert consumer.links == ((publishing.trace_id, publishing.span_id),)
    assert (consumer.kind, consumer.service) == ("consumer", "accountant")
    assert top.parent_id == "" and top.duration_s == 2.0
    assert top.start_ns == 1767323045_678901_000
    assert consumer.attributes["messaging.system"] == "in_process"
    assert consumer.attributes["messaging.operation.type"] == "process"
    assert consumer.attributes["messaging.destination.name"] == "fl.down"
    assert consumer.attributes["messaging.message.id"] == "e-1"
    assert consumer.attributes["fedlora.round_id"] == "job-1-r2"
    assert consumer.attributes["fedlora.job_id"] == "job-1"
    assert consumer.attributes["fedlora.client_id"] == "client-7"
    assert (path.stat().st_mode & 0o777) == 0o600


def test_the_global_providers_are_left_alone(telemetry):
    with telemetry.span("work"):
        pass
    assert isinstance(otel.get_tracer_provider(), otel.ProxyTracerProvider)


def test_a_root_can_be_exported_by_another_process_than_promised_it(tmp_path):
    root = open_telemetry("coordinator").new_root()
    after_restart = open_telemetry("coordinator", traces_file=tmp_path / "spans")
    after_restart.export_root(root, "round", START, START, {})
    after_restart.shutdown()
    (span,) = read_spans(tmp_path / "spans")
    assert root == f"00-{span.trace_id}-{span.span_id}-01"


def test_a_root_needs_a_valid_traceparent(telemetry):
    for bad in (
        "",
        "00-1-2-01",
        "00-" + "0" * 32 + "-" + "0" * 16 + "-01",
        "ff-" + "1" * 32 + "-" + "1" * 16,
    ):
        with pytest.raises(ValueError, match="traceparent"):
            telemetry.export_root(bad, "round", START, START, {})


def test_a_message_without_or_with_a_broken_context_starts_its_own_trace(telemetry):
    for broken in ("", "garbage", "00-zz-1-01"):
        with telemetry.span("outer"):
            outer = telemetry.current()
            with telemetry.process(message(root=broken, producer=broken)):
                assert telemetry.current().split("-")[1] != outer.split("-")[1]


def test_children_wait_until_everything_above_them_has_ended(telemetry):
    with telemetry.process(message(telemetry.new_root())):
        with telemetry.span("train"):
            with telemetry.span("epoch"):
                pass
            assert families(telemetry) == []
        assert families(telemetry) == []
    assert families(telemetry) == [["process round.closed.v1", "train", "epoch"]]


async def test_a_task_that_outlives_its_handler_keeps_its_own_children_back(telemetry):
    started, leave = asyncio.Event(), asyncio.Event()

    async def work():
        with telemetry.span("train"):
            with telemetry.span("load"):
                pass
            started.set()
            await leave.wait()
            with telemetry.span("epoch"):
                pass

    with telemetry.process(message(telemetry.new_root())):
        task = asyncio.create_task(work())
        await started.wait()
    assert families(telemetry) == [["process round.closed.v1"]]
    leave.set()
    await task
    assert families(telemetry)[1:] == [["train", "load", "epoch"]]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=60))
def test_in_any_order_of_starts_and_ends_no_span_leaves_before_its_parent(steps):
    seen = {}

    class Checking(Recorder):
        def export(self, spans):
            for span in spans:
                assert span.parent is None or span.parent.span_id in seen, "an orphan if killed now"
                seen[span.context.span_id] = span

    telemetry = OpenTelemetry("service", [Checking()])
    tracer = telemetry._tracer
    every, open_ = [], []
    for starts, pick in steps:
        if starts or not open_:
            parent = every[pick % len(every)] if every and pick else None
            context = otel.set_span_in_context(parent) if parent else otel.Context()
            span = tracer.start_span("s", context=context)
            every.append(span)
            open_.append(span)
        else:
            open_.pop(pick % len(open_)).end()
    for span in open_:
        span.end()
    assert len(seen) == len(every)
    assert telemetry._provider._active_span_processor._span_processors[0]._nodes == {}
    telemetry.shutdown()


def test_outcomes_are_marked_and_only_a_rejection_is_an_error(tmp_path):
    telemetry = open_telemetry("service", traces_file=tmp_path / "spans")
    for error in (Stale("seen"), Rejected("malformed"), KeyError("secret")):
        with pytest.raises(type(error)), telemetry.process(message()):
            raise error
    telemetry.shutdown()
    stale, rejected, failed = read_spans(tmp_path / "spans")
    assert (stale.attributes["fedlora.outcome"], stale.error) == ("stale", "")
    assert (rejected.attributes["fedlora.outcome"], rejected.error) == ("rejected", "malformed")
    assert failed.error == "KeyError" and "secret" not in failed.model_dump_json()


async def test_the_span_in_progress_follows_threads_and_tasks(telemetry):
    with telemetry.span("work"):
        here = telemetry.current()
        assert await asyncio.to_thread(telemetry.current) == here
        assert await asyncio.create_task(asyncio.to_thread(telemetry.current)) == here
    assert telemetry.current() == ""


def test_attributes_never_hold_bytes(tmp_path):
    telemetry = open_telemetry("service", traces_file=tmp_path / "spans")
    with telemetry.span(
        "clip", payload=b"hidden", steps=3, norm=float("nan"), names=("a", b"hidden"), none=None
    ):
        pass
    telemetry.shutdown()
    (span,) = read_spans(tmp_path / "spans")
    assert span.attributes == {"fedlora.steps": 3, "fedlora.norm": "nan", "fedlora.names": ["a"]}


def test_counters_and_histograms_reach_a_reader_with_units():
    reader = InMemoryMetricReader()
    telemetry = OpenTelemetry("coordinator", [], [reader])
    telemetry.count("rounds_completed", outcome="completed")
    telemetry.count("rounds_completed", 2, outcome="completed")
    telemetry.observe("round_duration_s", 1.5)
    telemetry.observe("upload_bytes", 4096)
    (resource,) = reader.get_metrics_data().resource_metrics
    found = {m.name: m for m in resource.scope_metrics[0].metrics}
    telemetry.shutdown()
    assert resource.resource.attributes["service.name"] == "coordinator"
    assert found["rounds_completed"].data.data_points[0].value == 3
    assert found["round_duration_s"].unit == "s"
    assert found["round_duration_s"].data.data_points[0].sum == 1.5
    assert found["upload_bytes"].unit == "By"


WRITER = """
import sys
from pathlib import Path
from shared.adapters.telemetry import open_telemetry
telemetry = open_telemetry("service", traces_file=Path(sys.argv[1]))
for _ in range(300):
    with telemetry.span("outer", text="x" * 3000), telemetry.span("inner"):
        pass
"""


def test_several_processes_append_whole_lines_to_one_file(tmp_path):
    path = tmp_path / "spans"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path)]) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0] * 3
    assert path.read_bytes().count(b"\n") == len(list(read_spans(path))) == 3 * 600


def test_a_full_disk_loses_spans_and_not_the_service(tmp_path):
    sink = SpanFile(tmp_path / "spans")
    os.close(sink._descriptor)
    sink._descriptor = os.open("/dev/full", os.O_WRONLY)
    telemetry = OpenTelemetry("service", [sink])
    with telemetry.span("work"):
        pass
    telemetry.shutdown()
    telemetry.shutdown()
