"""What LoRA methods need of a model beyond A and B: Fed-SB's R between them, and frozen weights that move."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn

from shared.errors import Refused

ADAPTER = "default"


class Through(nn.Module):
    """A, then R: x -> R A x, where PEFT has A alone."""

    def __init__(self, first: nn.Linear, middle: nn.Linear) -> None:
        super().__init__()
        self.first, self.middle = first, middle

    @property
    def weight(self) -> torch.Tensor:
        """A's; PEFT casts inputs to its type."""
        return self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., n) to (..., r)."""
        result: torch.Tensor = self.middle(self.first(x))
        return result


@dataclass(frozen=True)
class FrozenLayer:
    """A layer's own weight, as it was loaded.

    Attributes:
        weight: that the model uses.
        loaded: a copy, float32, on the same device.
        scale: LoRA's, alpha / r.
        transposed: whether the weight is (n, m), as in GPT-2.
    """

    weight: torch.Tensor
    loaded: torch.Tensor
    scale: float
    transposed: bool

    def set(self, change: NDArray[np.float32] | None) -> None:
        """The weight is what was loaded, plus `change`, (m, n), times the scale."""
        with torch.no_grad():
            if change is None:
                self.weight.copy_(self.loaded)
                return
            moved = torch.from_numpy(np.array(change, np.float32)).to(self.loaded.device) * self.scale
            moved = moved.T if self.transposed else moved
            if moved.shape != self.loaded.shape:
                raise Refused("base", f"a change of shape {tuple(change.shape)}", "submit the job again")
            self.weight.copy_(self.loaded + moved)


def peft_name(name: str) -> str:
    """Of a parameter, as PEFT's state dict has it; R is called as A is, with another letter."""
    name = name.replace(f".lora_A.{ADAPTER}.middle.", ".lora_R.").replace(
        f".lora_A.{ADAPTER}.first.", ".lora_A."
    )
    return name.replace(f".modules_to_save.{ADAPTER}", "").replace(f".{ADAPTER}.", ".")


def insert_middles(model: PeftModel, rank: int, device: torch.device) -> None:
    """Put an R, (rank, rank), between A and B of each adapted layer."""
    for layer in _adapted(model).values():
        first: Any = layer.lora_A[ADAPTER]
        middle = nn.Linear(rank, rank, bias=False, device=device, dtype=first.weight.dtype)
        layer.lora_A[ADAPTER] = Through(first, middle)


def frozen_layers(model: PeftModel) -> Mapping[str, FrozenLayer]:
    """The adapted layers' own weights, by their tensors' name up to `.lora_`.

    Raises: Refused for quantised weights, which cannot be moved.
    """
    found = {}
    for name, layer in _adapted(model).items():
        kept: Any = layer  # PEFT's mixin has no types
        weight = kept.get_base_layer().weight
        if not weight.is_floating_point():
            raise Refused(
                "model.quantisation",
                f"{name} is quantised, and the job's method changes it",
                "set it to none",
            )
        transposed = bool(getattr(layer, "fan_in_fan_out", False))
        loaded = weight.detach().float().clone()
        found[name] = FrozenLayer(weight, loaded, float(kept.scaling[ADAPTER]), transposed)
    return found


def _adapted(model: PeftModel) -> dict[str, LoraLayer]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
