"""Privacy loss distributions: the tightest figure, for Gaussian noise."""

import math
from functools import lru_cache

from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution, from_gaussian_mechanism

from shared.core.privacy.accountants.rdp import rdp
from shared.core.privacy.mechanisms import AdaptiveClipping, EvaluationQueries, Mechanism

PLD_INTERVAL = 1e-3  # of the discretised privacy loss; pessimistic, so epsilon is rounded up by it
GAUSSIAN = (Mechanism, AdaptiveClipping, EvaluationQueries)  # accounted by q and the noise multiplier alone


@lru_cache(maxsize=16_384)
def pld(merged: tuple[Mechanism, ...], delta: float) -> float:
    """As an `Accountant`. A composition with a kind that has no distribution here is left whole to `rdp`.

    Source: Koskela et al. 2020, arXiv:1906.03049, by Google's dp-accounting, discretised pessimistically,
    so that the figure is an upper bound.
    """
    if any(type(mechanism) not in GAUSSIAN for mechanism in merged):
        return rdp(merged, delta)
    parts = [_of_step(m.sampling_rate, m.noise_multiplier).self_compose(m.steps) for m in merged]
    total = parts[0]
    for part in parts[1:]:
        total = total.compose(part)
    found = float(total.get_epsilon_for_delta(delta))
    return math.inf if math.isnan(found) else found


@lru_cache(maxsize=256)
def _of_step(sampling_rate: float, noise_multiplier: float) -> PrivacyLossDistribution:
    return from_gaussian_mechanism(
        noise_multiplier,
        sampling_prob=sampling_rate,
        value_discretization_interval=PLD_INTERVAL,
        use_connect_dots=True,
    )
