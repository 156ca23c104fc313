"""The geometric median: the point with the smallest sum of distances to all updates."""

import numpy as np
from numpy.typing import NDArray

from shared.core.robust.gram.centre import centre
from shared.core.robust.gram.rule import (
    Finding,
    Matrix,
    Vector,
    Weighing,
    distances_to,
    minority,
    squared_distances,
)

ASSUMES = "honest clients are a majority; every client keeps some weight, the less the farther it is"
SMOOTHING = 1e-6  # of the scale that `centre` finds: a distance below it counts as it
STEPS = 200
CONVERGED = 1e-10  # summed change of the weights in one step

__all__ = ["ASSUMES", "geometric_median", "kappa", "minority", "weiszfeld"]


def geometric_median(gram: Matrix, _: int) -> Weighing:
    """Weigh clients as Weiszfeld's method does once it stands still, or after 200 steps, from the mean on.

    A client with less than half the mean weight has a finding: its distance is above twice the harmonic mean.

    Source: Pillutla et al. 2022, IEEE TSP (RFA, the smoothed Weiszfeld method).
    """
    n = len(gram)
    middle = centre(gram)
    floor = SMOOTHING * middle.radius
    if floor == 0:  # at least half of the clients sent one and the same update, which then is a median
        distances = np.sqrt(squared_distances(gram)[middle.client])
        alike = distances == 0
        return Weighing(alike / alike.sum(), _far(distances, ~alike, 0.0))
    weights = weiszfeld(gram, np.full(n, 1 / n), floor, STEPS)
    distances = distances_to(gram, weights)
    limit = 2 * n / float(np.sum(1 / np.maximum(distances, floor)))
    return Weighing(weights, _far(distances, weights < 0.5 / n, limit))


def _far(distances: Vector, chosen: NDArray[np.bool_], limit: float) -> tuple[Finding, ...]:
    return tuple(Finding(int(i), "distance", float(distances[i]), limit) for i in np.flatnonzero(chosen))


def weiszfeld(gram: Matrix, start: Vector, smoothing: float, steps: int) -> Vector:
    """(n,): weights after at most `steps` steps from the point that `start` weighs.

    Args:
        gram: (n, n).
        start: (n,); zeros start at 0.
        smoothing: above 0, in units of the updates; a shorter distance counts as it.
        steps: at least 0.
    """
    weights = start
    for _ in range(steps):
        pulls = 1 / np.maximum(distances_to(gram, weights), smoothing)
        pulls /= pulls.sum()
        still = np.abs(pulls - weights).sum() <= CONVERGED
        weights = pulls
        if still:
            break
    return weights


def kappa(n: int, f: int) -> float:
    """4 (1 + f / (n - 2f))^2, of the exact median.

    Source: Allouah et al. 2023, AISTATS ("Fixing by mixing").
    """
    return 4 * (1 + f / (n - 2 * f)) ** 2
