"""What ran, as data: epsilon is always derived from these."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Mechanism:
    """`steps` releases of a clipped sum over Poisson-sampled records plus Gaussian noise.

    The unit is one record; neighbours differ by adding or removing one (Abadi et al. 2016,
    arXiv:1607.00133, Section 3; Mironov et al. 2019, arXiv:1908.10530 for Poisson sampling).

    Attributes:
        sampling_rate: q in (0, 1].
        noise_multiplier: noise standard deviation / clip norm, > 0.
        steps: compositions, >= 0.
    """

    sampling_rate: float
    noise_multiplier: float
    steps: int


def composed(mechanisms: Iterable[Mechanism]) -> tuple[Mechanism, ...]:
    """Run-length form: one entry for each (q, sigma), in a fixed order. Order of release is irrelevant."""
    steps: Counter[tuple[float, float]] = Counter()
    for mechanism in mechanisms:
        if mechanism.steps < 0:
            raise ValueError(f"a mechanism cannot run {mechanism.steps} times")
        steps[mechanism.sampling_rate, mechanism.noise_multiplier] += mechanism.steps
    return tuple(Mechanism(q, sigma, count) for (q, sigma), count in sorted(steps.items()) if count)


def without(mechanisms: Sequence[Mechanism], removed: Mechanism) -> tuple[Mechanism, ...]:
    """The composition less `removed`. Raises: ValueError when it is not contained."""
    kept = []
    for mechanism in composed(mechanisms):
        same = (mechanism.sampling_rate, mechanism.noise_multiplier) == (
            removed.sampling_rate,
            removed.noise_multiplier,
        )
        kept.append(
            Mechanism(
                mechanism.sampling_rate,
                mechanism.noise_multiplier,
                mechanism.steps - (removed.steps if same else 0),
            )
        )
        if same:
            removed = Mechanism(removed.sampling_rate, removed.noise_multiplier, 0)
    if removed.steps or any(mechanism.steps < 0 for mechanism in kept):
        raise ValueError("more would be taken away than was composed")
    return composed(kept)
