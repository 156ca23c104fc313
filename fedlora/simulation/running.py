"""One simulation from its settings to what it leaves in a folder."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml

from fedlora.api_client import GatewayClient
from fedlora.embedded import Composition, federation
from fedlora.export import unzip
from fedlora.faults import trouble
from fedlora.ledger import in_one_line, require_intact
from fedlora.report import ReportInput, render_report
from fedlora.simulation.partition import Parts
from fedlora.simulation.trainer import Plan, SimulatedTrainer, start_process
from fedlora.simulation.world import SimulatedWorld
from fedlora.watching import describe
from services.client.trainer import Prepared
from shared.adapters.clock import SystemClock
from shared.adapters.infrastructure import Endpoints
from shared.core.privacy.ledger import verify
from shared.job.specification import JobSpecification

LOOK_EVERY_S = 0.5
ANSWER_S = 1800.0  # the gateway shares its event loop with every client
OTHER_THREADS = 8  # for whatever services do beside the event loop


@dataclass(frozen=True)
class Simulation:
    """What is simulated."""

    job: JobSpecification
    data: Path
    parts: Parts
    seed: int
    drop: float
    processes: int
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """What came of it; `epsilon` is the largest of any client."""

    status: str
    clients: int
    rounds: int
    seconds: float
    seconds_a_round: tuple[float, ...]
    epsilon: float
    seed: int
    folder: str

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


async def simulate(simulation: Simulation, write: Callable[[str], None]) -> Outcome:
    """Run the job to its end. Raises: Fault when it cannot be carried out."""
    loop = asyncio.get_running_loop()
    clients = len(simulation.parts)
    # Whoever trains waits in a thread for a process; twice as many keep the pool full.
    turns = 2 * simulation.processes
    loop.set_default_executor(ThreadPoolExecutor(turns + OTHER_THREADS))
    names = [f"client-{number:05d}" for number in range(clients)]
    parts = dict(zip(names, simulation.parts, strict=True))
    plan = Plan(simulation.data, parts, simulation.seed, simulation.drop)
    endpoints = Endpoints(home=simulation.folder / "state", bus="memory://", telemetry="off")
    with _pool(plan, simulation.processes) as pool:
        layouts: dict[str, Prepared] = {}
        trainers = {name: SimulatedTrainer(name, plan, pool, layouts) for name in names}
        world = SimulatedWorld(simulation.seed, endpoints, trainers, turns)
        async with federation(Composition(endpoints), world) as url:
            return await asyncio.to_thread(_follow, simulation, url, write)


@contextmanager
def _pool(plan: Plan, processes: int) -> Iterator[ProcessPoolExecutor]:
    pool = ProcessPoolExecutor(processes, get_context("spawn"), start_process, (plan,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _follow(simulation: Simulation, url: str, write: Callable[[str], None]) -> Outcome:
    began_s, moments = time.monotonic(), []
    with GatewayClient(url, answer_s=ANSWER_S) as client:
        while len(client.clients()) < len(simulation.parts):
            time.sleep(LOOK_EVERY_S)
        content = yaml.safe_dump(simulation.job.model_dump(mode="json")).encode()
        job_id = client.submit(content, "simulation")
        for batch in client.follow(job_id):
            for notice in batch:
                if notice["type"].startswith("round.completed"):
                    moments.append(time.monotonic())
                if not notice["type"].startswith(("client.", "budget.")) and (line := describe(notice)):
                    write(line)
                if notice["type"].startswith("job.waiting"):
                    raise trouble(f"no round can begin: {notice['data']['reason']}")
            time.sleep(LOOK_EVERY_S)  # a request for each notice would take a quarter of the event loop
        job = client.job(job_id)
        if job["adapter"] is None:
            raise trouble(f"the job is {job['status']}: {job['reason']}")
        unzip(client.adapter(job_id), simulation.folder / "adapter")
        ledger = client.ledger()
    _write_report(simulation.folder, job, ledger, len(simulation.parts))
    epsilons: Sequence[float] = [budget["epsilon"] for budget in job["budgets"]]
    spans = zip([began_s, *moments], moments, strict=False)
    return Outcome(
        status=job["status"],
        clients=len(simulation.parts),
        rounds=len(moments),
        seconds=round(time.monotonic() - began_s, 2),
        seconds_a_round=tuple(round(after - before, 2) for before, after in spans),
        epsilon=max(epsilons, default=0.0),
        seed=simulation.seed,
        folder=str(simulation.folder),
    )


def _write_report(folder: Path, job: dict[str, Any], ledger: str, clients: int) -> None:
    (folder / "ledger.jsonl").write_text(ledger, encoding="utf-8")
    verdict = verify(ledger.encode())
    require_intact(verdict, "ledger.jsonl")
    source = ReportInput(
        job=job,
        metric=None,
        ledger=in_one_line(verdict),
        traces={},
        data=f"a simulation of {clients} clients: its noise follows from a seed and protects nobody",
        made_at=SystemClock().now(),
    )
    (folder / "report.html").write_text(render_report(source), encoding="utf-8")
