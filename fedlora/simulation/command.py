"""`fedlora simulate`: a job with many clients on this machine, before anyone is asked."""

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from fedlora.console import complain, emit_json, say
from fedlora.faults import Fault
from fedlora.jobs import AsJson
from fedlora.simulation.partition import column_of, divide
from fedlora.simulation.randomness import SeededRandom
from fedlora.simulation.running import Simulation, simulate
from fedlora.workers import check_data, require_worker_packages
from services.client.data.reading import read_column, read_records
from services.client.trainer import DataError
from shared.adapters.telemetry import configure_logging
from shared.core.noise import KeyStream
from shared.errors import Refused
from shared.job.loading import load_job
from shared.job.refusals import refusals
from shared.job.specification import JobSpecification

PATIENT_S, STAGE_S = 86_400.0, 25.0  # the longest stage that every protocol allows


def simulate_command(  # noqa: PLR0913, PLR0917 - each is an option of the command
    file: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="the job file")],
    data: Annotated[Path, typer.Option(help="one file with everybody's records")],
    clients: Annotated[int, typer.Option(min=2, help="how many")],
    partition: Annotated[str, typer.Option(help="iid, dirichlet:ALPHA or by:COLUMN")] = "iid",
    processes: Annotated[int, typer.Option(min=0, help="that train; 0: one a core")] = 0,
    seed: Annotated[
        int, typer.Option(min=0, help="of all randomness, noise included: it protects nobody")
    ] = 0,
    drop: Annotated[
        float, typer.Option(min=0, max=0.9, help="share of clients that drop out, a round")
    ] = 0.0,
    out_folder: Annotated[Path, typer.Option("--out", help="a folder that is made")] = Path("simulation"),
    as_json: AsJson = False,
) -> None:
    """Run a job with thousands of clients on this machine, with the services' own code."""
    require_worker_packages()
    job = load_job(file)
    for refused in refusals(job):
        raise refused
    if clients < job.rounds.min_clients:
        raise Fault(f"{clients} clients, the job wants {job.rounds.min_clients}", "raise --clients")
    check_repeatable(job)
    values = values_of(check_data(data), job, partition)
    stream = KeyStream(SeededRandom(seed, "partition").bytes)
    parts = divide(partition, values, clients, stream)
    if out_folder.exists() and (not out_folder.is_dir() or any(out_folder.iterdir())):
        raise Fault(f"{out_folder} is not empty", "name a new folder with --out")
    out_folder.mkdir(parents=True, exist_ok=True)
    simulation = Simulation(
        job=patient(job),
        data=data.resolve(),
        parts=parts,
        seed=seed,
        drop=drop,
        processes=processes or os.cpu_count() or 1,
        folder=out_folder.resolve(),
    )
    with (out_folder / "simulation.log").open("w", encoding="utf-8") as log:
        configure_logging("fedlora", stream=log, human=False)
        outcome = asyncio.run(simulate(simulation, complain if as_json else say))
    if as_json:
        emit_json(outcome.as_json())
        return
    say(f"{outcome.status}: {outcome.rounds} rounds of {clients} clients in {outcome.seconds:.1f} s")
    say(f"epsilon of the client that spent most: {outcome.epsilon:.3f} (as if its noise were secret)")
    say(f"{out_folder}/: adapter/, report.html, ledger.jsonl, simulation.log")


def check_repeatable(job: JobSpecification) -> None:
    """Raises: Refused for what depends on who is first."""
    rounds = job.rounds
    for name, chosen in (
        ("rounds.asynchronous", rounds.asynchronous),
        ("rounds.over_selection", rounds.over_selection),
        ("rounds.selection", rounds.selection != "uniform"),
    ):
        if chosen:
            raise Refused(name, "who is first would decide, and no seed", "leave it out in a simulation")


def values_of(data: Path, job: JobSpecification, partition: str) -> list[object]:
    """What the partition looks at, of each record. Raises: Fault for data that cannot be read."""
    column = column_of(partition)
    try:
        if column:
            return [str(value) for value in read_column(data, job.data, job.model, column)]
        records, _ = read_records(data, job.data, job.model)
    except DataError as error:
        raise Fault(f"{data}: {error}") from None
    return [record.label for record in records]


def patient(job: JobSpecification) -> JobSpecification:
    """The job without a clock: a slow machine must not change what comes of a seed."""
    rounds = job.rounds.model_copy(update={"deadline_s": PATIENT_S, "gather_s": PATIENT_S})
    aggregation = job.aggregation.model_copy(update={"stage_s": STAGE_S})
    return job.model_copy(update={"rounds": rounds, "aggregation": aggregation})
