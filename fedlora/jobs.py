"""`fedlora job`: check, submit, list, watch, cancel, schema."""

import getpass
from pathlib import Path
from typing import Annotated

import typer

from fedlora.adapters import adapter_content
from fedlora.api_client import DEFAULT_URL, GatewayClient
from fedlora.console import emit_json, out, say, table
from fedlora.faults import EXIT_TROUBLE
from fedlora.watching import round_lines, watch_job
from shared.job.loading import load_job
from shared.job.schema import job_schema_text

app = typer.Typer(no_args_is_help=True, help="Jobs: check, submit, list, watch, cancel.")

GatewayUrl = Annotated[
    str, typer.Option("--gateway", envvar="FEDLORA_GATEWAY_URL", help="address of the gateway")
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for a program")]
JobFile = Annotated[Path, typer.Argument(help="a job file, YAML")]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="id of a job; see `fedlora job list`")]


@app.command()
def check(file: JobFile, as_json: AsJson = False) -> None:
    """Say every mistake in a job file, with its line and what would work."""
    job = load_job(file)
    if as_json:
        emit_json(job.model_dump(mode="json"))
        return
    privacy, rounds = job.privacy, job.rounds
    say(
        f"{file}: can run. {rounds.count} rounds of {job.training.local_steps} steps, at least "
        f"{rounds.min_clients} clients, epsilon {privacy.epsilon:g} at delta {privacy.delta:g}."
    )


@app.command()
def submit(
    file: JobFile,
    gateway: GatewayUrl = DEFAULT_URL,
    watch: bool = False,
    start: Annotated[
        Path | None, typer.Option(metavar="ADAPTER", help="start from it: an exported folder, or safetensors")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job file; prints the job's id."""
    load_job(file)
    first = b"" if start is None else adapter_content(start)
    with GatewayClient(gateway) as client:
        job_id = client.submit(file.read_bytes(), _user(), first)
        if as_json:
            emit_json({"job_id": job_id})
        else:
            say(job_id)
        if watch:
            _watch(client, job_id)


@app.command("list")
def list_(gateway: GatewayUrl = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List jobs, latest first."""
    with GatewayClient(gateway) as client:
        jobs = client.jobs()
    if as_json:
        emit_json(jobs)
        return
    drawn = table("job", "status", "rounds", "submitted", "reason")
    for job in jobs:
        done = f"{job['rounds_completed']}/{job['rounds_planned']}"
        drawn.add_row(job["job_id"], job["status"], done, (job["submitted_at"] or "")[:19], job["reason"])
    out.print(drawn)


@app.command()
def watch(job_id: JobName, gateway: GatewayUrl = DEFAULT_URL) -> None:
    """Follow a job until it ends: bars on a terminal, lines otherwise."""
    with GatewayClient(gateway) as client:
        _watch(client, job_id)


@app.command()
def show(job_id: JobName, gateway: GatewayUrl = DEFAULT_URL) -> None:
    """Everything the gateway knows of a job, as JSON."""
    with GatewayClient(gateway) as client:
        emit_json(client.job(job_id))


@app.command()
def rounds(job_id: JobName, gateway: GatewayUrl = DEFAULT_URL) -> None:
    """Each round: who is in the update, who was left out, and what a rule measured."""
    with GatewayClient(gateway) as client:
        job = client.job(job_id)
    for one in job["rounds"]:
        for line in round_lines(one):
            say(line)
    if job["waiting"]:
        say(f"the next round waits: {job['waiting']}")


@app.command()
def cancel(
    job_id: JobName, reason: str = "cancelled by an operator", gateway: GatewayUrl = DEFAULT_URL
) -> None:
    """Ask a job to stop; the round in progress is aborted."""
    with GatewayClient(gateway) as client:
        client.cancel(job_id, reason)
    say(f"{job_id}: asked to stop")


@app.command()
def schema() -> None:
    """Print the JSON schema of a job file."""
    print(job_schema_text(), end="")


def _watch(client: GatewayClient, job_id: str) -> None:
    if watch_job(client, job_id) != "completed":
        raise typer.Exit(EXIT_TROUBLE)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a passwd entry
        return ""
