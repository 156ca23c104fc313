"""How each record's gradient is bounded: one small class a rule, behind one interface.

Whatever the rule, one record moves the clipped sum by at most `norm` in L2 over all tensors together.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch

from services.client.training.noise import KeyStream
from shared.job.specification import Privacy

STABILITY = 1e-6  # as in Opacus: keeps a factor finite where a norm is 0
AUTOMATIC_STABILITY = 0.01  # Bu et al. 2022, arXiv:2206.07136, Section 3.3: their gamma
QUANTILE_RATE = 0.2  # Andrew et al. 2021, arXiv:1905.03871, Section 3: their eta_C


class Clipping(Protocol):
    """A clipping rule. `norm` may change between steps, never within one."""

    norm: float

    def factors(self, norms: torch.Tensor) -> torch.Tensor:
        """(L, B) factors on the gradients of L tensors and B records, from their L2 norms (L, B)."""
        ...

    def end_step(self, expected_records: float, stream: KeyStream) -> None:
        """Called once a step, after its last micro-batch; may release something, if it is charged."""
        ...


class FixedClipping:
    """min(1, C / |g|) over all tensors together (Abadi et al. 2016, arXiv:1607.00133, Algorithm 1)."""

    def __init__(self, norm: float) -> None:
        self.norm = norm

    def factors(self, norms: torch.Tensor) -> torch.Tensor:
        """See the protocol."""
        return _clipped(norms.norm(dim=0), self.norm).expand_as(norms)

    def end_step(self, expected_records: float, stream: KeyStream) -> None:
        """Nothing is released."""


class PerLayerClipping(FixedClipping):
    """Each of L tensors to C / sqrt(L), so that all together stay within C (McMahan et al. 2018,
    arXiv:1710.06963, Section 3.1)."""

    def factors(self, norms: torch.Tensor) -> torch.Tensor:
        """See the protocol."""
        return _clipped(norms, self.norm / math.sqrt(len(norms)))


class AutomaticClipping(FixedClipping):
    """C / (|g| + 0.01): every record counts alike, and C needs no tuning (Bu et al. 2022,
    arXiv:2206.07136, AUTO-S)."""

    def factors(self, norms: torch.Tensor) -> torch.Tensor:
        """See the protocol."""
        whole: torch.Tensor = norms.norm(dim=0)
        return (self.norm / (whole + AUTOMATIC_STABILITY)).expand_as(norms)


class AdaptiveClipping(FixedClipping):
    """C follows a quantile of the records' norms (Andrew et al. 2021, arXiv:1905.03871, Algorithm 1).

    Each record adds one centred bit, +1/2 when its norm is at most C and -1/2 otherwise: a sum of
    sensitivity 1/2, divided by the expected number of records, which is public. Its noise of
    `bits_noise_multiplier` / 2 is part of what the step is charged for: the mechanism's noise
    multiplier is that of gradient and bits together.
    """

    def __init__(self, norm: float, quantile: float, bits_noise_multiplier: float) -> None:
        super().__init__(norm)
        self._quantile = quantile
        self._bits_sigma = bits_noise_multiplier / 2
        self._bits = 0.0

    def factors(self, norms: torch.Tensor) -> torch.Tensor:
        """See the protocol; counts the bits of these records."""
        whole = norms.norm(dim=0)
        self._bits += float((whole <= self.norm).sum()) - len(whole) / 2
        return super().factors(norms)

    def end_step(self, expected_records: float, stream: KeyStream) -> None:
        """Releases the noised bits, by which C moves."""
        noise = float(stream.gaussian(1, self._bits_sigma)[0])
        below = 0.5 + (self._bits + noise) / expected_records
        self.norm *= math.exp(-QUANTILE_RATE * (min(max(below, 0.0), 1.0) - self._quantile))
        self._bits = 0.0


def clipping_for(privacy: Privacy, norm: float, bits_noise_multiplier: float | None) -> Clipping:
    """The job's rule, starting at `norm`.

    Raises: ValueError when bits would be released that the mechanism does not charge.
    """
    if (privacy.clipping == "adaptive") != (bits_noise_multiplier is not None):
        raise ValueError(f"{privacy.clipping} clipping is not what the mechanism charges for")
    if bits_noise_multiplier is not None:
        return AdaptiveClipping(norm, privacy.clip_quantile, bits_noise_multiplier)
    rules = {"fixed": FixedClipping, "per-layer": PerLayerClipping, "automatic": AutomaticClipping}
    return rules[privacy.clipping](norm)


def clipped_sums(gradients: Sequence[torch.Tensor], rule: Clipping) -> list[torch.Tensor]:
    """(*shape) sums over B records of L tensors' gradients (B, *shape), each clipped by the rule; a record
    whose gradient is not finite counts as zero, and is overwritten by it."""
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients])
    finite = norms.isfinite().all(dim=0)
    if not bool(finite.all()):
        for gradient in gradients:
            gradient[~finite] = 0.0
        norms = torch.where(finite, norms, 0.0)
    return [
        torch.einsum("i,i...", factors, gradient)
        for gradient, factors in zip(gradients, rule.factors(norms), strict=True)
    ]


def _clipped(norms: torch.Tensor, bound: float) -> torch.Tensor:
    return (bound / (norms + STABILITY)).clamp(max=1.0)
