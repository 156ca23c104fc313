"""From a rule's weights to the integers of a selection."""

import numpy as np
from numpy.typing import NDArray

from shared.core.secagg.mpc3.selection import Selection
from shared.errors import Rejected

ALIKE = 1e-9  # weights that differ by less, of the largest, are meant to be equal


def select(survivors_digest: bytes, weights: NDArray[np.float64], largest: int) -> tuple[Selection, float]:
    """Integers in proportion to `weights`, each off by at most half of 1 / `largest` of the largest weight.

    Where all weights that are not 0 are equal, they are 1. The unit is the integer that most updates have, so
    that few have to be delivered again.

    Args:
        survivors_digest: of the frozen set.
        weights: (n,) of the survivors in their order, not negative.
        largest: integer.

    Returns: the selection, and what 1 of its integers counts.
    Raises: Rejected when no weight is above 0.
    """
    most = float(weights.max(initial=0.0))
    if not most > 0:
        raise Rejected("no update has a weight")
    equal = bool((weights[weights > 0] >= most * (1 - ALIKE)).all())
    scale = 1 if equal else largest
    integers = np.rint(weights / most * scale).astype(np.int64)
    values, counts = np.unique(integers[integers > 0], return_counts=True)
    unit = int(values[np.argmax(counts)])
    return Selection(survivors_digest, unit, tuple(int(value) for value in integers)), most / scale
