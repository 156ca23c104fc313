"""Loss and hits of a model on held-out records, without gradients."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from services.client.data import Record, TokenRecord, tokenise
from services.client.training.bases import choose_device, load_base
from services.client.training.batching import Batching, padded
from services.client.training.forward import causal_lm_losses, learnt_logits
from services.client.training.merging import load_adapter
from shared.job.specification import JobSpecification, Task


@dataclass(frozen=True)
class Measured:
    """Sums over all records.

    Attributes:
        loss: negative log-likelihood in nats, over all learnt positions.
        positions: how many there are; one for each record of a classifier.
        correct: records whose class has the largest logit; 0 for a language model.
    """

    loss: float
    positions: int
    correct: int


def measure(job: JobSpecification, records: Sequence[Record], adapter: Path | None, cache: Path) -> Measured:
    """Run `records` through the base model, wrapped by the PEFT folder `adapter` if there is one.

    Raises: Refused when model or adapter cannot be loaded.
    """
    device = choose_device()
    model, tokenizer = load_base(job, cache, device)
    if adapter is not None:
        model = load_adapter(model, adapter).to(device)
    return measure_model(model, tokenise(records, tokenizer, job), job.model.task, tokenizer.pad_token_id)


def measure_model(
    model: Any,  # noqa: ANN401 - transformers' models share no public type
    records: Sequence[TokenRecord],
    task: Task,
    padding: int,
) -> Measured:
    """Run `records` through `model`, which is left in evaluation mode."""
    model.eval()
    loss, positions, correct = 0.0, 0, 0
    for batch in Batching().split(records):
        ids, mask, targets = padded(batch, padding, model.device)
        with torch.inference_mode():
            if task is Task.CAUSAL_LM:
                totals, counts = causal_lm_losses(*learnt_logits(model, ids, mask, targets))
                loss, positions = loss + float(totals.sum()), positions + int(counts.sum())
                continue
            logits = model(input_ids=ids, attention_mask=mask).logits.float()
        wanted = targets[:, 0]
        loss += float(functional.cross_entropy(logits, wanted, reduction="sum"))
        positions += len(batch.records)
        correct += int((logits.argmax(dim=1) == wanted).sum())
    return Measured(loss, positions, correct)
