"""`fedlora demo`: a real federation on real data, from the files to the report."""

import asyncio
import contextlib
import os
import shutil
import time
import warnings
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from fedlora import demo_data
from fedlora.api_client import GatewayClient
from fedlora.console import out, say, table
from fedlora.embedded import Composition, federation
from fedlora.evaluation import evaluate
from fedlora.export import unzip
from fedlora.faults import Fault, trouble
from fedlora.ledger import in_one_line, require_intact
from fedlora.processes import keep_running
from fedlora.report import Metric, ReportInput, render_report
from fedlora.reporting import traces_of
from fedlora.up import MEMORY_BUS, children
from fedlora.watching import watch_job
from fedlora.workers import require_worker_packages
from services.gateway.web import listen
from shared.adapters.clock import SystemClock
from shared.adapters.infrastructure import Endpoints
from shared.adapters.telemetry import configure_logging
from shared.core.privacy.ledger import verify

EXAMPLES = Path(__file__).parents[1] / "examples"
MARKER = ".fedlora-demo"
START_S = 120.0
# The models come from packages, and what people watch is the federation, not the libraries beneath.
QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}


@dataclass(frozen=True)
class Demo:
    """Where the demo's parts are."""

    folder: Path
    job_file: Path
    data: demo_data.DemoData

    @property
    def home(self) -> Path:
        """State of the federation: databases, blobs, traces, logs, the workers' keys and ledgers."""
        return self.folder / "state"


def demo(
    fast: Annotated[bool, typer.Option("--fast", help="MiniLM on BBC news, under a minute")] = False,
    bus: Annotated[str, typer.Option(help="amqp://...: every service and worker a process")] = MEMORY_BUS,
    database: Annotated[str, typer.Option(help="postgresql+asyncpg://..., or SQLite")] = "",
    out_folder: Annotated[Path, typer.Option("--out", help="where everything is written")] = Path("demo-out"),
) -> None:
    """Real people fine-tune a model together, privately, on this machine."""
    require_worker_packages()
    prepared = prepare(out_folder.resolve(), fast)
    say(prepared.data.description)
    endpoints = Endpoints(home=prepared.home, bus=bus, database=database)
    with (prepared.home / "federation.log").open("a", encoding="utf-8") as log:
        configure_logging("fedlora", stream=log, human=False)
        job = asyncio.run(_run(prepared, endpoints))
    finish(prepared, endpoints, job)


def prepare(folder: Path, fast: bool) -> Demo:
    """Write the data and the job. Raises: Fault when a package or the examples are missing, or when
    `folder` holds something that no demo wrote."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    job_file = EXAMPLES / ("bbc-news.yaml" if fast else "chit-chat.yaml")
    if not job_file.is_file():
        raise Fault("the demo needs the examples of a clone", "run it from a clone: make demo")
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).is_file():
            raise Fault(f"{folder} is not empty and no demo wrote it", "name a new folder with --out")
        shutil.rmtree(folder)
    (folder / "state").mkdir(parents=True)
    (folder / MARKER).write_text("made by `fedlora demo`, replaced by the next one\n", encoding="utf-8")
    shutil.copy(job_file, folder / "job.yaml")
    write = demo_data.write_bbc if fast else demo_data.write_chit_chat
    return Demo(folder, folder / "job.yaml", write(folder / "data"))


async def _run(prepared: Demo, endpoints: Endpoints) -> dict[str, Any]:
    """Run the job to its end over a federation; the gateway's view of it."""
    composed = _embedded(prepared, endpoints)
    if endpoints.bus != MEMORY_BUS:
        composed = _processes(prepared, endpoints)
    async with composed as url:
        return await asyncio.to_thread(_follow, prepared, url)


@contextlib.asynccontextmanager
async def _embedded(prepared: Demo, endpoints: Endpoints) -> AsyncIterator[str]:
    async with federation(Composition(endpoints, 0, prepared.data.clients)) as url:
        yield url


@contextlib.asynccontextmanager
async def _processes(prepared: Demo, endpoints: Endpoints) -> AsyncIterator[str]:
    with listen("127.0.0.1", 0) as free:
        port = int(free.getsockname()[1])
    url, stop = f"http://127.0.0.1:{port}", asyncio.Event()
    logs = prepared.home / "logs"
    running = asyncio.create_task(keep_running(children(endpoints, prepared.data.clients, port, logs), stop))
    try:
        await asyncio.to_thread(_wait_ready, url, logs)
        yield url
    finally:
        stop.set()
        await running


def _wait_ready(url: str, logs: Path) -> None:
    """Return when the gateway hears the bus. Raises: Fault after START_S."""
    until = time.monotonic() + START_S
    with GatewayClient(url) as client:
        while not client.ready():
            if time.monotonic() > until:
                raise trouble(f"the gateway is not ready after {START_S:g} s", f"see {logs}")
            time.sleep(0.2)


def _follow(prepared: Demo, url: str) -> dict[str, Any]:
    """Submit, watch, and fetch what the job leaves."""
    with GatewayClient(url) as client:
        job_id = client.submit(prepared.job_file.read_bytes(), "demo")
        outcome = watch_job(client, job_id)
        job = client.job(job_id)
        (prepared.folder / "ledger.jsonl").write_text(client.ledger(), encoding="utf-8")
        if job["adapter"] is None:
            raise trouble(f"the job is {outcome}: {job['reason']}", f"see {prepared.home / 'federation.log'}")
        unzip(client.adapter(job_id), prepared.folder / "adapter")
    return job


def finish(prepared: Demo, endpoints: Endpoints, job: dict[str, Any]) -> None:
    """Measure, verify, write the report, and say what there is."""
    held_out, adapter = prepared.data.held_out, prepared.folder / "adapter"
    with out.status("measuring on held-out records") if out.is_terminal else contextlib.nullcontext():
        before = evaluate(prepared.job_file, held_out, None)
        after = evaluate(prepared.job_file, held_out, adapter)
    metric = Metric(after.metric, before.value, after.value, after.records)
    ledger_file = prepared.folder / "ledger.jsonl"
    verdict = verify(ledger_file.read_bytes())
    require_intact(verdict, ledger_file.name)
    report = ReportInput(
        job=job,
        metric=metric,
        ledger=in_one_line(verdict),
        traces=traces_of(endpoints.traces_path, job),
        data=prepared.data.description,
        made_at=SystemClock().now(),
    )
    (prepared.folder / "report.html").write_text(render_report(report), encoding="utf-8")
    if endpoints.traces_path.exists():
        shutil.copy(endpoints.traces_path, prepared.folder / "traces.jsonl")
    _say_results(prepared.folder, job, metric, in_one_line(verdict))


def _say_results(folder: Path, job: dict[str, Any], metric: Metric, verdict: str) -> None:
    drawn = table("client", "epsilon", "limit")
    for budget in job["budgets"]:
        drawn.add_row(budget["client_id"], f"{budget['epsilon']:.3f}", f"{budget['epsilon_limit']:g}")
    out.print(drawn)
    say(f"{metric.name} on {metric.records} held-out records: {metric.before:.4g} -> {metric.after:.4g}")
    say(f"ledger.jsonl: {verdict}")
    shown = Path(os.path.relpath(folder))
    say(f"{shown}/: adapter/, report.html, ledger.jsonl, traces.jsonl, job.yaml, data/")
