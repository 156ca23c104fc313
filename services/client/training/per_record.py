"""Per-record gradients of linear layers, in place of their weight gradients.

Where autograd would compute a linear layer's weight gradient as one matrix product over batch and
positions, the function below computes it for each record as a batched product of the same cost, and
leaves it in `grad_sample`, where Opacus' DPOptimizer looks. Nothing else in the model changes.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from shared.errors import Refused


class _PerRecordLinear(torch.autograd.Function):
    """y = x W^T + b for x of shape (B, ..., in)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:  # noqa: ANN401 - autograd's context
        ctx.save_for_backward(x, weight)
        ctx.weight, ctx.bias = weight, bias
        return nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:  # noqa: ANN401
        x, weight = ctx.saved_tensors
        (grad_output,) = grads
        positions = x.reshape(x.shape[0], -1, x.shape[-1])
        grad_positions = grad_output.reshape(grad_output.shape[0], -1, grad_output.shape[-1])
        per_record = torch.bmm(grad_positions.transpose(1, 2).float(), positions.float())
        _accumulate(ctx.weight, per_record)
        if ctx.bias is not None and ctx.bias.requires_grad:
            _accumulate(ctx.bias, grad_positions.float().sum(dim=1))
        grad_input = grad_output @ weight if ctx.needs_input_grad[0] else None
        return grad_input, None, None


def _accumulate(parameter: torch.Tensor, per_record: torch.Tensor) -> None:
    """A layer that runs twice in one forward pass has the sum of both gradients."""
    earlier = getattr(parameter, "grad_sample", None)
    parameter.grad_sample = per_record if earlier is None else earlier + per_record  # type: ignore[attr-defined] # Opacus' name


@contextmanager
def per_record_gradients(layers: Mapping[str, nn.Linear], rows: int) -> Iterator[None]:
    """Inside, a backward pass through `layers` fills their parameters' `grad_sample`, (rows, *shape).

    Raises: Refused in the forward pass when a layer's input does not have one row a record, as in a
        mixture of experts, where the tokens of all records are mixed.
    """

    def forward_of(name: str, layer: nn.Linear) -> Any:  # noqa: ANN401 - replaces Module.forward
        apply: Any = _PerRecordLinear.apply  # untyped in torch

        def forward(x: torch.Tensor) -> torch.Tensor:
            if x.dim() < 2 or x.shape[0] != rows:
                raise Refused(
                    "lora.target_modules",
                    f"{name} sees the tokens of all records mixed: no exact per-record gradient",
                    "leave it out, for example target_modules: attention",
                )
            # A bfloat16 base hands bfloat16 to a float32 layer.
            result: torch.Tensor = apply(x.to(layer.weight.dtype), layer.weight, layer.bias)
            return result

        return forward

    for name, layer in layers.items():
        layer.forward = forward_of(name, layer)  # type: ignore[method-assign] # undone below
    try:
        yield
    finally:
        for layer in layers.values():
            del layer.forward  # the class's own is back
