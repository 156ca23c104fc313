"""Reading a round's spans back and drawing them."""

import io
from xml.etree import ElementTree

import pytest
from rich.console import Console

from fedlora import trace
from shared.adapters.telemetry import SpanRecord
from shared.errors import Refused

TRACE = "a" * 32


def span(number, parent=0, start=0, end=10, name="", **more):
    return SpanRecord(
        trace_id=more.pop("trace_id", TRACE),
        span_id=f"{number:016x}",
        parent_id=f"{parent:016x}" if parent else "",
        name=name or f"span {number}",
        kind="internal",
        service=more.pop("service", "coordinator"),
        start_ns=start * 10**9,
        end_ns=end * 10**9,
        attributes={"fedlora.round_id": "job-1-r1"} | more.pop("attributes", {}),
        **more,
    )


ROUND = [
    span(3, 2, 3, 4, "epoch", service="client-7"),
    span(2, 1, 2, 6, "process <round.started>", service="client-7"),
    span(4, 1, 7, 9, "process group", service="secure-aggregation", links=((TRACE, f"{2:016x}"),)),
    span(1, 0, 0, 10, "round job-1-r1"),
    span(1, 0, 0, 10, "round job-1-r1"),
]


def write(path, spans):
    path.write_text("".join(s.model_dump_json() + "\n" for s in spans))
    return path


def shown(renderable):
    console = Console(file=io.StringIO(), width=160)
    console.print(renderable)
    return console.file.getvalue()


def test_a_root_exported_twice_counts_once_and_the_trace_is_whole(tmp_path):
    other = span(9, trace_id="b" * 32, attributes={"fedlora.round_id": "job-1-r2"})
    found = trace.load(write(tmp_path / "spans", [*ROUND, other]), "job-1-r1")
    assert found.whole and found.dangling == 0 and len(found.spans) == 4
    assert found.verdict() == "4 spans of 3 services, one root, no orphan"
    assert trace.rounds([*ROUND, other]) == ["job-1-r1", "job-1-r2"]


def test_a_link_to_another_trace_of_the_file_is_resolved(tmp_path):
    before = span(9, trace_id="b" * 32, attributes={"fedlora.round_id": "job-1-r0"})
    first = span(5, 1, links=(("b" * 32, before.span_id),))
    assert trace.load(write(tmp_path / "spans", [*ROUND, first, before]), "job-1-r1").dangling == 0
    assert trace.load(write(tmp_path / "spans", [*ROUND, first]), "job-1-r1").dangling == 1


def test_a_missing_parent_and_a_second_root_are_told(tmp_path):
    found = trace.assemble([*ROUND, span(7, 77), span(8), span(6, 1, links=((TRACE, "f" * 16),))])
    assert not found.whole and len(found.roots) == 2 and len(found.orphans) == 1 and found.dangling == 1
    assert found.verdict().endswith("2 roots, 1 orphans, 1 unresolved links")
    assert "span 7" in trace.plain(found), "an orphan is still drawn"


def test_the_tree_lists_children_below_their_parents_with_durations(tmp_path):
    path = write(tmp_path / "spans", ROUND)
    text = shown(trace.render(path, "job-1-r1"))
    rows = [line for line in text.splitlines() if "█" in line]
    assert [row.split("client-7")[0].strip() for row in rows][1] == "├─ process <round.started>"
    assert rows[2].startswith("│  └─ epoch") and "1 s" in rows[2]
    assert rows[0].count("█") == trace.BAR_CELLS and rows[2].count("█") == trace.BAR_CELLS // 10
    assert "one root, no orphan" in text
    plain = trace.plain(trace.load(path, "job-1-r1")).splitlines()
    assert plain[0].split() == ["0.000s", "10", "s", "round", "job-1-r1", "[coordinator]"]


def test_the_json_form_keeps_order_depth_and_verdict(tmp_path):
    found = trace.as_json(trace.assemble(ROUND))
    assert found["whole"] and found["duration_s"] == 10.0 and found["trace_id"] == TRACE
    assert [(s["name"], s["depth"]) for s in found["spans"]] == [
        ("round job-1-r1", 0),
        ("process <round.started>", 1),
        ("epoch", 2),
        ("process group", 1),
    ]


def test_the_verdict_names_whom_the_rule_left_out(tmp_path):
    said = {"fedlora.rule": "krum", "fedlora.left_out": [f"c{number}" for number in range(14)]}
    path = write(tmp_path / "traces.jsonl", [span(1, attributes=said)])
    names = ", ".join(f"c{number}" for number in range(12))
    assert trace.load(path, "job-1-r1").verdict().endswith(f"no orphan; krum left out {names} and 2 more")
    quiet = write(
        tmp_path / "quiet.jsonl", [span(1, attributes={"fedlora.rule": "krum", "fedlora.left_out": []})]
    )
    assert "krum" not in trace.load(quiet, "job-1-r1").verdict()


def test_an_unknown_round_is_refused_with_those_that_exist(tmp_path):
    with pytest.raises(Refused, match="job-1-r1"):
        trace.load(write(tmp_path / "spans", ROUND), "job-9-r9")
    with pytest.raises(Refused, match="none"):
        trace.load(tmp_path / "absent", "job-9-r9")


def test_a_line_cut_short_is_skipped(tmp_path):
    path = write(tmp_path / "spans", ROUND)
    path.write_bytes(path.read_bytes() + b'{"trace_id": "aaa\n\xff\n[]\n')
    assert trace.load(path, "job-1-r1").whole


def test_the_waterfall_is_self_contained_well_formed_svg():
    failed = span(5, 1, 4, 5, "upload & sign", error="Unavailable")
    svg = trace.waterfall_svg([*ROUND, failed])
    root = ElementTree.fromstring(svg)
    names = [text.text for text in root.iter("{http://www.w3.org/2000/svg}title")]
    assert len(names) == 5 and names[1].startswith("process <round.started>")
    assert any("upload & sign" in name and "Unavailable" in name for name in names)
    assert "<script" not in svg and svg.count("http") == 1


def test_a_long_waterfall_says_what_it_left_out():
    spans = [span(1, 0, 0, 1000), *(span(n, 1, n, n + 1) for n in range(2, 700))]
    assert "and 299 shorter spans" in trace.waterfall_svg(spans)
    assert trace.waterfall_svg([]).startswith("<svg")
