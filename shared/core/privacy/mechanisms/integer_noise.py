"""Integer vectors plus integer noise: what secure aggregation can sum exactly."""

import math
from dataclasses import dataclass, field
from typing import Self

from shared.core.privacy.mechanisms.gaussian import Mechanism


@dataclass(frozen=True)
class IntegerNoise(Mechanism):
    """`steps` releases of a sum of integer vectors plus independent integer noise on each coordinate.

    Attributes:
        noise_multiplier: noise standard deviation / L2 sensitivity.
        l2_sensitivity: largest L2 norm of one unit's vector after rounding, in grid units.
        dimension: coordinates.

    Raises: ValueError for a sensitivity or dimension that is not positive.
    """

    l2_sensitivity: float = field(kw_only=True)
    dimension: int = field(kw_only=True)

    def __post_init__(self) -> None:
        if not (self.l2_sensitivity > 0 and self.dimension > 0):
            raise ValueError(
                f"sensitivity {self.l2_sensitivity} and dimension {self.dimension} must be positive"
            )

    @property
    def l1_sensitivity(self) -> float:
        """At most min(sqrt(d) D2, D2^2) in grid units, for |x| <= x^2 on integers."""
        return min(math.sqrt(self.dimension) * self.l2_sensitivity, self.l2_sensitivity**2)

    @property
    def variance(self) -> float:
        """Of the noise on one coordinate, in squared grid units."""
        return (self.noise_multiplier * self.l2_sensitivity) ** 2


@dataclass(frozen=True)
class DiscreteGaussian(IntegerNoise):
    """Noise from one discrete Gaussian a coordinate, with `variance` as its parameter sigma^2.

    The parameter bounds the noise's true variance from above. A sum of several parties' discrete Gaussians
    is not one, and is not this kind. Source: Canonne, Kamath, Steinke 2020, arXiv:2004.00010.
    """


@dataclass(frozen=True)
class Skellam(IntegerNoise):
    """Noise from the difference of two Poisson variables of mean `variance` / 2 each.

    Closed under addition: parties that add variances v_k add up to one Skellam of their sum.
    Source: Agarwal, Kairouz, Liu 2021, arXiv:2110.04995.
    """

    @classmethod
    def of_any_dimension(
        cls, sampling_rate: float, noise_multiplier: float, steps: int, l2_sensitivity: float
    ) -> Self:
        """What costs no less than any Skellam of this noise multiplier whose grid is as fine or finer.

        On integers the L1 norm is at most the squared L2 norm D^2, whatever the dimension; then the bound is
        a / (2 z^2) + min((2 a + 5) / (4 z^4 D^2), 3 / (2 z^2)) at order a, which falls as D grows.

        `l2_sensitivity` is in grid units, at the least; the others are as in `Mechanism`.
        """
        dimension = max(1, math.ceil(l2_sensitivity**2))
        return cls(sampling_rate, noise_multiplier, steps, l2_sensitivity=l2_sensitivity, dimension=dimension)
