"""An adapter as one vector, tensors in a given order."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def flatten(tensors: Mapping[str, NDArray[np.float32]], names: Iterable[str]) -> NDArray[np.float32]:
    """(d,) float32: the tensors called `names`, row-major, one after the other."""
    parts = [np.asarray(tensors[name], np.float32).ravel() for name in names]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def unflatten(
    vector: NDArray[np.float32], shapes: Sequence[tuple[str, Sequence[int]]]
) -> dict[str, NDArray[np.float32]]:
    """Inverse of `flatten` for (name, shape) in the same order. Raises: ValueError on a wrong length."""
    sizes = [int(np.prod(shape)) for _, shape in shapes]
    if vector.shape != (sum(sizes),):
        raise ValueError(f"a vector of shape {vector.shape} does not fill {sum(sizes)} parameters")
    parts = np.split(np.asarray(vector, np.float32), np.cumsum(sizes)[:-1])
    return {
        name: part.reshape(tuple(shape)).copy() for (name, shape), part in zip(shapes, parts, strict=True)
    }
