"""What a step's clipped sum must be: each record by itself, in a batch of its own."""

import copy
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from services.client.data.tokens import TokenRecord
from services.client.training.adapted_model import AdaptedModel
from services.client.training.clipping import Clipping
from services.client.training.step import gradients
from shared.job.specification import Task


def clipped_sum(
    adapted: AdaptedModel, records: Iterable[TokenRecord], clipping: Clipping, task: Task
) -> NDArray[np.float64]:
    """(d,) over all trained tensors laid end to end, in float64; `clipping` learns nothing of the records."""
    total = np.zeros(sum(parameter.numel() for parameter in adapted.trained.values()))
    for record in records:
        total += _clipped(adapted, record, copy.copy(clipping), task)
    return total


def _clipped(
    adapted: AdaptedModel, record: TokenRecord, clipping: Clipping, task: Task
) -> NDArray[np.float64]:
    (batch,) = adapted.batching.split([record])
    gradients(adapted, batch, task)
    found = []
    for parameter in adapted.trained.values():
        found.append(parameter.grad_sample[0])  # type: ignore[attr-defined] # Opacus' name
        parameter.grad_sample = None  # type: ignore[attr-defined] # as above
    norms = torch.stack([gradient.norm() for gradient in found]).unsqueeze(1)
    if not bool(norms.isfinite().all()):
        found, norms = [torch.zeros_like(gradient) for gradient in found], torch.zeros_like(norms)
    factors = clipping.factors(norms)[:, 0]
    flat = torch.cat([(factor * gradient).flatten() for factor, gradient in zip(factors, found, strict=True)])
    return np.asarray(flat.cpu().double().numpy(), np.float64)
