"""Updates as small integers, for order statistics.

Rounding and clipping never change the order of two values, so that an order statistic of quantised updates
is the quantised order statistic: the median of an odd number of updates, and the mean of those that a trim
keeps, are off by half a step at most where `bound` clips none of them.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Integer = TypeVar("Integer", np.int8, np.int16)


def step(bound: float, dtype: type[Integer]) -> float:
    """The unit of the integers: `bound` is the largest one, 127 or 32767."""
    return bound / int(np.iinfo(dtype).max)


def quantise(update: NDArray[np.float32], bound: float, dtype: type[Integer]) -> NDArray[Integer]:
    """Round each coordinate to the nearest step, clipped to the bound.

    Args:
        update: (d,), finite.
        bound: on a coordinate's magnitude, public, above 0, the same for all updates.
        dtype: int8 or int16.

    Returns: (d,), times `step` in the units of the update.
    """
    steps = np.rint(update / np.float64(step(bound, dtype)))
    largest = int(np.iinfo(dtype).max)
    return steps.clip(-largest, largest).astype(dtype)
