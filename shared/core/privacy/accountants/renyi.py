"""Renyi divergence of one release of each kind of mechanism, at each order."""

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from dp_accounting import dp_event
from dp_accounting.privacy_accountant import NeighboringRelation
from dp_accounting.rdp import RdpAccountant
from numpy.typing import NDArray

from shared.core.privacy.mechanisms import GAUSSIAN_KINDS, DiscreteGaussian, Mechanism, Pure, Skellam

ORDERS = (*(1 + x / 10 for x in range(1, 100)), *range(11, 64), 128, 256, 512, 1024)
# RDP orders that do not converge are left out, which can only raise epsilon: not worth a line each.
logging.getLogger("absl").setLevel(logging.ERROR)


def renyi_divergences(mechanisms: Iterable[Mechanism]) -> NDArray[np.float64]:
    """Renyi divergence of the whole composition, which adds up.

    Returns: (len(ORDERS),), infinite where no bound is known.
    Raises: ValueError for a kind of mechanism without a bound.
    Source: Mironov 2017, arXiv:1702.07476, Proposition 1.
    """
    total = np.zeros(len(ORDERS))
    for mechanism in mechanisms:
        try:
            of_one = OF_ONE_RELEASE[type(mechanism)]
        except KeyError:
            raise ValueError(f"no Renyi bound is known for {type(mechanism).__name__}") from None
        if mechanism.steps:
            total = total + of_one(mechanism) * mechanism.steps
    return total


def _gaussian(mechanism: Mechanism) -> NDArray[np.float64]:
    return _sampled_gaussian(mechanism.sampling_rate, mechanism.noise_multiplier)


@lru_cache(maxsize=4096)
def _sampled_gaussian(sampling_rate: float, noise_multiplier: float) -> NDArray[np.float64]:
    """By dp-accounting: Mironov et al. 2019, arXiv:1908.10530."""
    accountant = RdpAccountant(ORDERS, NeighboringRelation.ADD_OR_REMOVE_ONE)
    gaussian = dp_event.GaussianDpEvent(noise_multiplier)
    accountant.compose(dp_event.PoissonSampledDpEvent(sampling_rate, gaussian))
    return np.asarray(accountant.rdp, np.float64)


def skellam_divergence(mechanism: Skellam, order: float) -> float:
    """Of one release without sampling, at an order over 1.

    The bound is for whole orders; between them, that of the next one holds, for Renyi divergence grows
    with its order. Source: Agarwal, Kairouz, Liu 2021, arXiv:2110.04995, the bound on the multi-dimensional
    Skellam mechanism; checked against exact divergences in one dimension (tests/unit/test_privacy_renyi.py).
    """
    alpha, variance = math.ceil(order), mechanism.variance
    l1, l2_squared = mechanism.l1_sensitivity, mechanism.l2_sensitivity**2
    beyond_gaussian = min(
        ((2 * alpha - 1) * l2_squared + 6 * l1) / (4 * variance**2),
        3 * l1 / (2 * variance),
    )
    return alpha * l2_squared / (2 * variance) + beyond_gaussian


def _of_one_sampled(sampling_rate: float, unsampled: Callable[[float], float]) -> NDArray[np.float64]:
    divergences = [unsampled(order) for order in ORDERS]
    if sampling_rate == 1:
        return np.array(divergences)
    whole = {alpha: poisson_sampled(sampling_rate, alpha, unsampled) for alpha in set(map(math.ceil, ORDERS))}
    # Sampling never costs: the divergence is jointly quasi-convex, and both sides are mixtures over samples.
    return np.array([min(d, whole[math.ceil(a)]) for a, d in zip(ORDERS, divergences, strict=True)])


def poisson_sampled(sampling_rate: float, alpha: int, unsampled: Callable[[float], float]) -> float:
    """A bound for noise that is added, and symmetric, on a Poisson sample, adding or removing one unit.

    The unit moves the noise's distribution P to Q, by a shift s; x -> s - x turns each into the other. With
    r = Q / P, u = 1 - q + q r and v = 1 - q + q / r that makes twice E_P f(r) the same as
    E_P [f(r) + r f(1 / r)], so that the direction (1 - q) P + q Q from P costs at least as much as the other
    where u^a + r v^a >= u^(1-a) + r v^(1-a), a the order. Both sides agree at a = 1, and
    sinh((a - 1/2) ln u) / sinh((1/2 - a) ln v) grows with a for r > 1, since u v >= 1: so for all a >= 1
    (Mironov et al. 2019, arXiv:1908.10530, Theorem 5, for the Gaussian). For whole orders that direction is a
    binomial sum. Other units in the sample, and whatever randomness they share, only mix such pairs, and
    Renyi divergence is jointly quasi-convex. Checked against exact divergences in one and two dimensions.

    Args:
        sampling_rate: q in (0, 1).
        alpha: a whole order, >= 2.
        unsampled: the mechanism's own divergence at whole orders up to alpha.
    """
    log_keep, log_sample = math.log1p(-sampling_rate), math.log(sampling_rate)
    terms = [(alpha - 1) * log_keep + math.log1p((alpha - 1) * sampling_rate)]
    for drawn in range(2, alpha + 1):  # in how many of alpha copies the unit is in the sample
        log_binomial = math.lgamma(alpha + 1) - math.lgamma(drawn + 1) - math.lgamma(alpha - drawn + 1)
        log_chance = log_binomial + drawn * log_sample + (alpha - drawn) * log_keep
        terms.append(log_chance + (drawn - 1) * unsampled(drawn))
    return float(np.logaddexp.reduce(terms)) / (alpha - 1)


@lru_cache(maxsize=256)
def _integer_noise(one: DiscreteGaussian | Skellam) -> NDArray[np.float64]:
    if isinstance(one, Skellam):
        return _of_one_sampled(one.sampling_rate, lambda order: skellam_divergence(one, order))
    return _of_one_sampled(one.sampling_rate, lambda order: order / (2 * one.noise_multiplier**2))


def _one_release(mechanism: DiscreteGaussian | Skellam) -> NDArray[np.float64]:
    """Remembered whatever the number of steps: a job's compositions differ in nothing else."""
    return _integer_noise(replace(mechanism, steps=1))


def _pure(mechanism: Pure) -> NDArray[np.float64]:
    """Bun and Steinke 2016, arXiv:1605.02065, Proposition 3.3; none is above that of infinite order."""
    return np.minimum(np.asarray(ORDERS) * mechanism.epsilon**2 / 2, mechanism.epsilon)


OF_ONE_RELEASE: dict[type[Mechanism], Callable[[Any], NDArray[np.float64]]] = {
    **dict.fromkeys(GAUSSIAN_KINDS, _gaussian),
    DiscreteGaussian: _one_release,
    Pure: _pure,
    Skellam: _one_release,
}
