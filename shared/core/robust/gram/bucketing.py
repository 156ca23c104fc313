"""Bucketing: updates are averaged a few at a time, at random, before a rule sees them."""

import numpy as np
from numpy.typing import NDArray

from shared.core.robust.gram.mixing import Mixing
from shared.errors import Refused, Rejected

ASSUMES = "few clients are hostile: each may spoil a bucket, so that f of ceil(n / s) buckets are hostile"


def bucketing(permutation: NDArray[np.integer], size: int) -> Mixing:
    """Cut clients, in the order of `permutation`, into buckets of `size`; the last may have fewer.

    A finding about a bucket is about each client in it.

    Args:
        permutation: (n,) of 0 to n - 1. Drawn after the updates are fixed, from a cryptographic source: who
            knows it before can put all hostile clients where they do most harm.
        size: s, at least 1.

    Raises: Rejected for anything but a permutation; Refused for another size.
    Source: Karimireddy et al. 2022, ICLR, Algorithm 1.
    """
    n = len(permutation)
    if not n or not np.array_equal(np.sort(permutation), np.arange(n)):
        raise Rejected("no permutation: give each client's row once")
    if not 1 <= size <= n:
        raise Refused("aggregation.bucket", f"buckets of {size} among {n}", f"give 1 to {n}")
    buckets = tuple(tuple(int(i) for i in permutation[j : j + size]) for j in range(0, n, size))
    matrix = np.zeros((len(buckets), n))
    for row, bucket in zip(matrix, buckets, strict=True):
        row[list(bucket)] = 1 / len(bucket)
    return Mixing(matrix, buckets)
