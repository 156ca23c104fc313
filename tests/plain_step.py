"""FedAvg's step as the sentence that it is, beside which the coordinator's is held to the bit."""

import numpy as np

from shared.core.lora import flatten, from_safetensors, to_safetensors, unflatten
from shared.events.values import Layout


def moved(adapter: bytes, update: bytes, layout: Layout, rate: float) -> bytes:
    """Safetensors of adapter + rate x update, in float64, rounded once."""
    names = [tensor.name for tensor in layout.trainable]
    before = flatten(from_safetensors(adapter), names).astype(np.float64)
    after = (before + rate * np.frombuffer(update, "<f4").astype(np.float64)).astype(np.float32)
    return to_safetensors(unflatten(after, [(tensor.name, tensor.shape) for tensor in layout.trainable]))
