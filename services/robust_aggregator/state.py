"""One group's sum becomes the round's update: pure, and remembered by nobody."""

import numpy as np

from shared.core.robust import RULES
from shared.core.secagg import fixed_point
from shared.errors import Rejected


def aggregate(total: bytes, fraction_bits: int, count: int, rule: str) -> tuple[bytes, float]:
    """Apply `rule` to a sum of `count` updates; `total` is int64 little-endian, fixed point.

    Returns: the update as float32 little-endian bytes, and its L2 norm.
    Raises: Rejected when there is nothing to average or a coordinate is not finite.
    """
    if count < 1:
        raise Rejected("a sum of no updates")
    update = RULES[rule](fixed_point.decode(fixed_point.total_from_bytes(total), fraction_bits), count)
    if not np.isfinite(update).all():
        raise Rejected("the aggregate has a coordinate that is not finite")
    return update.astype("<f4", copy=False).tobytes(), float(np.linalg.norm(update.astype(np.float64)))
