"""Krum: the one update that is nearest to its nearest n - f."""

import numpy as np

from shared.core.robust.gram.rule import (
    Finding,
    Indices,
    Matrix,
    Vector,
    Weighing,
    smallest,
    squared_distances,
)

ASSUMES = (
    "honest updates lie closer to each other than hostile ones lie to them; one client's data speaks for all"
)


def krum(gram: Matrix, f: int) -> Weighing:
    """Weigh the client with the lowest score 1, the others 0; a tie goes to the lower index.

    Source: Blanchard et al. 2017, NeurIPS, Section 4, with n - f - 1 neighbours in place of n - f - 2, which
    is what ByzFL does and what `kappa` needs.
    """
    scores = krum_scores(gram, f)
    return weigh_equally(smallest(scores, 1), scores)


def krum_scores(gram: Matrix, f: int) -> Vector:
    """(n,): the root of the mean squared distance to the n - f - 1 nearest others, in units of the updates.

    A root, because rows that rank by their squares rank the same by them.
    """
    count = len(gram) - f - 1
    if count == 0:
        return np.zeros(len(gram))
    between = np.sort(squared_distances(gram), axis=1)
    # Summed in order of size, so that equal neighbourhoods have equal scores.
    return np.asarray(np.sqrt(between[:, : count + 1].sum(axis=1) / count))


def weigh_equally(chosen: Indices, scores: Vector) -> Weighing:
    """Give each chosen client the same weight, and each other one a finding with its score."""
    weights = np.zeros(len(scores))
    weights[chosen] = 1 / len(chosen)
    limit = float(scores[chosen].max())
    return Weighing(
        weights,
        tuple(Finding(int(i), "distance", float(scores[i]), limit) for i in np.flatnonzero(weights == 0)),
    )


def largest_f(n: int) -> int:
    """The largest f with 2f + 2 < n, which the resilience that Blanchard et al. 2017 show needs."""
    return max(0, (n - 3) // 2)


def kappa(n: int, f: int) -> float:
    """6 (1 + f / (n - 2f)).

    Source: Allouah et al. 2023, AISTATS ("Fixing by mixing"). Of n - f rows S, with mean mu and mean squared
    deviation v, the chosen row i scores at most what the mean row of S does over S, 2 (n - f) v in sum, and
    n - 2f of its neighbours are in S: (n - 2f) / 2 ||x_i - mu||^2 - (n - f) v <= 2 (n - f) v.
    """
    return 6 * (1 + f / (n - 2 * f))
