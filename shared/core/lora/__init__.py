"""LoRA adapters as arrays: initial values, flattening, and PEFT's file format, without torch."""

from shared.core.lora.files import from_safetensors, to_safetensors, write_peft_adapter
from shared.core.lora.initialisation import initial_tensor
from shared.core.lora.rank import automatic_rank
from shared.core.lora.vectors import flatten, unflatten

__all__ = [
    "automatic_rank",
    "flatten",
    "from_safetensors",
    "initial_tensor",
    "to_safetensors",
    "unflatten",
    "write_peft_adapter",
]
