"""Nearest-neighbour mixing: each update becomes the mean of its nearest n - f, before a rule sees it."""

import numpy as np

from shared.core.robust.gram.mixing import Mixing
from shared.core.robust.gram.rule import Matrix, check_gram, minority, squared_distances
from shared.errors import Refused

ASSUMES = (
    "honest updates differ, so that hostile ones could hide among the differences: mixing takes them away"
)

__all__ = ["ASSUMES", "kappa_after", "minority", "nearest_neighbour_mixing"]


def nearest_neighbour_mixing(gram: Matrix, f: int) -> Mixing:
    """Mix client i with its n - f - 1 nearest others; a tie goes to the lower index.

    Raises: Refused unless 0 <= f < n / 2; Rejected when `gram` is no Gram matrix.
    Source: Allouah et al. 2023, AISTATS ("Fixing by mixing"), NNM.
    """
    check_gram(gram)
    n = len(gram)
    if not 0 <= f <= minority(n):
        raise Refused("aggregation.mixing", f"{f} hostile of {n}", f"give 0 to {minority(n)}")
    between = squared_distances(gram)
    np.fill_diagonal(between, -1)  # a client is in its own mixture even when others are its copies
    farthest = np.partition(between, n - f - 1, axis=1)[:, n - f - 1, None]
    nearer, tied = between < farthest, between == farthest
    room = n - f - nearer.sum(axis=1, keepdims=True)
    matrix = (nearer | (tied & (tied.cumsum(axis=1) <= room))) / (n - f)
    return Mixing(matrix, tuple((i,) for i in range(n)))


def kappa_after(kappa: float, n: int, f: int) -> float:
    """8f / (n - f) (kappa + 1), of a rule with `kappa` that follows.

    Source: Allouah et al. 2023, AISTATS ("Fixing by mixing").
    """
    return 8 * f / (n - f) * (kappa + 1)
