"""From a job to a model that is ready to train on this machine."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from services.client.training.adapted_model import AdaptedModel, adapt
from services.client.training.bases import load_base
from services.client.training.memory import fit
from shared.job.specification import JobSpecification


def build(  # noqa: PLR0913 - a job, and what there is to train on
    job: JobSpecification,
    cache: Path,
    device: torch.device,
    budget: int | None,
    *,
    max_rank: int | None = None,
    start: Mapping[str, NDArray[np.float32]] | None = None,
) -> AdaptedModel:
    """Load the base, wrap it, and choose micro-batches within `budget` bytes (None: what is free); `max_rank`
    and `start` are as in `adapt`.

    Raises: Refused with the setting that is at fault.
    """
    base, tokenizer = load_base(job, cache, device)
    adapted = adapt(base, tokenizer, job, device, max_rank=max_rank, start=start)
    return replace(adapted, batching=fit(adapted, job, budget))
