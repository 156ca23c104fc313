"""Poisson sampling: each record joins a step with probability q, in secret."""

import numpy as np
from numpy.typing import NDArray

from services.client.training.noise import KeyStream


def poisson_sample(records: int, sampling_rate: float, stream: KeyStream) -> NDArray[np.intp]:
    """Indices of this step's records, possibly none; independent of every other step."""
    return np.flatnonzero(stream.uniform(records) <= sampling_rate)
