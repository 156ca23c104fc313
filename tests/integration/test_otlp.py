"""A round's spans as a real OTLP/HTTP receiver gets them, from several services and processes."""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from fedlora import trace
from shared.adapters.telemetry import open_telemetry
from shared.events import Envelope, RoundClosed
from tests.integration.otlp_receiver import OtlpReceiver

ROUND = "job-1-r1"
START = datetime(2026, 1, 2, tzinfo=UTC)
SECRET = "the-payload"

# A client in a process of its own: handles round.started, trains, and is killed in the second epoch
# when told to. It prints the traceparent that its upload would carry.
CLIENT = """
import os, signal, sys
import structlog
from shared.adapters.telemetry import configure_logging, open_telemetry
from shared.events import Envelope, RoundClosed
root, producer, dies = sys.argv[1], sys.argv[2], sys.argv[3] == "dies"
configure_logging("client")
telemetry = open_telemetry("client")
event = RoundClosed(client_id="client-7", job_id="job-1", round_id="job-1-r1", outcome="completed",
                    reason="the-payload")
envelope = Envelope.wrap(event, correlation_id="job-1-r1", traceparent=root, producer=producer)
with telemetry.span("warm-up"):
    pass
with telemetry.process(envelope), telemetry.span("train"):
    for epoch in range(2):
        with telemetry.span("epoch", number=epoch):
            structlog.get_logger("client").info("epoch", envelope=envelope, chunk=envelope.body)
            if dies and epoch == 1:
                os.kill(os.getpid(), signal.SIGKILL)
    print(telemetry.current())
telemetry.shutdown()
"""


@pytest.fixture
def receiver(monkeypatch):
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    running = OtlpReceiver()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.endpoint)
    yield running
    running.close()


def closed(client):
    return RoundClosed(client_id=client, job_id="job-1", round_id=ROUND, outcome="completed")


def run_client(root, producer, fate):
    return subprocess.run(  # the caller looks at how it ended
        [sys.executable, "-c", CLIENT, root, producer, fate],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def coordinate(fates):
    """Fabricate a round: coordinator -> clients -> accountant -> coordinator; returns clients' results."""
    coordinator, accountant = open_telemetry("coordinator"), open_telemetry("accountant")
    root = coordinator.new_root()
    begin = Envelope.wrap(closed("client-7"), correlation_id=ROUND, traceparent=root)
    with coordinator.process(begin):
        producer = coordinator.current()
    results = [run_client(root, producer, fate) for fate in fates]
    for result in results:
        if result.returncode == 0:
            uploaded = Envelope.wrap(
                closed("client-7"), correlation_id=ROUND, traceparent=root, producer=result.stdout.strip()
            )
            with accountant.process(uploaded), accountant.span("record"):
                spent = accountant.current()
            done = Envelope.wrap(closed("client-7"), correlation_id=ROUND, traceparent=root, producer=spent)
            with coordinator.process(done):
                pass
    for _ in range(2):  # at least once
        coordinator.export_root(
            root, f"round {ROUND}", START, START + timedelta(seconds=3), {"round_id": ROUND}
        )
    coordinator.shutdown()
    accountant.shutdown()
    return root, results


def test_a_round_over_several_processes_is_one_root_without_orphans_and_with_resolved_links(receiver):
    root, (result,) = coordinate(["lives"])
    assert result.returncode == 0, result.stderr
    mine = [span for span in receiver.spans if span.trace_id == root.split("-")[1]]
    found = trace.assemble(mine)
    assert found.whole, found.verdict()
    assert found.dangling == 0
    assert found.roots[0].span_id == root.split("-")[2]
    assert {span.service for span in found.spans} == {"coordinator", "client", "accountant"}
    assert sum(span.name == "epoch" for span in found.spans) == 2
    assert sum(len(span.links) for span in found.spans) == 3
    consumers = [span for span in found.spans if span.kind == "consumer"]
    assert len(consumers) == 4 and {span.parent_id for span in consumers} == {found.roots[0].span_id}
    assert {span.attributes["fedlora.round_id"] for span in consumers} == {ROUND}


def test_a_participant_killed_midway_leaves_no_orphan(receiver):
    root, (dead, alive) = coordinate(["dies", "lives"])
    assert dead.returncode == -signal.SIGKILL and alive.returncode == 0, alive.stderr
    found = trace.assemble(span for span in receiver.spans if span.trace_id == root.split("-")[1])
    assert found.whole and found.dangling == 0, found.verdict()
    assert sum(span.name == "epoch" for span in found.spans) == 2, "those of the one that lived"


def test_its_log_lines_carry_the_ids_of_the_trace_and_never_the_payload(receiver):
    root, (result,) = coordinate(["lives"])
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    epochs = {span.span_id for span in receiver.spans if span.name == "epoch"}
    assert {line["span_id"] for line in lines} == epochs and len(lines) == 2
    for line in lines:
        assert line["trace_id"] == root.split("-")[1]
        assert (line["round_id"], line["client_id"]) == (ROUND, "client-7")
    assert SECRET not in result.stderr
    assert SECRET not in "".join(span.model_dump_json() for span in receiver.spans)


def test_metrics_arrive_with_the_names_and_units_they_were_given(receiver):
    telemetry = open_telemetry("coordinator")
    telemetry.count("rounds_completed")
    telemetry.observe("round_duration_s", 2.5)
    telemetry.shutdown()
    assert receiver.metrics["rounds_completed"].sum.data_points[0].as_int == 1
    assert receiver.metrics["round_duration_s"].unit == "s"


def test_a_collector_that_is_away_costs_spans_and_not_the_service(receiver, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    telemetry = open_telemetry("coordinator")
    for _ in range(20):
        with telemetry.process(Envelope.wrap(closed("client-7"))):
            pass
    telemetry.shutdown()
    assert receiver.spans == []
