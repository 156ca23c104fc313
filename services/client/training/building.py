"""From a job to a model that is ready to train on this machine."""

from dataclasses import replace
from pathlib import Path

import torch

from services.client.training.adapted_model import AdaptedModel, adapt
from services.client.training.bases import load_base
from services.client.training.memory import fit
from shared.job.specification import JobSpecification


def build(job: JobSpecification, cache: Path, device: torch.device, budget: int | None) -> AdaptedModel:
    """Load the base, wrap it, and choose micro-batches within `budget` bytes (None: what is free).

    Raises: Refused with the setting that is at fault.
    """
    base, tokenizer = load_base(job, cache, device)
    adapted = adapt(base, tokenizer, job, device)
    return replace(adapted, batching=fit(adapted, job, budget))
