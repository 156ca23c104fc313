"""The report of one job: a single HTML file that needs nothing beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from rich.filesize import decimal

from fedlora.plots import Point, bars, lines
from fedlora.watching import figures

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Metric:
    """The model on held-out records that no client trained on, before and after.

    Attributes:
        name: "perplexity" (lower is better) or "accuracy" (higher is better).
        records: how many held-out records.
    """

    name: str
    before: float
    after: float
    records: int

    @property
    def better(self) -> bool:
        """Whether training helped."""
        return self.after < self.before if self.name == "perplexity" else self.after > self.before


@dataclass(frozen=True)
class ReportInput:
    """What the report is made from.

    Attributes:
        job: the gateway's answer to GET /jobs/{id}.
        ledger: what verifying the ledger found, one line.
        traces: round id to an inline SVG of its spans.
    """

    job: Mapping[str, Any]
    metric: Metric | None
    ledger: str
    traces: Mapping[str, str]
    data: str
    made_at: datetime


def render_report(source: ReportInput) -> str:
    """The HTML text."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["bytes"] = lambda size: decimal(size) if size else ""
    job = source.job
    metric = source.metric
    return environment.get_template("report.html.j2").render(
        job=job,
        metric=metric,
        data=source.data,
        made_at=source.made_at.strftime("%Y-%m-%d %H:%M UTC"),
        metric_plot=Markup(bars({"before": metric.before, "after": metric.after}, metric.name))  # noqa: S704
        if metric
        else "",
        epsilon_plot=Markup(_epsilon_plot(job)),  # noqa: S704 - plots escape every text they are given
        timing_plot=Markup(bars(round_seconds(job), "s")),  # noqa: S704 - as above
        ledger=source.ledger,
        findings=judged_rounds(job),
        evaluations=[(one["number"], figures(one["metrics"])) for one in job["rounds"] if one.get("metrics")],
        traces={name: Markup(svg) for name, svg in source.traces.items()},  # noqa: S704 - as above
        settings=_settings(job["specification"] or {}),
    )


def round_seconds(job: Mapping[str, Any]) -> dict[str, float]:
    """How long each finished round took, in seconds."""
    took = {}
    for one in job["rounds"]:
        if one["started_at"] and one["ended_at"]:
            start, end = datetime.fromisoformat(one["started_at"]), datetime.fromisoformat(one["ended_at"])
            took[f"round {one['number']} {one['status']}"] = (end - start).total_seconds()
    return took


def judged_rounds(job: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rounds in which a rule found something: how many it judged and left out, and its findings, those
    that count least first."""
    return [
        {
            "number": one["number"],
            "rule": one["rule"] or "the rule",
            "judged": len(one["weights"]),
            "out": sum(weight == 0 for weight in one["weights"].values()),
            "findings": sorted(one["findings"], key=lambda found: (found["weight"], found["subject"])),
            "groups": one["groups"],
        }
        for one in job["rounds"]
        if one["findings"]
    ]


def epsilon_by_round(job: Mapping[str, Any]) -> dict[str, list[Point]]:
    """For each client, (round number, epsilon after it), starting from nothing spent at 0."""
    series: dict[str, list[Point]] = {}
    for budget in job["budgets"]:
        after = {0.0: 0.0}
        for entry in budget["entries"]:
            after[float(entry["round_id"].rpartition("-r")[2])] = entry["epsilon"]
        series[budget["client_id"]] = sorted(after.items())
    return series


def _epsilon_plot(job: Mapping[str, Any]) -> str:
    limits = [budget["epsilon_limit"] for budget in job["budgets"]]
    return lines(epsilon_by_round(job), "round", "epsilon", max(limits) if limits else None)


def _settings(specification: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The job's settings as dotted names and values."""
    flat: list[tuple[str, str]] = []
    for name, value in specification.items():
        if isinstance(value, Mapping):
            flat += [
                (f"{name}.{key}", _text(item)) for key, item in value.items() if item not in (None, [], ())
            ]
        else:
            flat.append((name, _text(value)))
    return flat


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
