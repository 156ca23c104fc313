"""`fedlora personalise`: an adapter of the federation, trained on at home, for the data's owner alone."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from fedlora.adapters import new_folder, require_adapter, run_in_worker
from fedlora.console import emit_json, say
from fedlora.faults import Fault
from fedlora.jobs import AsJson
from fedlora.workers import check_data
from shared.job.loading import load_job
from shared.job.specification import Task


class Target(StrEnum):
    """What is trained: the classifier alone, or all that the adapter holds."""

    HEAD = "head"
    ADAPTER = "adapter"


def personalise(  # noqa: PLR0913, PLR0917 - each is an option of the command
    file: Annotated[Path, typer.Argument(help="the job file, for its base model and columns")],
    data: Annotated[Path, typer.Option(help="your records; they and what comes of them stay here")],
    adapter: Annotated[Path, typer.Option(help="a folder that `fedlora export` wrote")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="a folder that is made")],
    steps: Annotated[int, typer.Option(min=1, help="of 32 records each")] = 100,
    learning_rate: Annotated[float, typer.Option(min=1e-9, help="of AdamW")] = 1e-3,
    target: Annotated[
        Target | None, typer.Option(help="default: a classifier's head, a language model's adapter")
    ] = None,
    holdout: Annotated[float, typer.Option(min=0.01, max=0.9, help="share that is not trained on")] = 0.2,
    as_json: AsJson = False,
) -> None:
    """Train a personal head or adapter at home, without privacy: for you alone, never to be published."""
    job = load_job(file)
    records = check_data(data)
    require_adapter(adapter)
    new_folder(out)
    usual = Target.ADAPTER if job.model.task is Task.CAUSAL_LM else Target.HEAD
    if target is Target.HEAD and usual is not Target.HEAD:
        raise Fault("a language model has no head of its own", "use --target adapter")
    found = run_in_worker(
        "services.client.training.personalising",
        *("--job", file, "--data", records, "--adapter", adapter, "--out", out),
        *("--target", (target or usual).value, "--steps", str(steps)),
        *("--learning-rate", str(learning_rate), "--holdout", str(holdout)),
        timeout_s=None,
    )
    if as_json:
        emit_json({**found, "out": str(out)})
    else:
        _say(found, out)


def _say(found: dict[str, Any], out: Path) -> None:
    before, after = found["before"], found["after"]
    for metric in before:
        say(f"{metric} {before[metric]:.4g} before, {after[metric]:.4g} after")
    say(f"on {found['held_out']} records held out; {found['trained_on']} were trained on")
    if found["kept"] == "before":
        say("it got no better by loss: the federation's adapter is kept, unchanged")
    say(f"{out}: PRIVATE, for you alone; do not publish or upload")
