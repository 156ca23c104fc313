"""Noise of a sum, divided over the clients: which grid, and how much of it each client adds.

Each client encodes a sum of its records' clipped gradients, of which only the sum over clients is opened.
What one record moves that sum by is measured on the integers, after rounding; the noise that the honest
survivors add together is `noise_multiplier` times as much, and is Skellam, whose sums are.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.core.noise import KeyStream
from shared.core.noise.skellam import table
from shared.core.randomness import RandomBytes
from shared.core.secagg.encoding import rotation
from shared.core.secagg.encoding.cohorts import share_sigma
from shared.core.secagg.encoding.parameters import NOISE_REACH, Encoding, largest_value
from shared.errors import Refused

DEVIATION = 6.0  # sqrt(ln(2 / p) / 2) is 5.92 at p = 2^-100
FLOAT_SLACK = 2.0**-9  # of the sensitivity: float32 sums and rotations of sums over some thousand records
SMALLEST_SHARE = 8.0  # steps: from here on noise leaves the range with a probability under 2^-115
ENOUGH = 64  # halvings
SMALLEST_FACTOR = 1e-3  # of a clip norm: with less a client adds noise alone


@dataclass(frozen=True)
class DividedNoise:
    """What the noise on a sum is planned to be; public.

    Attributes:
        noise_multiplier: z, standard deviation of what the honest survivors add together over the L2
            sensitivity after rounding.
        sensitivity: what one record moves a client's update by at most in L2, before it is rounded, in the
            update's units.
        shares: honest survivors at the least, whose noise nobody knows who looks at the sum.
    """

    noise_multiplier: float
    sensitivity: float
    shares: int

    def share_steps(self, moved: float, length: int) -> float:
        """Standard deviation of one client's noise in integer steps, where `moved` of them are `sensitivity`
        and updates have `length` integers."""
        return share_sigma(self.noise_multiplier * rounded_sensitivity(moved, length), self.shares)

    def encoding(self, dimension: int, bits: int, bound: float, rotation_seed: bytes | None) -> Encoding:
        """The finest grid on which a client's clipped sum and `NOISE_REACH` standard deviations of its noise
        fit into so many bits. Arguments as in `Encoding`.

        Raises: Refused where that leaves no whole step for `sensitivity`.
        """
        length = dimension if rotation_seed is None else rotation.padded(dimension)
        largest = largest_value(bits)

        def needed(moved: float) -> float:
            return moved * bound / self.sensitivity + NOISE_REACH * self.share_steps(moved, length)

        low, high = 1.0, largest * self.sensitivity / bound
        if high <= low or needed(low) > largest:
            raise Refused(
                "aggregation.bits",
                f"{bits} bits do not hold what a record adds beside the noise and rounding of {dimension} "
                "coordinates",
                "set aggregation.bits: 16 and aggregation.rotate: true; or adapt fewer coordinates, by "
                "lora.rank or lora.target_modules",
            )
        for _ in range(ENOUGH):
            middle = (low + high) / 2
            low, high = (middle, high) if needed(middle) <= largest else (low, middle)
        sigma = self.share_steps(low, length) * self.sensitivity / low
        return Encoding(dimension, bits, bound, rotation_seed, noise_sigma=sigma)

    def lessened(
        self, ratio: float, dimension: int, bits: int, bound: float, rotation_seed: bytes | None
    ) -> float:
        """The factor on `sensitivity` at which a record moves the rounded integers by at most `ratio`
        (in (0, 1]) of what it moves them by otherwise: the same noise is then 1 / ratio times the multiplier.
        The other arguments as in `encoding`.

        Raises: Refused where rounding alone moves them by more.
        """
        encoding = self.encoding(dimension, bits, bound, rotation_seed)
        moved, length = self.sensitivity / encoding.step, encoding.length
        largest = ratio * rounded_sensitivity(moved, length)
        low, high = 0.0, 1.0
        for _ in range(ENOUGH):
            middle = (low + high) / 2
            fits = rounded_sensitivity(moved * middle, length) <= largest
            low, high = (middle, high) if fits else (low, middle)
        if low < SMALLEST_FACTOR:
            raise Refused(
                "privacy.epsilon",
                f"rounding {dimension} coordinates moves a sum by more than {ratio:.3g} of what a record may",
                "allow more epsilon; or set aggregation.bits: 16, or adapt fewer coordinates",
            )
        return low

    def least_sensitivity(self, bits: int, bound: float) -> float:
        """The L2 sensitivity after rounding is at least so many steps, in every dimension: what an accountant
        needs before the dimension is known.

        Rounding only adds to what a record moves: with D steps of it, D (bound / sensitivity + reach z / root
        of shares) is at least the whole range.
        """
        reach = NOISE_REACH * share_sigma(self.noise_multiplier, self.shares)
        return largest_value(bits) / (bound / self.sensitivity + reach)


def rounded_sensitivity(moved: float, length: int) -> float:
    """What one record moves the integers of a client's sum by in L2, but for a probability of 2^-100.

    Take the same rounding randomness with and without the record: a coordinate that it moves by g, once
    clipped to the bound, which lengthens nothing, then moves by g rounded down or up, of mean g. With e the
    errors, |g + e|^2 is |g|^2 + 2 <g, e> + |e|^2; by Hoeffding's inequality <g, e> is above t |g| and |e|^2
    above d / 4 + t sqrt(d) with a probability of exp(-2 t^2) each. At the worst |g + e| is |g| + sqrt(d).
    With and without the record, sums are mixtures over the same randomness, and so the divergence between
    them is no larger than for the worst of it (joint quasi-convexity). The exceptions of T releases add
    T e^epsilon 2^-100 to delta: 2e-21 for epsilon 10 and 10^5 rounds.

    Args:
        moved: L2 of what a record moves a sum by before rounding, in steps.
        length: d', integers of an encoded update.

    Returns: steps; `moved` and `FLOAT_SLACK` of it at the least.
    """
    before, root = moved * (1 + FLOAT_SLACK), math.sqrt(length)
    likely = before * (before + 2 * DEVIATION) + length / 4 + DEVIATION * root
    return math.sqrt(min((before + root) ** 2, likely))


def share(noise_steps: float, count: int, random_bytes: RandomBytes) -> NDArray[np.int64]:
    """(count,) of Skellam noise of that standard deviation in integer steps: one client's."""
    return table(noise_steps**2).draw(count, KeyStream(random_bytes))
