"""One step's privacy loss, as dp-accounting discretises it: its masses, their moments and their transform."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism
from numpy.typing import NDArray

Complex = NDArray[np.complex128]
Whole = NDArray[np.int64]
Floats = NDArray[np.float64]

INTERVAL = 1e-3  # of the discretised privacy loss; pessimistic, so epsilon is rounded up by it
LEAST_LOG = -42.0  # factors of e^-42 < 1e-18 are below rounding
EXPONENTS = np.concatenate([-np.geomspace(0.02, 200, 14), np.geomspace(0.02, 200, 14)])  # of Chernoff bounds
REMEMBERED = 256  # steps, and twice as many transforms, of 50 to 500 kB each


@dataclass(frozen=True)
class Step:
    """One step's privacy loss in one direction.

    Attributes:
        lowest: index of the first loss, in intervals.
        chances: (n,) of consecutive losses.
        infinite: mass of an infinite loss.
    """

    lowest: int
    chances: Floats
    infinite: float

    @cached_property
    def log_moments(self) -> Floats:
        """(len(EXPONENTS),) log E[exp(exponent * loss)]."""
        losses = (self.lowest + np.arange(len(self.chances))) * INTERVAL
        with np.errstate(divide="ignore"):
            terms = np.multiply.outer(EXPONENTS, losses) + np.log(self.chances)
        largest = terms.max(axis=1)
        return np.asarray(largest + np.log(np.exp(terms - largest[:, None]).sum(axis=1)))


@dataclass(frozen=True)
class Transform:
    """A step's characteristic function at the frequencies of one period, from 0 up.

    Attributes:
        logs: (period // 2 + 1,) complex.
        heights: (period // 2 + 1,) the largest real part of `logs` from each frequency on.
    """

    logs: Complex
    heights: Floats

    def kept(self, counts: Whole) -> Whole:
        """(n,) how many frequencies are left of each count of steps."""
        return np.searchsorted(-self.heights, -LEAST_LOG / counts, side="right")


@lru_cache(maxsize=REMEMBERED)
def _both_directions(sampling_rate: float, noise_multiplier: float) -> tuple[Step, ...]:
    """Removing a unit and, where that differs, adding one."""
    step = from_gaussian_mechanism(
        noise_multiplier,
        sampling_prob=sampling_rate,
        value_discretization_interval=INTERVAL,
        use_connect_dots=True,
    )
    # dp-accounting has no public way to a distribution's masses.
    masses = [step._pmf_remove] if step._symmetric else [step._pmf_remove, step._pmf_add]
    dense = [one.to_dense_pmf() for one in masses]
    return tuple(Step(one._lower_loss, np.asarray(one._probs), one._infinity_mass) for one in dense)


@lru_cache(maxsize=2 * REMEMBERED)
def transform_of_step(
    sampling_rate: float, noise_multiplier: float, direction: int, period: int
) -> Transform:
    """Over `period` grid points, a power of 2; losses further apart are added up."""
    chances = loss_of_step(sampling_rate, noise_multiplier, direction).chances
    laps = -(-len(chances) // period)
    folded = np.zeros(laps * period)
    folded[: len(chances)] = chances
    with np.errstate(divide="ignore"):
        logs = np.log(np.fft.rfft(folded.reshape(laps, period).sum(axis=0)))
    return Transform(logs, np.maximum.accumulate(logs.real[::-1])[::-1])


def loss_of_step(sampling_rate: float, noise_multiplier: float, direction: int) -> Step:
    """Removing a unit (direction 0) or adding one (1)."""
    both = _both_directions(sampling_rate, noise_multiplier)
    return both[min(direction, len(both) - 1)]
