"""Rounds of one layer for the tests of LoRA methods."""

import numpy as np

from shared.core.lora.methods import METHODS, Factor, Upload
from shared.core.lora.methods.method import leading
from shared.core.lora.methods.products import product

M, N, RANK = 7, 9, 3
SHAPES = {Factor.A: (RANK, N), Factor.B: (M, RANK), Factor.R: (RANK, RANK)}


def begun(name, rng):
    """Factors in the middle of a job: FLoRA's B is zero, Fed-SB has an R."""
    held = list(Factor) if name == "fedsb" else [Factor.A, Factor.B]
    before = {factor: rng.normal(size=SHAPES[factor]).astype(np.float32) for factor in held}
    if name == "flora":
        before[Factor.B][:] = 0
    return before


def uploads(name, before, rng, ranks, completed=0):
    return [
        Upload(
            {
                factor: rng.normal(size=leading(factor, before[factor], rank).shape).astype(np.float32)
                for factor in METHODS[name].trained(completed)
            },
            float(rng.uniform(0.2, 3)),
        )
        for rank in ranks
    ]


def client_product(before, upload):
    """B_k A_k or B R_k A in the client's rank, (m, n), written out."""
    rank = min(min(change.shape) for change in upload.changes.values())
    own = {
        factor: leading(factor, values, rank) + upload.changes.get(factor, 0)
        for factor, values in before.items()
    }
    return product(own)


def mean_of_products(before, uploaded):
    weights = np.array([upload.weight for upload in uploaded])
    products = np.array([client_product(before, upload) for upload in uploaded])
    return np.tensordot(weights / weights.sum(), products, 1)


def result(combined):
    """What the layer's W is moved by, (m, n)."""
    base = combined.into_base
    return product(combined.factors) + (0 if base is None else base)
