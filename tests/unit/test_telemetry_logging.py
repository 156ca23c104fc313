"""What log lines carry, and what they never do."""

import io
import json
import logging

import pytest
import structlog

from shared.adapters.telemetry import OpenTelemetry, configure_logging
from shared.events import Envelope, RoundClosed

SECRET = b"\x00the-payload\xff"


@pytest.fixture
def lines():
    root = logging.getLogger()
    before = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("coordinator", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    structlog.reset_defaults()
    root.handlers[:], level = before
    root.setLevel(level)


def message():
    event = RoundClosed(client_id="client-7", job_id="job-1", round_id="job-1-r2", outcome="completed")
    return Envelope.wrap(event, correlation_id="job-1-r2")


def test_lines_within_a_message_carry_its_ids_and_the_span(lines):
    telemetry = OpenTelemetry("accountant", [])
    with telemetry.process(message()):
        structlog.get_logger("a").info("spent", epsilon=1.25)
        current = telemetry.current().split("-")
    structlog.get_logger("a").info("after")
    telemetry.shutdown()
    inside, after = lines()
    assert inside["event"] == "spent" and inside["epsilon"] == 1.25 and inside["level"] == "info"
    assert (inside["trace_id"], inside["span_id"]) == (current[1], current[2])
    assert (inside["service"], inside["job_id"]) == ("accountant", "job-1")
    assert (inside["round_id"], inside["client_id"]) == ("job-1-r2", "client-7")
    assert inside["timestamp"].endswith("Z")
    assert after["service"] == "coordinator" and "round_id" not in after and "trace_id" not in after


def test_bytes_objects_and_secretly_named_values_never_reach_a_line(lines):
    envelope = message()
    log = structlog.get_logger("a")
    log.info(
        "upload",
        chunk=SECRET,
        view=memoryview(SECRET),
        nested={"deep": [SECRET, {"api_token": "the-payload"}]},
        envelope=envelope,
        payload="the-payload",
        private_key="the-payload",
        shares=["the-payload"],
        routing_key=envelope.routing_key,
        endpoint="amqp://user:the-payload@host/vhost",
    )
    log.info("got %s", SECRET)
    logging.getLogger("library").warning("body %r", SECRET)
    first, *others = lines()
    assert "the-payload" not in json.dumps([first, *others])
    assert first["chunk"] == f"<{len(SECRET)} bytes>"
    assert first["envelope"] == "<Envelope>"
    assert first["routing_key"] == "round.closed.v1.client-7"
    assert first["endpoint"] == "amqp://user:***@host/vhost"
    assert len(others) == 2


def test_a_traceback_shows_neither_locals_nor_bytes_quoted_by_an_error(lines):
    def failing(chunk):
        raise ValueError(f"cannot read {chunk!r}")

    try:
        failing(SECRET)
    except ValueError:
        structlog.get_logger("a").exception("failed")
        logging.getLogger("library").exception("failed too")
    first, second = lines()
    for line in (first, second):
        assert "in failing" in line["exception"] and "cannot read <bytes>" in line["exception"]
        assert "the-payload" not in json.dumps(line)


def test_a_terminal_gets_lines_for_people(lines):
    stream = io.StringIO()
    configure_logging("coordinator", stream=stream, human=True)
    structlog.get_logger("a").info("round completed", round_id="job-1-r2")
    assert "round completed" in stream.getvalue() and "{" not in stream.getvalue()
