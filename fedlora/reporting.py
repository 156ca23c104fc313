"""`fedlora report`: what the gateway knows of a job, as one HTML file."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fedlora import trace
from fedlora.api_client import DEFAULT_URL, GatewayClient
from fedlora.console import complain, say
from fedlora.faults import Fault
from fedlora.jobs import GatewayUrl, JobName
from fedlora.ledger import in_one_line, require_intact
from fedlora.report import ReportInput, render_report
from shared.adapters.clock import SystemClock
from shared.adapters.infrastructure import Endpoints
from shared.core.privacy.ledger import verify
from shared.errors import Refused


def report(
    job_id: JobName,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="the HTML file that is written")] = Path(
        "report.html"
    ),
    traces: Annotated[
        Path | None, typer.Option(help="span file; default: traces.jsonl of the federation's home")
    ] = None,
    gateway: GatewayUrl = DEFAULT_URL,
) -> None:
    """Write a job's report: privacy, rounds, who was left out and why, where the time went."""
    with GatewayClient(gateway) as client:
        job = client.job(job_id)
        verdict = verify(client.ledger().encode())
    require_intact(verdict, "the ledger")
    spans = traces or Endpoints().traces_path
    source = ReportInput(
        job=job,
        metric=None,
        ledger=in_one_line(verdict),
        traces=traces_of(spans, job) if spans.exists() else {},
        data="",
        made_at=SystemClock().now(),
    )
    try:
        file.write_text(render_report(source), encoding="utf-8")
    except OSError as error:
        raise Fault(f"{file} cannot be written: {error}", "name another file") from None
    say(f"{file}: report of {job_id}, {job['status']}")


def traces_of(path: Path, job: dict[str, Any]) -> dict[str, str]:
    """The waterfall of each round whose spans are there."""
    drawn = {}
    for one in job["rounds"]:
        try:
            found = trace.load(path, one["round_id"])
        except Refused as missing:
            complain(str(missing))
            continue
        drawn[f"{one['round_id']}: {found.verdict()}"] = trace.waterfall_svg(found.spans)
    return drawn
