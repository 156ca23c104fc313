"""What every additive-noise mechanism offers."""

from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from shared.core.noise.key_stream import KeyStream

Scalar = TypeVar("Scalar", np.float64, np.int64)


class NoiseMechanism(Protocol[Scalar]):
    """Independent noise of mean 0 on each coordinate of a vector, in the vector's units."""

    @property
    def standard_deviation(self) -> float:
        """Of the noise on one coordinate."""
        ...

    def add(self, total: NDArray[Scalar], stream: KeyStream) -> NDArray[Scalar]:
        """`total` (d,) with fresh noise from `stream`; `total` is left as it is."""
        ...
