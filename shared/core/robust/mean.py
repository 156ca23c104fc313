"""The plain mean: every client in the sum has the same weight."""

import numpy as np
from numpy.typing import NDArray


def mean(total: NDArray[np.float64], count: int) -> NDArray[np.float32]:
    """The mean of `count` updates whose sum is `total`, (d,); rounded once, to float32."""
    return np.asarray(total / count, dtype=np.float32)
