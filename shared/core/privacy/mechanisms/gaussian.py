"""The Gaussian mechanism over Poisson-sampled units: one DP-SGD step, `steps` times."""

from dataclasses import dataclass
from typing import Literal

Unit = Literal["record", "client"]


@dataclass(frozen=True)
class Mechanism:
    """`steps` releases of a clipped sum over Poisson-sampled units plus Gaussian noise.

    Neighbours differ by adding or removing one unit (Abadi et al. 2016, arXiv:1607.00133, Section 3;
    Mironov et al. 2019, arXiv:1908.10530 for Poisson sampling). At q = 1 it is the plain Gaussian mechanism.
    Other kinds extend it with what else their accounting needs; none is accounted as this one by default.

    Attributes:
        sampling_rate: q in (0, 1].
        noise_multiplier: noise standard deviation / L2 sensitivity, > 0.
        steps: compositions, >= 0.
        unit: whose presence is hidden. Figures of different units are never added.
    """

    sampling_rate: float
    noise_multiplier: float
    steps: int
    unit: Unit = "record"

    @property
    def gradient_noise_multiplier(self) -> float:
        """Of the sum alone, where a kind releases more beside it."""
        return self.noise_multiplier
