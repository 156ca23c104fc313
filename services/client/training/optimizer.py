"""Opacus' DPOptimizer with noise that is cryptographic and clipping by the job's rule."""

from collections.abc import Sequence

import numpy as np
import torch
from opacus.optimizers import DPOptimizer
from torch import nn

from services.client.training.clipping import Clipping, clipped_sums
from services.client.training.corrections import Correct
from services.client.training.noise import KeyStream, noised


class SecureDPOptimizer(DPOptimizer):  # type: ignore[misc] # Opacus has no types
    """Clip each record's gradient, sum, add noise, divide by a public constant.

    Opacus' own noise comes from torch's generator; its `secure_mode` needs torchcsprng, which no
    longer exists (docs/privacy.md). Accumulation over micro-batches and the step are Opacus'.
    """

    def __init__(  # noqa: PLR0913 - DPOptimizer's, less what is fixed here
        self,
        optimizer: torch.optim.Optimizer,
        *,
        noise_multiplier: float,
        clipping: Clipping,
        expected_batch_size: float,
        stream: KeyStream,
        correct: Correct | None = None,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=clipping.norm,
            expected_batch_size=expected_batch_size,
            loss_reduction="mean",
        )
        self._clipping = clipping
        self._stream = stream
        self._correct = correct

    def clip_and_accumulate(self) -> None:
        """Add the micro-batch's clipped gradients."""
        parameters: Sequence[nn.Parameter] = self.params
        gradients = [p.grad_sample for p in parameters]  # type: ignore[attr-defined] # Opacus' name
        for p, clipped in zip(parameters, clipped_sums(gradients, self._clipping), strict=True):
            p.summed_grad = clipped if p.summed_grad is None else p.summed_grad + clipped  # type: ignore[attr-defined] # Opacus' name

    def scale_grad(self) -> None:
        """Divide by the public constant; then what the server's optimizer asks is added."""
        super().scale_grad()
        if self._correct is not None:
            self._correct(self.params)

    def add_noise(self) -> None:
        """`p.grad` is the noised sum; the clipping rule then may move its bound."""
        sigma = self.noise_multiplier * self._clipping.norm
        for p in self.params:
            total = p.summed_grad.detach().cpu().double().numpy()
            released = noised(total.ravel(), sigma, self._stream).reshape(total.shape)
            p.grad = torch.from_numpy(released.astype(np.float32)).to(p.device, p.dtype)
        self._clipping.end_step(self.expected_batch_size, self._stream)
