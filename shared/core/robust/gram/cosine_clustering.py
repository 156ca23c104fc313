"""Cosine clustering: the smallest group with a majority that points one way, shortened to the median norm."""

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from shared.core.robust.gram.norm_clipped_mean import lower_median, shortened
from shared.core.robust.gram.rule import Finding, Matrix, Weighing, cosines, minority, norms

ASSUMES = "honest updates point more alike than hostile ones do to them, which strongly non-IID data breaks"

__all__ = ["ASSUMES", "cosine_clustering", "minority"]


def cosine_clustering(gram: Matrix, _: int) -> Weighing:
    """Weigh the densest cluster with more than n / 2 clients equally, and shorten its long updates.

    Two clients are linked when their cosine is at least c, for the highest c at which more than n / 2 are
    connected. Clients that tie at c are all in. A zero update has cosine 0 to every other.

    Source: Nguyen et al. 2022, USENIX Security (FLAME), without its noise. The
    clustering is what HDBSCAN gives with min_cluster_size = n / 2 + 1, min_samples = 1 and one cluster
    allowed.
    """
    alike = cosines(gram)
    within, cosine = _densest_majority(1 - alike)
    lengths = norms(gram)
    clipped = shortened(within / within.sum(), lengths, lower_median(lengths))
    outside = (
        Finding(int(i), "cosine", float(alike[i, within].max()), cosine) for i in np.flatnonzero(~within)
    )
    return Weighing(
        clipped.weights, tuple(sorted((*clipped.findings, *outside), key=lambda finding: finding.client))
    )


def _densest_majority(between: Matrix) -> tuple[NDArray[np.bool_], float]:
    """Which clients are in it, and the cosine that connects them."""
    n = len(between)
    if n == 1:
        return np.ones(1, np.bool_), 1.0
    between = np.maximum(between, 0)
    np.fill_diagonal(between, 0)
    merges = linkage(squareform((between + between.T) / 2, checks=False), "single")
    height = merges[np.flatnonzero(merges[:, 3] > n / 2)[0], 2]
    labels = fcluster(merges, height, "distance")
    return labels == np.argmax(np.bincount(labels)), float(1 - height)
