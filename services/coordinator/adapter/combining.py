"""What LoRA methods that see each client's factors make of a round: the adapter, and a change of the base."""

import numpy as np

from services.coordinator.adapter.stepping import Came
from shared.core.lora import from_safetensors, to_safetensors, unflatten
from shared.core.lora.methods import METHODS
from shared.core.lora.methods.adapters import AdapterUpload, aggregate, cut
from shared.errors import Rejected
from shared.events.values import Layout
from shared.job.specification import JobSpecification


def combined(
    job: JobSpecification, layout: Layout, came: Came, before: tuple[bytes, bytes]
) -> tuple[bytes, bytes]:
    """The adapter and the change of frozen weights after the round, both safetensors.

    Args:
        job: whose method multiplies each client's factors.
        layout: of its adapter.
        came: its `update` is each client's, (clients, d), by name.
        before: the adapter, and the change of frozen weights so far (empty for none).

    Raises: Rejected when the updates are not the round's, or nobody's counts.
    """
    shapes = [(tensor.name, tensor.shape) for tensor in layout.trainable]
    rows = np.frombuffer(came.update, dtype="<f4")
    if rows.size != len(came.weights) * layout.dimension:
        raise Rejected(f"{rows.size} values of {len(came.weights)} updates, {layout.dimension} each expected")
    uploads = []
    for row, (client, weight) in zip(
        rows.reshape(len(came.weights), -1), sorted(came.weights.items()), strict=True
    ):
        if weight:
            changes = unflatten(row, shapes)
            rank = came.ranks.get(client)
            uploads.append(AdapterUpload(changes if rank is None else cut(changes, rank), weight))
    after = aggregate(METHODS[job.lora.method], from_safetensors(before[0]), uploads)
    base = dict(from_safetensors(before[1])) if before[1] else {}
    for layer, change in after.into_base.items():
        base[layer] = (base.get(layer, np.float32(0)) + change).astype(np.float32)
    if not all(np.isfinite(tensor).all() for tensor in (*after.tensors.values(), *base.values())):
        raise Rejected("the adapter would not be finite")
    return to_safetensors(after.tensors), to_safetensors(base) if base else b""
