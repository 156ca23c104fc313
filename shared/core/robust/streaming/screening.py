"""Why an update cannot be taken, before it is added to anything."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def misfit(update: NDArray[Any], dimension: int, dtype: DTypeLike) -> str | None:
    """Why an array is not (d,) of that type, in the byte order of this machine; None when it is."""
    if update.dtype != np.dtype(dtype):
        return f"the update is of type {update.dtype.str}, not {np.dtype(dtype).str}"
    if update.shape != (dimension,):
        return f"the update has the shape {update.shape}, not ({dimension},)"
    return None


def refusal(update: NDArray[Any], dimension: int, dtype: DTypeLike, largest: float) -> str | None:
    """Why an update is left out, as a sentence for people; None for one that is taken, as it is.

    Refused: another type or shape, a coordinate that is NaN or infinite, one beyond `largest`, an update that
    is zero everywhere, and one whose largest coordinate is subnormal, so that its norm loses its digits or is
    zero. Zeros and subnormal numbers next to a normal one are fine.

    Args:
        update: as received.
        dimension: d, 1 or more.
        dtype: of the job's updates: real floating point or signed integers.
        largest: a coordinate's magnitude, in the units of the update.
    """
    wrong = misfit(update, dimension, dtype)
    if wrong is not None:
        return wrong
    # float64 holds the negative of the smallest integer. NaN in any coordinate makes both NaN.
    return _too_large_or_small(max(-float(update.min()), float(update.max())), np.dtype(dtype), largest)


def _too_large_or_small(magnitude: float, dtype: np.dtype[Any], largest: float) -> str | None:
    """Why an update whose largest coordinate has that magnitude is refused."""
    reason = None
    if np.isnan(magnitude):
        reason = "has a coordinate that is not a number"
    elif np.isinf(magnitude):
        reason = "has an infinite coordinate"
    elif magnitude > largest:
        reason = f"has a coordinate of magnitude {magnitude:.6g}, beyond {largest:g}"
    elif magnitude == 0:
        reason = "is zero in every coordinate"
    elif dtype.kind == "f" and magnitude < float(np.finfo(dtype).smallest_normal):
        reason = f"is subnormal: its largest coordinate has magnitude {magnitude:.3g}"
    return reason and f"the update {reason}"
