"""What linear methods do with uploads: a weighted mean of each coordinate, over those that trained it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.core.lora.methods.method import Combined, Factor, Factors, Upload, leading, rank_of

Matrix = NDArray[np.float64]


def padded(factor: Factor, change: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A client's change in the federation's shape, zero where it did not train: what is summed."""
    out = np.zeros(shape, np.float32)
    leading(factor, out, rank_of({factor: change}))[...] = change
    return out


def counts(factor: Factor, shape: tuple[int, ...], ranks: Sequence[int], weights: Sequence[float]) -> Matrix:
    """By what a sum of padded, weighted changes is divided: the weight of those that trained a coordinate.

    Ranks and weights are public, so this needs no upload. Where few clients have a column, the same noise is
    divided by less: the variance of a mean's coordinate is that of the sum over the square of its count.

    Args:
        factor: which.
        shape: of the factor in the federation's rank.
        ranks: r_k of each client.
        weights: of each client.

    Returns: `shape`, 0 where nobody trained.
    """
    out = np.zeros(shape)
    for rank, weight in zip(ranks, weights, strict=True):
        leading(factor, out, rank)[...] += weight
    return out


def divided(total: Matrix, count: Matrix) -> Matrix:
    """`total / count`, and no change where nobody trained. Both of one shape."""
    return np.divide(total, count, out=np.zeros_like(total), where=count > 0)


def averaged(before: Factors, uploads: Sequence[Upload]) -> Combined:
    """Each trained factor plus the mean change of each coordinate, over the clients whose rank reaches it.

    With equal ranks this is the plain weighted mean, sum(w_k change_k) / sum(w_k). A column that some
    clients lack moves by the mean of the others, and is not drawn to zero by those.
    """
    ranks = [rank_of(upload.changes) for upload in uploads]
    weights = [upload.weight for upload in uploads]
    factors = dict(before)
    for factor in uploads[0].changes:
        shape = before[factor].shape
        total = np.zeros(shape)
        for upload in uploads:
            total += upload.weight * padded(factor, upload.changes[factor], shape).astype(np.float64)
        change = divided(total, counts(factor, shape, ranks, weights))
        factors[factor] = (before[factor] + change).astype(np.float32)
    return Combined(factors)
