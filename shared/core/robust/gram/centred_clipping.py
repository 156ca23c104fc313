"""Centred clipping: from a starting point, the mean of steps to all updates, none longer than a radius."""

import numpy as np

from shared.core.robust.gram.centre import centre
from shared.core.robust.gram.rule import Finding, Matrix, Vector, Weighing, distances_to, minority

ASSUMES = (
    "honest clients are a majority; what hostile ones can do is known for up to a tenth of all clients, with "
    "a radius that fits and a start near the honest mean"
)
STEPS = 5

__all__ = ["ASSUMES", "centred_clipping", "clip_to_centre", "minority"]


def centred_clipping(gram: Matrix, _: int) -> Weighing:
    """Start at the client in the middle, with the distance of its nearest majority as the radius; 5 steps.

    A client whose last step was cut has a finding.

    Source: Karimireddy et al. 2021, ICML. There the start is the last aggregate, which is not
    among the updates; the radius is a setting.
    """
    client, radius = centre(gram)
    start = np.zeros(len(gram))
    start[client] = 1
    return clip_to_centre(gram, start, radius, STEPS)


def clip_to_centre(gram: Matrix, start: Vector, radius: float, steps: int) -> Weighing:
    """Go `steps` steps.

    Args:
        gram: (n, n).
        start: (n,), the starting point as weights of the updates; zeros start at 0.
        radius: at least 0, in units of the updates.
        steps: at least 1.
    """
    weights = start
    for _ in range(steps):
        distances = distances_to(gram, weights)
        kept = np.divide(radius, distances, out=np.ones_like(distances), where=distances > radius)
        weights = weights * (1 - kept.mean()) + kept / len(gram)
    cut = np.flatnonzero(kept < 1)
    return Weighing(weights, tuple(Finding(int(i), "distance", float(distances[i]), radius) for i in cut))
