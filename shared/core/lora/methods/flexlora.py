"""FlexLoRA: the mean of the clients' products, cut to the federation's rank by its singular values."""

from collections.abc import Sequence

import numpy as np

from shared.core.lora.methods.method import (
    Combined,
    Exact,
    Factor,
    Factors,
    Method,
    Ranks,
    Upload,
    always,
    rank_of,
)
from shared.core.lora.methods.products import stacked


def combine(before: Factors, uploads: Sequence[Upload]) -> Combined:
    """B = U S and A = V^T, of the r largest singular values S of mean(B_k A_k).

    A client of rank r_k goes on with the first r_k columns, the best approximation of that rank. A keeps
    unit rows, so that a direction without weight can still be learnt. The m x n product is not formed:
    the decomposition is of an s x s matrix, s the sum of all r_k.
    """
    left, right = stacked(before, uploads)
    left_frame, left_core = np.linalg.qr(left)
    right_frame, right_core = np.linalg.qr(right.T)
    rotation, values, other = np.linalg.svd(left_core @ right_core.T, full_matrices=False)
    kept = min(rank_of(before), len(values))
    b, a = np.zeros_like(before[Factor.B]), before[Factor.A].copy()
    b[:, :kept] = (left_frame @ rotation)[:, :kept] * values[:kept]
    a[:kept] = (other @ right_frame.T)[:kept]
    return Combined({Factor.A: a, Factor.B: b})


METHOD = Method(
    source="Bai et al. 2024, arXiv:2402.11505",
    trained=always(Factor.A, Factor.B),
    combine=combine,
    exact=Exact.BEFORE_TRUNCATION,
    ranks=Ranks.ANY,
    one_by_one="multiplies each client's factors",
)
