"""`python -m services.client.training.personalising`: an adapter of the federation, trained on at home.

Plain training, without clipping and noise: what comes out is for the owner of the records alone.
"""

import argparse
import json
import math
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import nn

from services.client.command_line import parser, print_json
from services.client.data import TokenRecord, read_records, tokenise
from services.client.evaluating import HoldOut
from services.client.models import default_cache
from services.client.private import WARNING, mark
from services.client.training.bases import choose_device, load_base
from services.client.training.batching import Batching
from services.client.training.evaluating import content, trained_on
from services.client.training.forward import per_record_losses
from services.client.training.measuring import Measured, measure_model
from services.client.training.merging import load_adapter
from shared.core.lora import write_peft_adapter
from shared.core.lora.files import BASE_CHANGE_FILE, CONFIG_FILE
from shared.errors import Refused
from shared.job.loading import load_job
from shared.job.specification import JobSpecification, Task

KEY = b"fedlora/personal/v1"
BATCH = 32
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Training:
    """How the owner trains.

    Attributes:
        target: "head", the classifier alone, or "adapter", all that the federation's adapter holds.
        steps: of AdamW, on `BATCH` records each.
        learning_rate: of AdamW.
        holdout: share of the records that measures and is not trained on.
    """

    target: str
    steps: int
    learning_rate: float
    holdout: float


@dataclass(frozen=True)
class Personal:
    """What came of it.

    Attributes:
        kept: "after", or "before", the federation's adapter, where the hold-out's loss got no lower.
        target: what was trained.
        trained_on: records.
        held_out: records.
        before: "loss" in nats a record (of a language model: a token), and "accuracy" or "perplexity".
        after: the same, once trained.
    """

    kept: str
    target: str
    trained_on: int
    held_out: int
    before: Mapping[str, float]
    after: Mapping[str, float]


def personalise(
    model: PeftModel, records: Sequence[TokenRecord], task: Task, padding: int, training: Training
) -> Personal:
    """Train `model` on the records that are not held out; it is left as the better of before and after.

    Better is a lower loss on the hold-out. A record is held out by a hash of its content: the same ones each
    time, and equal records on one side. Dropout is off.

    Raises: Refused where nothing can be trained, nothing is held out, or the loss is lost.
    """
    hold_out = HoldOut(KEY, training.holdout)
    learnt = trained_on(records, hold_out)
    held = [record for record in records if hold_out.holds(content(record))]
    if not learnt or not held:
        raise Refused(
            "data",
            f"of {len(records)} records {len(held)} are held out, and each side needs one",
            "give more records or another --holdout",
        )
    moving = _moving(model, training.target)
    first = {name: parameter.detach().clone() for name, parameter in moving.items()}
    before = _figures(measure_model(model, held, task, padding), task)
    _train(model, moving, learnt, task, padding, training)
    after = _figures(measure_model(model, held, task, padding), task)
    kept = "after" if after["loss"] < before["loss"] else "before"
    if kept == "before":
        with torch.no_grad():
            for name, parameter in moving.items():
                parameter.copy_(first[name])
    return Personal(kept, training.target, len(learnt), len(held), before, after)


def _moving(model: PeftModel, target: str) -> dict[str, nn.Parameter]:
    """Freezes what is not the target's. Raises: Refused where there is no head."""
    moving = {}
    for name, parameter in model.named_parameters():
        head = ".modules_to_save." in name
        parameter.requires_grad_(head or (target == "adapter" and ".lora_" in name))
        if parameter.requires_grad:
            moving[name] = parameter
    if not moving:
        raise Refused("target", f"the adapter has no {target}", "use the other --target")
    return moving


def _train(  # noqa: PLR0913, PLR0917 - what is trained, on what, and how
    model: PeftModel,
    moving: Mapping[str, nn.Parameter],
    records: Sequence[TokenRecord],
    task: Task,
    padding: int,
    training: Training,
) -> None:
    """Raises: Refused when the loss is no number any more."""
    optimizer = torch.optim.AdamW(moving.values(), lr=training.learning_rate, weight_decay=0.0)
    batches = _batches(records)
    for _ in range(training.steps):
        chosen, total = next(batches), 0.0
        optimizer.zero_grad(set_to_none=True)
        for batch in Batching().split(chosen):
            loss = per_record_losses(model, batch, task, padding, model.device).sum() / len(chosen)
            loss.backward()  # type: ignore[no-untyped-call] # torch's
            total += float(loss.detach())
        if not math.isfinite(total):
            raise Refused("learning_rate", "the loss is no number any more", "lower --learning-rate")
        optimizer.step()


def _batches(records: Sequence[TokenRecord]) -> Iterator[Sequence[TokenRecord]]:
    """`BATCH` at a time, each pass in another order, which the records' hashes decide."""
    number = 0
    while True:
        order = HoldOut(KEY + number.to_bytes(8, "big"), 0.0)
        shuffled = sorted(records, key=lambda record: order.lot(content(record)))
        for start in range(0, len(shuffled), BATCH):
            yield shuffled[start : start + BATCH]
        number += 1


def _figures(measured: Measured, task: Task) -> dict[str, float]:
    loss = measured.loss / max(measured.positions, 1)
    if not math.isfinite(loss):
        raise Refused("learning_rate", "the hold-out's loss is no number", "lower --learning-rate")
    if task is Task.CAUSAL_LM:
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
    return {"loss": loss, "accuracy": measured.correct / measured.positions}


def write(model: PeftModel, adapter: Path, out: Path, found: Personal, job: JobSpecification) -> None:
    """A PEFT folder in the federation's layout, marked before a tensor is in it."""
    mark(out)
    (out / "README.md").write_text(_readme(found, job), encoding="utf-8")
    if (adapter / BASE_CHANGE_FILE).exists():
        shutil.copyfile(adapter / BASE_CHANGE_FILE, out / BASE_CHANGE_FILE)
    state: Tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    config = json.loads((adapter / CONFIG_FILE).read_text(encoding="utf-8"))
    write_peft_adapter(
        out, config, {name: tensor.detach().float().cpu().numpy() for name, tensor in state.items()}
    )


def _readme(found: Personal, job: JobSpecification) -> str:
    metric = "perplexity" if "perplexity" in found.before else "accuracy"
    outcome = (
        f"Its {found.target} was trained on {found.trained_on} records."
        if found.kept == "after"
        else "Training made the hold-out's loss no lower: this is the federation's adapter, unchanged."
    )
    return f"""{WARNING}

# {job.name}, personal

{outcome} What it answers to others tells them of those records too.

| {found.held_out} records held out | before | after training |
|---|---|---|
| loss | {found.before["loss"]:.4f} | {found.after["loss"]:.4f} |
| {metric} | {found.before[metric]:.4f} | {found.after[metric]:.4f} |

The better by loss was kept. If the federation trained on records that are held out here, "before" is too
good.
"""


def run(job_file: Path, data: Path, adapter: Path, out: Path, training: Training) -> dict[str, Any]:
    """Train and write; a classifier in float32 whatever the job says, since its head is in the base's type.

    Raises: Refused, DataError.
    """
    job = load_job(job_file)
    if job.model.task is Task.SEQUENCE_CLASSIFICATION:
        job = job.model_copy(update={"model": job.model.model_copy(update={"dtype": "float32"})})
    read, _ = read_records(data, job.data, job.model)
    base, tokenizer = load_base(job, default_cache(), choose_device())
    model = load_adapter(base, adapter, trainable=True).to(base.device)
    records = tokenise(read, tokenizer, job)
    found = personalise(model, records, job.model.task, tokenizer.pad_token_id, training)
    write(model, adapter, out, found, job)
    return asdict(found)


def main() -> int:
    """The entry point."""
    given = _arguments()
    training = Training(given.target, given.steps, given.learning_rate, given.holdout)
    return print_json(lambda: run(given.job, given.data, given.adapter, given.out, training), 2)


def _arguments() -> argparse.Namespace:
    made = parser("services.client.training.personalising", "the owner's records")
    made.add_argument("--adapter", type=Path, required=True, help="a folder that `fedlora export` wrote")
    made.add_argument("--out", type=Path, required=True, help="a folder that is made")
    made.add_argument("--target", choices=("head", "adapter"), required=True)
    made.add_argument("--steps", type=int, required=True)
    made.add_argument("--learning-rate", type=float, required=True)
    made.add_argument("--holdout", type=float, required=True)
    return made.parse_args()


if __name__ == "__main__":
    sys.exit(main())
