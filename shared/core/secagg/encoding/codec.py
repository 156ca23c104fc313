"""A client's float update to integers, and the integers' sum back to floats."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from shared.core.randomness import RandomBytes
from shared.core.secagg.encoding import rotation
from shared.core.secagg.encoding.divided import share
from shared.core.secagg.encoding.parameters import Encoding
from shared.core.secagg.encoding.rounding import rounded
from shared.errors import Rejected

Noise = Callable[[int], NDArray[np.int64]]


@dataclass(frozen=True)
class Encoded:
    """What a client encrypts, and what that cost its update. The fractions and the factor tell something of
    the client's data: they are for its own log.

    Attributes:
        values: (d',) int32 within -largest, ..., largest.
        clipped: fraction of coordinates beyond `bound`.
        saturated: fraction of coordinates that noise carried out of the range.
        shortened: by what the update was multiplied to meet `norm_bound`; 1 leaves it as it is.
    """

    values: NDArray[np.int32]
    clipped: float
    saturated: float
    shortened: float


def encode(
    encoding: Encoding,
    update: NDArray[np.float32],
    weight: float,
    random_bytes: RandomBytes,
    noise: Noise | None = None,
) -> Encoded:
    """Weigh, shorten to the L2 bound, rotate, clip to the coordinate bound, scale, round; then add noise.

    Without clipping and noise, the expectation of `values` times `step` is the weighted, rotated update, up
    to the 24 bits of a float32.

    Args:
        encoding: of the round.
        update: (d,), finite.
        weight: in (0, 1], public.
        random_bytes: 32 of them at each trial of rounding, and for noise.
        noise: draws so many integers, in place of Skellam noise of standard deviation `noise_steps`, which
            is added wherever that is not 0. A sum beyond the range is cut to it, which no analysis of
            unbounded noise covers: `NOISE_REACH` standard deviations of room make it rare.

    Raises: Rejected for another shape or type, a coordinate that is not finite, or another weight.
    """
    if update.shape != (encoding.dimension,) or update.dtype != np.float32:
        raise Rejected(f"an update is ({encoding.dimension},) float32, not {update.shape} {update.dtype}")
    if not 0 < weight <= 1:
        raise Rejected(f"a weight of {weight:g}: give more than 0 and at most 1")
    turned = np.ascontiguousarray(update)
    if encoding.rotation_seed is not None:
        turned = rotation.rotate(turned, encoding.rotation_seed)
    if not np.isfinite(turned).all():
        raise Rejected("the update has a coordinate that is not finite, or too large to rotate")
    shortened = _factor(encoding, turned, weight)
    # Rounded towards zero, so that float32 never lengthens a vector that was shortened to its bound.
    scale = float(np.nextafter(np.float32(weight * shortened / encoding.step), np.float32(0)))
    limit = encoding.bound / encoding.step
    values, clipped = rounded(turned, scale, limit, random_bytes, encoding.largest_squares)
    saturated = 0
    if noise is None and encoding.noise_sigma > 0:
        noise = partial(share, encoding.noise_steps, random_bytes=random_bytes)
    if noise is not None:
        noisy = values + noise(len(values))
        values = noisy.clip(-encoding.largest, encoding.largest).astype(np.int32)
        saturated = int(np.count_nonzero(values != noisy))
    return Encoded(values, clipped / len(values), saturated / len(values), shortened)


def _factor(encoding: Encoding, turned: NDArray[np.float32], weight: float) -> float:
    """What brings the weighted update to `norm_bound`."""
    if encoding.norm_bound is None:
        return 1.0
    norm = weight * float(np.linalg.norm(turned.astype(np.float64)))
    return encoding.norm_bound / max(norm, encoding.norm_bound)


def decode_sum(encoding: Encoding, total: NDArray[np.float64]) -> NDArray[np.float32]:
    """The sum of weighted updates, in their units.

    Args:
        encoding: of the round.
        total: (d',), the sum of clients' `values`.

    Returns: (d,). Raises: Rejected for another shape, or a sum that is not finite.
    """
    if total.shape != (encoding.length,):
        raise Rejected(f"a sum is ({encoding.length},), not {total.shape}")
    if not np.isfinite(total).all():
        raise Rejected("the sum has a coordinate that is not finite")
    decoded = np.asarray(total, np.float64) * encoding.step
    if encoding.rotation_seed is not None:
        decoded = rotation.undo(decoded, encoding.rotation_seed, encoding.dimension)
    return decoded.astype(np.float32)
