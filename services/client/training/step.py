"""One DP-SGD step: a Poisson sample, its clipped sum in micro-batches, noise, the optimiser's move; or the
sum alone, for a session that adds the noise."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from services.client.data.tokens import TokenRecord
from services.client.trainer import Cancelled
from services.client.training.adapted_model import AdaptedModel
from services.client.training.batching import MicroBatch
from services.client.training.clipping import Clipping, clipped_sums
from services.client.training.forward import per_record_losses
from services.client.training.optimizer import SecureDPOptimizer
from services.client.training.per_record import per_record_gradients
from shared.errors import Refused
from shared.job.specification import Task


def losses(adapted: AdaptedModel, batch: MicroBatch, task: Task) -> torch.Tensor:
    """(rows,) losses of `batch`, each record by itself."""
    padding: int = adapted.tokenizer.pad_token_id
    return per_record_losses(adapted.model, batch, task, padding, adapted.device)


def gradients(adapted: AdaptedModel, batch: MicroBatch, task: Task) -> None:
    """Leave (B, *shape) gradients of the B records in each trained tensor's `grad_sample`.

    Raises: Refused naming a layer that does not see the records apart.
    """
    for parameter in adapted.trained.values():
        parameter.grad_sample = None  # type: ignore[attr-defined] # Opacus' name
    with per_record_gradients(adapted.trained_layers, batch.rows):
        losses(adapted, batch, task).sum().backward()  # type: ignore[no-untyped-call] # torch's
    for name, parameter in adapted.trained.items():
        found = getattr(parameter, "grad_sample", None)
        if found is None:
            raise Refused("lora.target_modules", f"{name} got no gradient", "leave it out")
        parameter.grad_sample = found[: len(batch.records)]  # type: ignore[attr-defined] # Opacus' name


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
    optimizer.zero_grad(set_to_none=True)
    batches = list(adapted.batching.split(sample))
    for number, batch in enumerate(batches):
        if cancelled():
            raise Cancelled("the round is over")
        gradients(adapted, batch, task)
        optimizer.signal_skip_step(do_skip=number + 1 < len(batches))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if not batches:
        for parameter in adapted.trained.values():
            parameter.grad_sample = torch.zeros((0, *parameter.shape), device=parameter.device)  # type: ignore[attr-defined] # Opacus' name
        optimizer.signal_skip_step(do_skip=False)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def clipped_sum(
    adapted: AdaptedModel,
    clipping: Clipping,
    sample: Sequence[TokenRecord],
    task: Task,
    cancelled: Callable[[], bool],
) -> dict[str, NDArray[np.float64]]:
    """The sum over the sample of its records' clipped gradients, by trained tensor; **without noise**.

    Raises: Cancelled between micro-batches.
    """
    total = {name: np.zeros(tuple(parameter.shape)) for name, parameter in adapted.trained.items()}
    for batch in adapted.batching.split(sample):
        if cancelled():
            raise Cancelled("the round is over")
        gradients(adapted, batch, task)
        found = [p.grad_sample for p in adapted.trained.values()]  # type: ignore[attr-defined] # Opacus' name
        for name, part in zip(total, clipped_sums(found, clipping), strict=True):
            total[name] += part.detach().cpu().double().numpy()
    for parameter in adapted.trained.values():
        parameter.grad_sample = parameter.grad = None  # type: ignore[attr-defined] # Opacus' name
    return total
