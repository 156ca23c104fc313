"""The Gram matrix of sketches, from shares of them, 32 uploads at a time while they arrive.

Party p holds X_p and X_q, q = p + 1, and computes G_p = Z Z^T - X_q X_q^T with Z = X_p + X_q, that is
X_p X_p^T + X_p X_q^T + X_q X_p^T; the three G_p add up to the Gram matrix. Source: the product of
Araki et al. 2016, CCS, Section 2, for a whole matrix.

Products of 64-bit words are made of exact float64 products of signed limbs of at most 22 bits: with
2 k <= 2048 terms no partial sum is beyond 2^53, so that every sum is exact in whatever order a BLAS adds.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.core.secagg.mpc3.terms import Terms

BLOCK = 32
_LIMBS = {44: (22, 22), 64: (22, 21, 21)}


@dataclass(frozen=True)
class Gram:
    """One party's part, written in place; rows in the order of arrival at this party.

    Attributes:
        sketches: (2, BLOCK, k) uint64, shares p and p + 1 of the current block.
        limbs: (limbs, n, 2 k) float64: those of Z, then of X_q.
        products: (n, n) uint64, G_p modulo 2^bits, with anything above.
        bits: of the ring.
    """

    sketches: NDArray[np.uint64]
    limbs: NDArray[np.float64]
    products: NDArray[np.uint64]
    bits: int


def empty(terms: Terms) -> Gram:
    """Room for the whole cohort."""
    clients, size, bits = len(terms.cohort), terms.sketch_size, terms.gram_bits
    return Gram(
        np.zeros((2, BLOCK, size), np.uint64),
        np.zeros((len(_LIMBS[bits]), clients if size else 0, 2 * size)),
        np.zeros((clients, clients) if size else (0, 0), np.uint64),
        bits,
    )


def extend(gram: Gram, count: int, *, last: bool = False) -> None:
    """Multiply the newest block with all rows, in place, when it is full or the last.

    Args:
        gram: with the sketches of all rows below `count` in their places.
        count: rows so far.
        last: no more rows will come.
    """
    first = (count - 1) // BLOCK * BLOCK if count else 0
    if first == count or (count - first < BLOCK and not last):
        return
    size = gram.sketches.shape[2]
    own, after = gram.sketches[:, : count - first]
    for limb, part in zip(gram.limbs, _limbs(np.hstack((own + after, after)), gram.bits), strict=True):
        limb[first:count] = part
    left = gram.limbs[:, first:count].copy()
    left[:, :, size:] *= -1
    block = _product(left, gram.limbs[:, :count], gram.bits)
    gram.products[first:count, :count] = block
    gram.products[:first, first:count] = block[:, :first].T


def _limbs(words: NDArray[np.uint64], bits: int) -> list[NDArray[np.float64]]:
    """Signed limbs that add up to the words modulo 2^bits, the lowest first."""
    rest, out = words.view(np.int64), []
    for width in _LIMBS[bits]:
        spare = 64 - width
        limb = (rest << spare) >> spare
        out.append(limb.astype(np.float64))
        rest = (rest - limb) >> width
    return out


def _product(left: NDArray[np.float64], right: NDArray[np.float64], bits: int) -> NDArray[np.uint64]:
    """left right^T modulo 2^bits, (b, m), from (limbs, b, 2 k) and (limbs, m, 2 k)."""
    widths = _LIMBS[bits]
    offsets = [sum(widths[:limb]) for limb in range(len(widths))]
    total = np.zeros((left.shape[1], right.shape[1]), np.int64)
    for low, low_offset in enumerate(offsets):
        for high, high_offset in enumerate(offsets):
            shift = low_offset + high_offset
            if shift < bits:
                total += (left[low] @ right[high].T).astype(np.int64) << shift
    return total.view(np.uint64)


def packed(gram: Gram, rows: NDArray[np.intp]) -> NDArray[np.uint64]:
    """The upper triangle, diagonal included, of these rows and columns, row after row: (m (m + 1) / 2,)."""
    chosen = gram.products[np.ix_(rows, rows)]
    return np.concatenate([chosen[row, row:] for row in range(len(rows))])


def unpacked(words: NDArray[np.uint64], rows: int, bits: int) -> NDArray[np.int64]:
    """(rows, rows) symmetric, centred modulo 2^bits; inverse of `packed`."""
    spare = 64 - bits
    values = (words.view(np.int64) << spare) >> spare
    out = np.empty((rows, rows), np.int64)
    at = 0
    for row in range(rows):
        out[row, row:] = out[row:, row] = values[at : at + rows - row]
        at += rows - row
    return out
