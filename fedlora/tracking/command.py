"""`fedlora track`: follow a job and write its rounds to a tracker."""

import importlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fedlora.api_client import DEFAULT_URL, GatewayClient
from fedlora.console import say
from fedlora.faults import Fault
from fedlora.jobs import GatewayUrl, JobName
from fedlora.tracking.points import Tracker, points_of


class Backend(StrEnum):
    """Where rounds can be written."""

    tensorboard = "tensorboard"
    wandb = "wandb"
    mlflow = "mlflow"


BACKENDS = {
    Backend.tensorboard: ("fedlora.tracking.tensorboard", "TensorBoard"),
    Backend.wandb: ("fedlora.tracking.wandb", "WandB"),
    Backend.mlflow: ("fedlora.tracking.mlflow", "MLflow"),
}


def track(
    job_id: JobName,
    to: Annotated[Backend, typer.Option("--to", help="where the rounds are written")],
    folder: Annotated[Path, typer.Option("--dir", help="folder of what is written here")] = Path("tracking"),
    follow: Annotated[bool, typer.Option(help="go on until the job is over")] = True,
    gateway: GatewayUrl = DEFAULT_URL,
) -> None:
    """Write a job's rounds to TensorBoard, Weights & Biases or MLflow, each round once."""
    with GatewayClient(gateway) as client:
        client.job(job_id)  # an unknown job is said before anything is made
        tracker = open_tracker(to, job_id, folder)
        over = False
        try:
            for _ in client.follow(job_id) if follow else [[]]:
                _write(tracker, client, job_id)
            over = bool(client.job(job_id)["ended_at"])
        finally:
            tracker.close(over)
    say(f"{job_id}: round {tracker.last} is the last that {to} has")


def open_tracker(backend: Backend, job_id: str, folder: Path) -> Tracker:
    """The backend's tracker of the job. Raises: Fault where its extra is not installed."""
    module, name = BACKENDS[backend]
    try:
        tracker: Tracker = getattr(importlib.import_module(module), name)(job_id, folder)
    except ImportError:
        raise Fault(f"{backend} is not installed", f"install fedlora[{backend}]") from None
    return tracker


def _write(tracker: Tracker, client: GatewayClient, job_id: str) -> None:
    for point in points_of(client.job(job_id), tracker.last):
        tracker.write(point)
