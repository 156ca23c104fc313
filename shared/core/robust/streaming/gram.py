"""The Gram matrix of updates or of their sketches, 32 rows at a time while they arrive."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from shared.core.robust.streaming import compiled
from shared.core.robust.streaming.screening import misfit
from shared.core.secagg.mpc3.sketch import Sketch
from shared.errors import Rejected

BLOCK = 32
# The type in which rows of each type are multiplied, and how many coordinates before float64 takes the sum.
# 1024 products of int8 values are at most 2^24, and 2^23 of int16 values at most 2^53: nothing is rounded.
_PRODUCTS: dict[np.dtype[Any], tuple[type[np.float32 | np.float64], int]] = {
    np.dtype(np.int8): (np.float32, 1024),
    np.dtype(np.int16): (np.float64, 4096),
    np.dtype(np.float32): (np.float32, 1024),
    np.dtype(np.float64): (np.float64, 4096),
}


@dataclass(frozen=True)
class Gram:
    """Written in place: go on with the newest one. Rows are in the order of arrival.

    Attributes:
        rows: (most, d), the updates, or (most, k) float64, their sketches.
        products: (most, most) float64, complete for the full blocks.
        dimension: d.
        dtype: of the updates.
        sketch: None keeps updates whole.
        count: n, of updates so far.
    """

    rows: NDArray[Any]
    products: NDArray[np.float64]
    dimension: int
    dtype: np.dtype[Any]
    sketch: Sketch | None
    count: int = 0


def empty(dimension: int, most: int, dtype: DTypeLike, sketch: Sketch | None = None) -> Gram:
    """Room for `most` updates.

    Args:
        dimension: d.
        most: updates that there will be.
        dtype: of the updates. Of int8, and of int16 with d up to 2^23, the matrix is exact, the same on every
            machine; of float32, each sum of 1024 products is rounded as float32.
        sketch: of d coordinates, from `mpc3.sketch.draw` and a seed that no client knows: whoever knows it
            can hide a vector from it. An inner product is then off by a standard deviation of at most
            sqrt(2 / k) times the product of both norms.

    Raises: Rejected for another type, and for a sketch of other updates.
    """
    kind = np.dtype(dtype)
    if kind not in (np.int8, np.int16, np.float32):
        raise Rejected(f"no Gram matrix of {kind.name} updates: give int8, int16 or float32")
    if sketch and (not sketch.size or len(sketch.signs) != dimension):
        raise Rejected(f"a sketch of {len(sketch.signs)} coordinates, not {dimension}")
    rows = np.zeros((most, sketch.size), np.float64) if sketch else np.zeros((most, dimension), kind)
    return Gram(rows, np.zeros((most, most), np.float64), dimension, kind, sketch)


def absorb(gram: Gram, update: NDArray[Any]) -> Gram:
    """Take one update; every 32nd is multiplied with all so far, together with the 31 before it.

    Raises: Rejected for another shape or type, with nothing changed, and when there is no room.
    """
    wrong = misfit(update, gram.dimension, gram.dtype)
    if wrong is not None:
        raise Rejected(wrong)
    if gram.count == len(gram.rows):
        raise Rejected(f"this Gram matrix holds {gram.count} updates")
    drawn = gram.sketch
    gram.rows[gram.count] = (
        compiled.sketch(update, drawn.signs, drawn.rotations, drawn.size) if drawn else update
    )
    taken = replace(gram, count=gram.count + 1)
    if taken.count % BLOCK == 0:
        _multiply(taken, taken.count - BLOCK)
    return taken


def matrix(gram: Gram) -> NDArray[np.float64]:
    """(n, n) inner products of all updates so far, symmetric, read-only; more updates may follow."""
    first = gram.count // BLOCK * BLOCK
    if first < gram.count:
        _multiply(gram, first)
    products = gram.products[: gram.count, : gram.count]
    products.flags.writeable = False
    return products


def _multiply(gram: Gram, first: int) -> None:
    """The rows from `first` on with all rows, in place."""
    work, length = _PRODUCTS[gram.rows.dtype]
    block = np.zeros((gram.count - first, gram.count), np.float64)
    for start in range(0, gram.rows.shape[1], length):
        part: NDArray[Any] = gram.rows[: gram.count, start : start + length].astype(work, copy=False)
        np.add(block, part[first:] @ part.T, out=block)
    # Rounding may tell a product from its mirror image.
    block[:, first:] = (block[:, first:] + block[:, first:].T) / 2
    gram.products[first : gram.count, : gram.count] = block
    gram.products[: gram.count, first : gram.count] = block.T
