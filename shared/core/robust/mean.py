"""The plain mean over all groups: every unit of weight counts the same."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def mean(totals: Sequence[NDArray[np.float64]], weights: Sequence[float]) -> NDArray[np.float32]:
    """The weighted mean of updates.

    Args:
        totals: (d,) each, one group's sum of weighted updates.
        weights: of each group.

    Returns: (d,), rounded once, to float32.
    """
    whole = totals[0] if len(totals) == 1 else np.sum(totals, axis=0)
    with np.errstate(over="ignore"):  # whoever publishes it looks for infinities
        return np.asarray(whole / sum(weights), dtype=np.float32)
