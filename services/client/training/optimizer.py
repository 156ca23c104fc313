"""Opacus' DPOptimizer with noise that is cryptographic and clipping that survives bad numbers."""

from collections.abc import Sequence

import numpy as np
import torch
from opacus.optimizers import DPOptimizer
from torch import nn

from services.client.training.noise import KeyStream, noised


class SecureDPOptimizer(DPOptimizer):  # type: ignore[misc] # Opacus has no types
    """Clip each record's gradient to `max_grad_norm`, sum, add noise, divide by a public constant.

    Opacus' own noise comes from torch's generator; its `secure_mode` needs torchcsprng, which no
    longer exists (docs/privacy.md). Everything else is Opacus'.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        noise_multiplier: float,
        clip_norm: float,
        expected_batch_size: float,
        stream: KeyStream,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=clip_norm,
            expected_batch_size=expected_batch_size,
            loss_reduction="mean",
        )
        self._stream = stream

    def clip_and_accumulate(self) -> None:
        """Drop records whose gradient is not finite, then clip and sum."""
        parameters: Sequence[nn.Parameter] = self.params
        finite = torch.stack(
            [p.grad_sample.flatten(1).isfinite().all(dim=1) for p in parameters]  # type: ignore[attr-defined] # Opacus' name
        ).all(dim=0)
        if not bool(finite.all()):
            for p in parameters:
                p.grad_sample[~finite] = 0.0  # type: ignore[attr-defined] # Opacus' name
        super().clip_and_accumulate()

    def add_noise(self) -> None:
        """One draw for all parameters together; `p.grad` is the noised sum."""
        sigma = self.noise_multiplier * self.max_grad_norm
        for p in self.params:
            total = p.summed_grad.detach().double().cpu().numpy()
            released = noised(total.ravel(), sigma, self._stream).reshape(total.shape)
            p.grad = torch.from_numpy(released.astype(np.float32)).to(p.device, p.dtype)
            p.summed_grad._processed = True
