"""The mean of updates, none of which is longer than the median one."""

import numpy as np

from shared.core.robust.gram.rule import Finding, Matrix, Vector, Weighing, minority, norms

ASSUMES = (
    "a hostile update of an honest one's length does little harm: length is bounded, direction is not judged"
)

__all__ = ["ASSUMES", "minority", "norm_clipped_mean", "shortened"]


def norm_clipped_mean(gram: Matrix, _: int) -> Weighing:
    """Weigh client i min(1, c / ||x_i||) / n, with c the median norm: the lower one, of an even number.

    Source: Sun et al. 2019, arXiv:1911.07963 (norm thresholding); the median as the bound: Nguyen
    et al. 2022, USENIX Security (FLAME).
    """
    lengths = norms(gram)
    return shortened(np.full(len(gram), 1 / len(gram)), lengths, lower_median(lengths))


def lower_median(values: Vector) -> float:
    """The value of rank ceil(n / 2): it lies between two honest ones when hostile clients are a minority."""
    rank = (len(values) - 1) // 2
    return float(np.partition(values, rank)[rank])


def shortened(weights: Vector, lengths: Vector, bound: float) -> Weighing:
    """Shorten each update that counts to at most `bound`, with a finding for each that was longer."""
    factor = np.divide(bound, lengths, out=np.ones_like(lengths), where=lengths > bound)
    longer = np.flatnonzero((lengths > bound) & (weights > 0))
    return Weighing(
        weights * factor, tuple(Finding(int(i), "norm", float(lengths[i]), bound) for i in longer)
    )
