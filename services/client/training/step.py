"""One DP-SGD step: a Poisson sample, its clipped sum in micro-batches, noise, the optimiser's move."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from services.client.data.tokens import IGNORED, TokenRecord
from services.client.trainer import Cancelled
from services.client.training.adapted_model import AdaptedModel
from services.client.training.loss import causal_lm_losses, classification_losses
from services.client.training.optimizer import SecureDPOptimizer
from services.client.training.per_record import per_record_gradients
from shared.job.specification import Task

MICRO_BATCH_TOKENS = 2048  # padded; bounds activation memory, changes no result


def per_record_losses(adapted: AdaptedModel, records: Sequence[TokenRecord], task: Task) -> torch.Tensor:
    """(B,) losses of `records`, each by itself."""
    ids, mask, targets = _padded(records, adapted, task)
    logits = adapted.model(input_ids=ids, attention_mask=mask).logits
    return (
        classification_losses(logits, targets)
        if task is not Task.CAUSAL_LM
        else causal_lm_losses(logits, targets)
    )


def micro_batches(records: Sequence[TokenRecord]) -> Iterator[list[TokenRecord]]:
    """Records of similar length together, each batch within MICRO_BATCH_TOKENS when padded."""
    batch: list[TokenRecord] = []
    for record in sorted(records, key=lambda r: len(r.ids)):
        if batch and (len(batch) + 1) * len(record.ids) > MICRO_BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(record)
    if batch:
        yield batch


def private_step(
    adapted: AdaptedModel,
    optimizer: SecureDPOptimizer,
    sample: Sequence[TokenRecord],
    task: Task,
    cancelled: Callable[[], bool],
) -> None:
    """Move the trainable tensors once. An empty sample still moves them, by noise alone.

    Raises: Cancelled between micro-batches; then nothing has moved.
    """
    parameters: list[nn.Parameter] = [p for p in adapted.parameters.values() if p.requires_grad]
    optimizer.zero_grad(set_to_none=True)
    batches = list(micro_batches(sample))
    for number, batch in enumerate(batches):
        if cancelled():
            raise Cancelled("the round is over")
        with per_record_gradients(adapted.trained_layers):
            per_record_losses(adapted, batch, task).sum().backward()  # type: ignore[no-untyped-call] # torch's
        optimizer.signal_skip_step(do_skip=number + 1 < len(batches))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if not batches:
        for parameter in parameters:
            parameter.grad_sample = torch.zeros((0, *parameter.shape), device=parameter.device)  # type: ignore[attr-defined] # Opacus' name
        optimizer.signal_skip_step(do_skip=False)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _padded(
    records: Sequence[TokenRecord], adapted: AdaptedModel, task: Task
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Right-padded ids and mask, (B, T); targets (B, T), or (B, 1) for classes."""
    longest = max(len(record.ids) for record in records)
    padding: int = adapted.tokenizer.pad_token_id
    ids = [[*r.ids, *[padding] * (longest - len(r.ids))] for r in records]
    mask = [[1] * len(r.ids) + [0] * (longest - len(r.ids)) for r in records]
    targets = (
        [[*r.targets, *[IGNORED] * (longest - len(r.targets))] for r in records]
        if task is Task.CAUSAL_LM
        else [list(r.targets) for r in records]
    )

    def tensor(rows: list[list[int]]) -> torch.Tensor:
        return torch.tensor(rows, dtype=torch.long, device=adapted.device)

    return tensor(ids), tensor(mask), tensor(targets)
