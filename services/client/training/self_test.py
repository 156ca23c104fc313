"""What is checked on each client before its first private step: cheap, always on."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from services.client.data.tokens import TokenRecord
from services.client.training.adapted_model import AdaptedModel
from services.client.training.batching import MicroBatch, together
from services.client.training.noise import KeyStream
from services.client.training.step import gradients, losses
from shared.core.noise import Skellam
from shared.errors import Refused
from shared.job.specification import Task

PROBE_RECORDS = 3
TOLERANCE = 1e-3  # relative to the largest gradient
NOISE_DRAWS = 100_000
UNIT_STEPS = 50  # standard deviation of integers that stands for 1


def check_gradients(adapted: AdaptedModel, records: Sequence[TokenRecord], task: Task) -> None:
    """Gradients of a batch's records equal those of single passes by plain autograd; in batches of
    fixed shape not one bit of them depends on the neighbours.

    An adapter begins with factors of zero, beside which another factor has no gradient to look at: for the
    time of the test they are small public numbers.

    Raises: Refused when they differ: the model mixes records, and no clipping would be sound.
    """
    with _nowhere_zero(adapted):
        _check_gradients(adapted, records, task)


@contextmanager
def _nowhere_zero(adapted: AdaptedModel) -> Iterator[None]:
    kept = {name: p.detach().clone() for name, p in adapted.parameters.items() if not p.any()}
    with torch.no_grad():
        for name in kept:
            parameter = adapted.parameters[name]
            steps = torch.arange(parameter.numel(), device=parameter.device, dtype=torch.float32)
            parameter.copy_(0.05 * torch.cos(steps).reshape(parameter.shape))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, values in kept.items():
                adapted.parameters[name].copy_(values)


def _check_gradients(adapted: AdaptedModel, records: Sequence[TokenRecord], task: Task) -> None:
    some = adapted.batching.split(records[: 8 * PROBE_RECORDS])
    first = max(some, key=lambda batch: len(batch.records))
    probe = first.records[:PROBE_RECORDS]

    def batch_of(*these: TokenRecord) -> MicroBatch:
        return replace(first, records=these) if first.fixed_shape else together(these)

    found = _per_record(adapted, batch_of(*probe), task)
    singles = [batch_of(record) for record in probe]
    if first.fixed_shape:
        _expect_equal_bits(adapted, singles, found, task)
    alone = torch.stack([_single_pass(adapted, single, task) for single in singles])
    scale = alone.abs().max().clamp(min=1e-12)
    if float((found - alone).abs().max() / scale) > TOLERANCE:
        raise Refused(
            "model.base", "its per-record gradients depend on the other records", "name another model"
        )


def check_noise(stream: KeyStream) -> None:
    """The variance of 1e5 draws, real and whole, lies within 5 standard errors of 1. Raises: Refused."""
    whole = Skellam(UNIT_STEPS**2).add(np.zeros(NOISE_DRAWS, np.int64), stream) / UNIT_STEPS
    for kind, drawn in (("", stream.gaussian(NOISE_DRAWS, 1.0)), (" of integers", whole)):
        variance = float(np.var(drawn))
        if abs(variance - 1.0) > 5 * np.sqrt(2.0 / NOISE_DRAWS):
            reason = f"the noise source{kind} has variance {variance:.3f}, not 1"
            raise Refused("worker", reason, "do not train here")


def _expect_equal_bits(
    adapted: AdaptedModel, singles: Sequence[MicroBatch], found: torch.Tensor, task: Task
) -> None:
    for single, beside_others in zip(singles, found, strict=True):
        if not torch.equal(_per_record(adapted, single, task)[0], beside_others):
            raise Refused(
                "model.dtype",
                "on this machine rounding makes a record's gradient depend on the others of its batch",
                "set model.dtype: float32 and model.quantisation: none",
            )


def _per_record(adapted: AdaptedModel, batch: MicroBatch, task: Task) -> torch.Tensor:
    """(B, d) by the function that training uses."""
    gradients(adapted, batch, task)
    flat = torch.cat([p.grad_sample.flatten(1) for p in adapted.trained.values()], dim=1)  # type: ignore[attr-defined] # Opacus' name
    for parameter in adapted.trained.values():
        parameter.grad_sample = None  # type: ignore[attr-defined] # Opacus' name
    return flat.detach()


def _single_pass(adapted: AdaptedModel, single: MicroBatch, task: Task) -> torch.Tensor:
    """(d,) by autograd, one record in a pass of its own."""
    parameters = list(adapted.trained.values())
    found = torch.autograd.grad(losses(adapted, single, task).sum(), parameters)
    return torch.cat([gradient.flatten().float() for gradient in found])
