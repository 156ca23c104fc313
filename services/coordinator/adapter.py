"""The global adapter: its first value, and its step by the federation's update."""

import numpy as np

from shared.core.lora import flatten, from_safetensors, initial_tensor, to_safetensors, unflatten
from shared.errors import Rejected
from shared.events.values import Layout
from shared.job.specification import JobSpecification


def initial(specification: JobSpecification, layout: Layout) -> bytes:
    """Safetensors of the trainable tensors before round 1: a pure function of the public seed."""
    return to_safetensors(
        {
            tensor.name: initial_tensor(
                specification.seed, tensor.name, tensor.shape, specification.lora.method
            )
            for tensor in layout.trainable
        }
    )


def moved(adapter: bytes, update: bytes, layout: Layout, learning_rate: float) -> bytes:
    """Safetensors of `adapter + learning_rate * update`; `update` is float32 little-endian, length
    `layout.dimension`.

    Raises: Rejected when the lengths differ.
    """
    step = np.frombuffer(update, dtype="<f4")
    if step.size != layout.dimension:
        raise Rejected(f"an update of length {step.size}, {layout.dimension} expected")
    names = [tensor.name for tensor in layout.trainable]
    before = flatten(from_safetensors(adapter), names).astype(np.float64)
    after = (before + learning_rate * step.astype(np.float64)).astype(np.float32)
    if not np.isfinite(after).all():
        raise Rejected("the adapter would not be finite")
    return to_safetensors(unflatten(after, [(tensor.name, tensor.shape) for tensor in layout.trainable]))
