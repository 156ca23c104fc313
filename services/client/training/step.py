"""One DP-SGD step: a Poisson sample, its clipped sum in micro-batches, noise, the optimiser's move."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from services.client.data.tokens import TokenRecord
from services.client.trainer import Cancelled
from services.client.training.adapted_model import AdaptedModel
from services.client.training.forward import micro_batches, per_record_losses
from services.client.training.optimizer import SecureDPOptimizer
from services.client.training.per_record import per_record_gradients
from shared.job.specification import Task


def losses(adapted: AdaptedModel, records: Sequence[TokenRecord], task: Task) -> torch.Tensor:
    """(B,) losses of `records`, each by itself."""
    padding: int = adapted.tokenizer.pad_token_id
    return per_record_losses(adapted.model, records, task, padding, adapted.device)


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
            losses(adapted, batch, task).sum().backward()  # type: ignore[no-untyped-call] # torch's
        optimizer.signal_skip_step(do_skip=number + 1 < len(batches))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if not batches:
        for parameter in parameters:
            parameter.grad_sample = torch.zeros((0, *parameter.shape), device=parameter.device)  # type: ignore[attr-defined] # Opacus' name
        optimizer.signal_skip_step(do_skip=False)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
