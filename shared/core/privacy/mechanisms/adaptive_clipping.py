"""A noisy gradient sum and, from the same sample, the noisy count that moves the clip norm."""

import math
from dataclasses import dataclass, field
from typing import Self

from shared.core.privacy.mechanisms.gaussian import Mechanism, Unit


@dataclass(frozen=True)
class AdaptiveClipping(Mechanism):
    """`steps` joint releases of a clipped sum and of the centred bits (norm <= clip) - 1/2.

    Both are Gaussian queries on one sample, hence one Gaussian query in a higher dimension with the joint
    noise multiplier z = (z_gradient^-2 + z_bits^-2)^(-1/2); it is accounted as a Gaussian with z.
    Source: Andrew et al. 2021, arXiv:1905.03871, Theorem 1 (there z_bits is 2 sigma_b).

    Attributes:
        noise_multiplier: the joint z.
        bits_noise_multiplier: z_bits, the noise's standard deviation on the sum of centred bits over
            its sensitivity 1/2; > z. Infinite when the bits are not released.

    Raises: ValueError when the bits alone would cost more than the whole.
    """

    bits_noise_multiplier: float = field(kw_only=True)

    def __post_init__(self) -> None:
        if not self.bits_noise_multiplier > self.noise_multiplier:
            raise ValueError(
                f"bits with noise multiplier {self.bits_noise_multiplier} leave nothing of the joint "
                f"{self.noise_multiplier} for the gradient: give the bits more noise"
            )

    @classmethod
    def of(
        cls,
        sampling_rate: float,
        gradient_noise_multiplier: float,
        bits_noise_multiplier: float,
        steps: int,
        unit: Unit = "record",
    ) -> Self:
        """From the noise of each of the two queries."""
        joint = (gradient_noise_multiplier**-2 + bits_noise_multiplier**-2) ** -0.5
        return cls(sampling_rate, joint, steps, unit, bits_noise_multiplier=bits_noise_multiplier)

    @property
    def gradient_noise_multiplier(self) -> float:
        """Of the gradient sum: (z^-2 - z_bits^-2)^(-1/2), larger than the joint one."""
        return 1 / math.sqrt(self.noise_multiplier**-2 - self.bits_noise_multiplier**-2)
