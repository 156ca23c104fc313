"""The report is one file that needs nothing else, says the figures, and escapes what others wrote."""

import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from fedlora.report import Metric, ReportInput, epsilon_by_round, render_report, round_seconds
from fedlora.waterfall import waterfall_svg

HOSTILE = "<script>alert(1)</script>"
VOID = {"meta"}


def job() -> dict:
    return {
        "job_id": "job-1", "name": "chat", "status": "completed", "reason": "", "rounds_completed": 1,
        "rounds_planned": 2, "noise_multiplier": 0.7,
        "statement": {"plain": "In plain words: 1 < 2.", "formal": "In formal terms."},
        "specification": {
            "name": "chat",
            "privacy": {"epsilon": 8.0, "delta": 1e-5, "clip_norm": 1.0, "sampling_rate": 0.1},
            "training": {"local_steps": 8}, "rounds": {"count": 2},
        },
        "rounds": [
            {"number": 1, "round_id": "job-1-r1", "status": "completed", "cohort": ["a", "b"],
             "contributors": ["a"], "left_out": {"b": HOSTILE}, "reason": "", "update_norm": 0.25, "uploaded_bytes": 6_000,
             "rule": "multi-krum", "weights": {"a": 1.0, "b": 0.0}, "groups": {},
             "findings": [{"subject": "b", "figure": "distance", "value": 3.25, "limit": 1.5, "weight": 0.0}],
             "started_at": "2026-01-01T00:00:00+00:00", "ended_at": "2026-01-01T00:00:07+00:00"},
            {"number": 2, "round_id": "job-1-r2", "status": "aborted", "cohort": [], "contributors": [],
             "left_out": {}, "reason": "too few", "update_norm": None, "uploaded_bytes": 0,
             "rule": "", "weights": {}, "groups": {}, "findings": [],
             "started_at": "2026-01-01T00:01:00+00:00", "ended_at": None},
        ],
        "budgets": [
            {"client_id": "a", "epsilon": 2.5, "epsilon_rdp": 2.9, "epsilon_limit": 8.0, "delta": 1e-5,
             "entries": [{"round_id": "job-1-r1", "epsilon": 2.5}]},
        ],
        "clients": [
            {"client_id": "b", "score": 4.125, "rounds_judged": 4, "times_left_out": 4, "last_finding": "far",
             "suspended": f"suspended: {HOSTILE}", "spared": "",
             "changes": [{"to": "suspended", "by": "", "reason": HOSTILE, "score": 4.125,
                          "at": "2026-01-01T00:00:07+00:00"}]},
        ],
    }  # fmt: skip


def report(**changes) -> str:
    source = {
        "job": job(), "metric": Metric("perplexity", 91.0, 52.5, 80),
        "ledger": "3 entries, chain intact", "traces": {"job-1-r1": waterfall_svg([])}, "data": HOSTILE,
        "made_at": datetime(2026, 1, 1, tzinfo=UTC), **changes,
    }  # fmt: skip
    return render_report(ReportInput(**source))


class Balance(HTMLParser):
    """Remembers tags that were opened and not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_says_the_metric_epsilon_and_the_ledgers_verdict():
    text = report()
    for wanted in (
        "91 &rarr; 52.5",
        "80 held-out records",
        "2.500",
        "chain intact",
        "too few",
        "job-1-r1",
        "6.0 kB",
    ):
        assert wanted in text
    assert text.count("<svg") == 4


def test_the_report_says_of_each_round_who_counted_less_with_figures_and_who_keeps_being_left_out():
    text = report()
    assert "round 1: multi-krum left out 1 of 2 clients" in text
    row = '<tr><td>b</td><td class="n">0</td><td>distance</td><td class="n">3.25</td><td class="n">1.5</td></tr>'
    assert row in text
    assert '<tr><td>b</td><td class="n">4.12</td><td class="n">4</td><td class="n">4</td>' in text
    assert "suspended 2026-01-01T00:00 by its score (4.12): &lt;script&gt;" in text
    quiet = job()
    quiet["rounds"][0]["findings"], quiet["clients"] = [], []
    text = report(job=quiet)
    assert "counted less" not in text
    assert "keeps being left out" not in text


def test_a_finding_about_a_group_names_its_clients():
    grouped = job()
    grouped["rounds"][0]["groups"] = {"b": ["x", "y"]}
    assert "<td>x, y</td>" in report(job=grouped)


def test_the_report_needs_nothing_from_elsewhere_and_runs_no_script():
    text = report()
    assert not re.search(r"""(src|href)=|url\(|@import|<script""", text)
    assert HOSTILE not in text


def test_every_tag_is_closed():
    balance = Balance()
    balance.feed(report())
    assert balance.open == []


def test_a_job_without_figures_has_a_report_too():
    nothing = {"noise_multiplier": None, "specification": None, "statement": None}
    empty = {**job(), "rounds": [], "budgets": [], "clients": [], **nothing}
    assert "job-1" in report(job=empty, metric=None, traces={})


def test_epsilon_starts_at_nothing_and_rounds_without_an_end_take_no_time():
    assert epsilon_by_round(job()) == {"a": [(0.0, 0.0), (1.0, 2.5)]}
    assert round_seconds(job()) == {"round 1 completed": 7.0}


@pytest.mark.parametrize(
    ("name", "before", "after", "better"),
    [("perplexity", 91, 52, True), ("perplexity", 52, 91, False), ("accuracy", 0.8, 0.9, True)],
)
def test_better_means_lower_perplexity_or_higher_accuracy(name, before, after, better):
    assert Metric(name, before, after, 1).better is better


def test_the_guarantee_is_there_in_plain_words_and_in_formal_terms():
    text = report()
    assert "<blockquote>In plain words: 1 &lt; 2.</blockquote>" in text
    assert "<blockquote>In formal terms.</blockquote>" in text
