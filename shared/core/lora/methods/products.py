"""The mean of the clients' products B_k A_k, which is not the product of their means."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.core.lora.methods.method import Factor, Factors, Upload, leading, rank_of

Matrix = NDArray[np.float64]


def stacked(before: Factors, uploads: Sequence[Upload]) -> tuple[Matrix, Matrix]:
    """Two matrices whose product is sum(w_k B_k A_k) / sum(w_k): (m, s) and (s, n), s the sum of all r_k.

    A client of rank r_k began with the first r_k columns of B and rows of A. The weights are in the first.
    Source: Wang et al. 2024, arXiv:2409.05976 (stacking).
    """
    whole = sum(upload.weight for upload in uploads)
    lefts = [_trained(Factor.B, before, upload) * (upload.weight / whole) for upload in uploads]
    rights = [_trained(Factor.A, before, upload) for upload in uploads]
    return np.concatenate(lefts, axis=1), np.concatenate(rights, axis=0)


def product(factors: Factors) -> Matrix:
    """B A, or B R A: (m, n)."""
    left = factors[Factor.B].astype(np.float64)
    if Factor.R in factors:
        left = left @ factors[Factor.R].astype(np.float64)
    return np.asarray(left @ factors[Factor.A].astype(np.float64), np.float64)


def _trained(factor: Factor, before: Factors, upload: Upload) -> Matrix:
    began = leading(factor, before[factor], rank_of(upload.changes)).astype(np.float64)
    return began + upload.changes[factor] if factor in upload.changes else began
