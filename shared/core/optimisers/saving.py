"""An optimiser's state as bytes, to be kept between rounds."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from shared.core.optimisers.optimiser import Optimiser, State
from shared.errors import Rejected


def to_bytes(state: State) -> bytes:
    """Float64 safetensors; equal states give equal bytes."""
    return bytes(save({name: np.ascontiguousarray(state.moments[name]) for name in sorted(state.moments)}))


def from_bytes(content: bytes, optimiser: Optimiser, dimension: int) -> State:
    """Inverse. Raises: Rejected unless it is a finite state of that optimiser for `dimension` parameters."""
    try:
        moments: dict[str, NDArray[Any]] = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise Rejected(f"not an optimiser's state: {type(error).__name__}") from None
    if set(moments) != set(optimiser.moments):
        raise Rejected(f"a state of {sorted(moments)}, {sorted(optimiser.moments)} expected")
    for name, moment in moments.items():
        if moment.dtype != np.float64 or moment.shape != (dimension,) or not np.isfinite(moment).all():
            raise Rejected(f"{name} is {moment.dtype} {moment.shape}, finite float64 ({dimension},) expected")
    return State(moments)
