"""Fixed-point encoding of updates, so that sums are exact and do not depend on their order."""

import numpy as np
from numpy.typing import NDArray

from shared.errors import Rejected

FRACTION_BITS = 24
BYTES_PER_VALUE = 4
LIMIT = 127.0  # |coordinate|; int32 with 24 fraction bits holds up to 128
SCALE = float(1 << FRACTION_BITS)


def encode(update: NDArray[np.float32]) -> NDArray[np.int32]:
    """Round each coordinate to the nearest multiple of 2**-24.

    Args:
        update: (d,), finite, each coordinate within [-127, 127].

    Returns: (d,) int32. Float32 coordinates of 1/2 and more lose nothing.
    Raises: Rejected for another shape, a non-finite coordinate, or one out of range.
    """
    if update.ndim != 1:
        raise Rejected(f"an update has one dimension, not {update.ndim}")
    values = np.asarray(update, dtype=np.float64)
    if not np.isfinite(values).all():
        raise Rejected("the update has a coordinate that is not finite")
    if values.size and float(np.abs(values).max()) > LIMIT:
        raise Rejected(f"the update has a coordinate beyond {LIMIT:g}")
    return np.rint(values * SCALE).astype(np.int32)


def to_bytes(encoded: NDArray[np.int32]) -> bytes:
    """Little-endian bytes of an encoded update, 4 a coordinate."""
    return encoded.astype("<i4", copy=False).tobytes()


def from_bytes(content: bytes, dimension: int) -> NDArray[np.int32]:
    """Inverse of `to_bytes`. Raises: Rejected unless `content` holds exactly `dimension` values
    within the range that `encode` makes."""
    if len(content) != dimension * BYTES_PER_VALUE:
        raise Rejected(f"{len(content)} bytes, {dimension * BYTES_PER_VALUE} expected")
    values = np.frombuffer(content, dtype="<i4").astype(np.int32, copy=False)
    bound = int(LIMIT * SCALE)
    if values.size and (int(values.max()) > bound or int(values.min()) < -bound):
        raise Rejected(f"the update has a coordinate beyond {LIMIT:g}")
    return values


def zeros(dimension: int) -> NDArray[np.int64]:
    """An empty sum, (dimension,) int64: it holds 2**32 updates without overflow."""
    return np.zeros(dimension, dtype=np.int64)


def add(total: NDArray[np.int64], encoded: NDArray[np.int32]) -> None:
    """Add one encoded update into `total`, in place. Raises: Rejected for another length."""
    if total.shape != encoded.shape:
        raise Rejected(f"an update of length {encoded.size}, {total.size} expected")
    np.add(total, encoded, out=total)


def total_to_bytes(total: NDArray[np.int64]) -> bytes:
    """Little-endian bytes of a sum, 8 a coordinate."""
    return total.astype("<i8", copy=False).tobytes()


def total_from_bytes(content: bytes) -> NDArray[np.int64]:
    """Inverse of `total_to_bytes`. Raises: Rejected when `content` is no whole number of values."""
    if len(content) % 8:
        raise Rejected(f"a sum of {len(content)} bytes is not a whole number of int64")
    return np.frombuffer(content, dtype="<i8").astype(np.int64, copy=False)


def decode(total: NDArray[np.int64], fraction_bits: int = FRACTION_BITS) -> NDArray[np.float64]:
    """The sum as (d,) float64, in the units of the updates; exact below 2**53."""
    return np.asarray(total, dtype=np.float64) / float(1 << fraction_bits)
