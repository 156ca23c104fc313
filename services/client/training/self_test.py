"""What is checked on each client before its first private step: cheap, always on."""

from collections.abc import Sequence

import numpy as np
import torch

from services.client.data.tokens import TokenRecord
from services.client.training.adapted_model import AdaptedModel
from services.client.training.noise import KeyStream
from services.client.training.per_record import per_record_gradients
from services.client.training.step import losses
from shared.errors import Refused
from shared.job.specification import Task

PROBE_RECORDS = 3
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25}  # relative to the largest gradient
NOISE_DRAWS = 100_000


def check_gradients(adapted: AdaptedModel, records: Sequence[TokenRecord], task: Task) -> None:
    """Per-record gradients of a batch equal those of single passes.

    Raises: Refused when they differ: the model mixes records, and no clipping would be sound.
    """
    probe = list(records[:PROBE_RECORDS])
    together = _gradients(adapted, probe, task)
    alone = torch.cat([_gradients(adapted, [record], task) for record in probe])
    scale = alone.abs().max().clamp(min=1e-12)
    base_dtype = next(p.dtype for p in adapted.model.parameters() if not p.requires_grad)
    if float((together - alone).abs().max() / scale) > TOLERANCE.get(base_dtype, TOLERANCE[torch.bfloat16]):
        raise Refused(
            "model.base", "its per-record gradients depend on the other records", "name another model"
        )


def check_noise(stream: KeyStream) -> None:
    """The sample variance of 1e5 draws lies within 5 standard errors of 1. Raises: Refused."""
    variance = float(np.var(stream.gaussian(NOISE_DRAWS, 1.0)))
    if abs(variance - 1.0) > 5 * np.sqrt(2.0 / NOISE_DRAWS):
        raise Refused("worker", f"the noise source has variance {variance:.3f}, not 1", "do not train here")


def _gradients(adapted: AdaptedModel, records: Sequence[TokenRecord], task: Task) -> torch.Tensor:
    """(B, d)."""
    parameters = [p for p in adapted.parameters.values() if p.requires_grad]
    with per_record_gradients(adapted.trained_layers):
        losses(adapted, records, task).sum().backward()  # type: ignore[no-untyped-call] # torch's
    flat = torch.cat([p.grad_sample.flatten(1) for p in parameters], dim=1)  # type: ignore[attr-defined] # Opacus' name
    for parameter in parameters:
        parameter.grad_sample = None  # type: ignore[attr-defined] # Opacus' name
    return flat.detach()
