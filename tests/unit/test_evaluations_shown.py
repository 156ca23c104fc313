"""What evaluations released, as people read it."""

from datetime import UTC, datetime

from fedlora.report import ReportInput, render_report
from fedlora.watching import describe, figures, round_lines

METRICS = {"count": 240.123, "count_error": 12.0, "loss": 3.75, "loss_error": 0.213}
SHOWN = "count 240.1 +- 12, loss 3.75 +- 0.21"


def completed(**changes):
    data = {
        "number": 3, "kind": "evaluate", "contributors": ["a", "b"], "metrics": METRICS, "update_norm": 0.0,
        "left_out": [],
    }  # fmt: skip
    return {"type": "round.completed.v1", "data": {**data, **changes}}


def round_(**changes):
    return {
        "number": 3, "status": "completed", "reason": "", "cohort": ["a", "b"], "contributors": ["a", "b"],
        "rule": "", "left_out": {}, "findings": [], "uploaded_bytes": 100, "kind": "evaluate",
        "metrics": METRICS, "weights": {}, "groups": {}, "update_norm": 0.0, "started_at": None,
        "ended_at": None, **changes,
    }  # fmt: skip


def test_figures_come_with_their_errors_and_votes_without():
    assert figures(METRICS) == SHOWN
    assert figures({"stop_votes": 4.0}) == "stop votes 4"


def test_an_evaluation_is_said_as_one_while_a_job_is_watched():
    assert describe(completed()) == f"round 3: 2 clients evaluate: {SHOWN}"
    assert "updates, norm 0" in describe(completed(kind="train", metrics={}))


def test_a_rounds_lines_have_its_figures():
    assert f"  held-out records: {SHOWN}" in list(round_lines(round_()))
    assert not [line for line in round_lines(round_(metrics={})) if "held-out" in line]


def test_the_report_has_a_table_of_evaluations_only_where_there_are_some():
    def rendered(**changes):
        job = {
            "job_id": "j", "name": "n", "rounds": [round_(**changes)], "budgets": [], "specification": None,
            "status": "ended", "outcome": "completed", "reason": "", "clients": [], "rounds_completed": 1,
            "rounds_planned": 1, "guarantee": {"plain": "", "formal": ""}, "left_out": {}, "statement": {"plain": "", "formal": ""},
            "noise_multiplier": 1.0,
        }  # fmt: skip
        return render_report(ReportInput(job, None, "whole", {}, "some", datetime.now(UTC)))

    assert SHOWN in rendered()
    assert "<h2>Evaluations</h2>" not in rendered(metrics={})
