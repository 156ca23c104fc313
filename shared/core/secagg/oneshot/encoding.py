"""What a plaintext may be, and how many of them a sum can hold without wrapping around q."""

import math

import numpy as np
from numpy.typing import NDArray

from shared.core.secagg.oneshot.noise import LARGEST, SIGMA
from shared.core.secagg.oneshot.ring import Q
from shared.errors import Refused, Rejected

VALUE_BITS = 16  # signed: -2^15, ..., 2^15 - 1
SMALLEST_SCALE, LARGEST_SCALE = 16, 1024
FIELD = "aggregation.protocol"


def largest_cohort(scale: int, value_bits: int = VALUE_BITS) -> int:
    """The largest n whose sum cannot wrap: n (2^(value_bits - 1) scale + LARGEST) <= (q - 1) / 2.

    It bounds the worst sum of errors, not a likely one: 1023 at a scale of 32, 2047 at 16.
    """
    return (Q // 2) // ((scale << (value_bits - 1)) + LARGEST)


def scale_for(clients: int) -> int:
    """The largest power of two, 16 to 1024, by which values may be multiplied in a cohort of that size.

    At 1024, up to 31 clients, sums come out exact but for an error that rounds away.

    Raises: Refused when no scale fits.
    """
    scale = LARGEST_SCALE
    while scale >= SMALLEST_SCALE:
        if clients <= largest_cohort(scale):
            return scale
        scale //= 2
    most = largest_cohort(SMALLEST_SCALE)
    raise Refused(
        FIELD,
        f"a sum of {clients} updates of {VALUE_BITS} bits does not fit the modulus",
        f"cut the cohort into groups of at most {most}",
    )


def predicted_error(clients: int, scale: int) -> float:
    """Standard deviation of one coordinate of the opened sum, in steps of the 16-bit values."""
    return SIGMA * math.sqrt(clients) / scale


def checked(values: NDArray[np.int32], dimension: int) -> NDArray[np.int32]:
    """`values` (dimension,). Raises: Rejected for another shape or type, or a value beyond 16 bits."""
    if values.shape != (dimension,) or values.dtype != np.int32:
        raise Rejected(f"an update is ({dimension},) int32, not {values.shape} {values.dtype}")
    bound = 2 ** (VALUE_BITS - 1)
    if int(values.max()) >= bound or int(values.min()) < -bound:
        raise Rejected(f"the update has a value beyond {VALUE_BITS} bits: clip it before it is encrypted")
    return values
