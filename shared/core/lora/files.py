"""Adapters as bytes and as PEFT folders."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from shared.errors import Rejected

CONFIG_FILE, TENSORS_FILE = "adapter_config.json", "adapter_model.safetensors"  # PEFT's
BASE_CHANGE_FILE = "base_change.safetensors"  # ours: layer -> what is added to its weight, over LoRA's scale


def to_safetensors(tensors: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Float32 safetensors; equal tensors give equal bytes."""
    return bytes(save({name: np.ascontiguousarray(tensors[name], np.float32) for name in sorted(tensors)}))


def from_safetensors(content: bytes) -> dict[str, NDArray[np.float32]]:
    """Inverse. Raises: Rejected when the bytes are not safetensors, or not float32."""
    try:
        tensors: dict[str, NDArray[Any]] = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise Rejected(f"not an adapter: {type(error).__name__}") from None
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32:
            raise Rejected(f"{name} is {tensor.dtype}, float32 expected")
    return tensors


def write_peft_adapter(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, NDArray[np.float32]]
) -> None:
    """A folder that `PeftModel.from_pretrained` loads: adapter_config.json, adapter_model.safetensors.

    Args:
        folder: made when absent.
        config: PEFT's LoraConfig as a dict.
        tensors: all of the adapter, frozen ones included, under PEFT's state-dict names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(json.dumps(dict(config), indent=2, sort_keys=True) + "\n")
    (folder / TENSORS_FILE).write_bytes(to_safetensors(tensors))
