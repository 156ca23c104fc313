"""What the clients of one round upload: coordinator and clients compute it alike, neither is told."""

import hashlib
import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from shared.core.compression import RandomK, compress
from shared.core.lora.methods import METHODS
from shared.core.lora.methods.adapters import trains
from shared.core.secagg.sealing import bind
from shared.events.values import Layout, TensorSpec
from shared.job.specification import JobSpecification

DOMAIN = b"fedlora/compression/round/v1"


@dataclass(frozen=True)
class Contents:
    """Of an update.

    Attributes:
        tensors: that the round trains, in the order in which an update is flattened.
        compression: what is left out of the flattened update; None for nothing.
    """

    tensors: tuple[TensorSpec, ...]
    compression: RandomK | None = None

    @classmethod
    def of(cls, job: JobSpecification, layout: Layout, completed: int, round_id: str) -> Self:
        """Of a round that begins when `completed` others have moved the adapter."""
        method = METHODS[job.lora.method]
        tensors = tuple(one for one in layout.trainable if trains(method, one.name, completed))
        whole = cls(tensors)
        if job.compression.kind == "none":
            return whole
        seed = hashlib.sha256(bind(DOMAIN, str(job.seed).encode(), round_id.encode())).digest()
        count = max(1, math.ceil(job.compression.keep * whole.dimension))
        return cls(tensors, RandomK(whole.dimension, count, seed))

    def compressed(self, update: NDArray[np.float32]) -> NDArray[np.float32]:
        """What is uploaded of (d,). Raises: Rejected for another length."""
        return update if self.compression is None else compress(self.compression, update)

    @property
    def shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """(name, shape) of each tensor."""
        return [(tensor.name, tensor.shape) for tensor in self.tensors]

    @property
    def dimension(self) -> int:
        """d, trained values of the round."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @property
    def uploaded(self) -> int:
        """Values that are summed: d, or k of them."""
        return self.dimension if self.compression is None else self.compression.count
