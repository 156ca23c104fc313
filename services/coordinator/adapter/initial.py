"""The global adapter before the first round."""

from shared.core.lora import from_safetensors, initial_tensor, to_safetensors
from shared.errors import Rejected
from shared.events.values import Layout
from shared.job.specification import JobSpecification


def initial(specification: JobSpecification, layout: Layout, start: bytes = b"") -> bytes:
    """Safetensors of the trainable tensors before round 1: a pure function of the public seed.

    Args:
        specification: of the job.
        layout: of its adapter.
        start: safetensors that stand in place of the seed's, where they name a tensor of the layout.

    Raises: Rejected when one of them has another shape.
    """
    given = from_safetensors(start) if start else {}
    tensors = {}
    for tensor in layout.trainable:
        found = given.get(tensor.name)
        if found is None:
            found = initial_tensor(specification.seed, tensor.name, tensor.shape, specification.lora.method)
        if found.shape != tensor.shape:
            raise Rejected(f"{tensor.name} starts with shape {found.shape}, {tensor.shape} expected")
        tensors[tensor.name] = found
    return to_safetensors(tensors)
