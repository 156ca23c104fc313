"""FLTrust: an update counts as far as it points like one that the server computed on data of its own."""

from dataclasses import dataclass

import numpy as np

from shared.core.robust.gram.rule import FIELD, Finding, Matrix, Vector, Weighing, check_gram, norms
from shared.errors import Rejected

ASSUMES = (
    "the server has a small clean data set like the clients' data; what it learns from it bounds the update"
)


@dataclass(frozen=True)
class Root:
    """The server's own update x_0.

    Attributes:
        products: (n,), <x_i, x_0>.
        norm: ||x_0||, above 0.
    """

    products: Vector
    norm: float


def fltrust(gram: Matrix, root: Root) -> Weighing:
    """Weigh clients by their cosine to the root update where that is above 0, all brought to the root's norm.

    The weighted directions sum to an update no longer than the root's. Where no cosine is above 0, all
    weights are 0, and the model stays.

    Raises: Rejected when `gram` is no Gram matrix, or `root` does not fit it.
    Source: Cao et al. 2021, NDSS, Algorithm 2.
    """
    check_gram(gram)
    lengths = norms(gram)
    fits = (
        root.products.shape == lengths.shape and 0 < root.norm < np.inf and np.isfinite(root.products).all()
    )
    if not fits:
        raise Rejected(
            f"{FIELD}: give one finite product for each of {len(lengths)} clients, and a norm above 0"
        )
    inverse = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    cosine = np.clip(root.products / root.norm * inverse, -1, 1)
    trust = np.maximum(cosine, 0)
    weights = trust * root.norm * inverse
    if trust.any():
        weights /= trust.sum()
    return Weighing(
        weights, tuple(Finding(int(i), "cosine", float(cosine[i]), 0.0) for i in np.flatnonzero(trust == 0))
    )


def largest_f(n: int) -> int:
    """All but one: what bounds the update is the root, not a majority."""
    return max(0, n - 1)
