"""Renyi bounds of integer noise, against exact divergences in one dimension."""

import math

import numpy as np
import pytest
from scipy.special import ive

from shared.core.privacy import epsilon
from shared.core.privacy.accountants.renyi import (
    OF_ONE_RELEASE,
    ORDERS,
    poisson_sampled,
    renyi_divergences,
    skellam_divergence,
)
from shared.core.privacy.mechanisms import DiscreteGaussian, Mechanism, Skellam

WHOLE = [order for order in ORDERS if order == int(order) and order <= 16]
noises = pytest.mark.parametrize(("kind", "noise", "shift"), [
    (kind, noise, shift) for kind in (DiscreteGaussian, Skellam) for noise in (0.7, 1.0, 3.0) for shift in (1, 2, 7)
])  # fmt: skip


def probabilities(mechanism, reach):
    """On -reach..reach, one coordinate; far enough out that what is left is under 1e-300."""
    values = np.arange(-reach, reach + 1)
    if isinstance(mechanism, Skellam):
        return ive(np.abs(values), mechanism.variance)
    weights = np.exp(-(values**2) / (2 * mechanism.variance))
    return weights / weights.sum()


def divergence(p, q, order):
    both = (p > 0) & (q > 0)
    return math.log(np.sum(np.exp(order * np.log(p[both]) + (1 - order) * np.log(q[both])))) / (order - 1)


def released(kind, noise, shift, rate=1.0):
    """The two distributions of a release, without the unit and with it, and the mechanism."""
    mechanism = kind(rate, noise, 1, l2_sensitivity=shift, dimension=1)
    reach = math.ceil(25 * math.sqrt(mechanism.variance)) + 20
    noise_alone = probabilities(mechanism, reach)
    moved = np.roll(noise_alone, shift)
    moved[:shift] = 0
    return noise_alone, (1 - rate) * noise_alone + rate * moved, mechanism


@noises
def test_the_bound_covers_the_exact_divergence(kind, noise, shift):
    without, including, mechanism = released(kind, noise, shift)
    bounds = dict(zip(ORDERS, renyi_divergences([mechanism]), strict=True))
    for order in [1.1, 1.5, 2.5, *WHOLE]:
        assert divergence(including, without, order) <= bounds[order] + 1e-9
        assert bounds[order] >= order * noise**-2 / 2 - 1e-12


@noises
@pytest.mark.parametrize("rate", [0.01, 0.2, 0.7])
def test_the_bound_under_sampling_covers_the_exact_divergence_both_ways(kind, noise, shift, rate):
    without, including, mechanism = released(kind, noise, shift, rate)
    bounds = dict(zip(ORDERS, renyi_divergences([mechanism]), strict=True))
    for order in WHOLE:
        exact = max(divergence(including, without, order), divergence(without, including, order))
        assert exact <= bounds[order] + 1e-9


def test_the_bound_under_sampling_is_not_idle():
    without, including, mechanism = released(Skellam, 3.0, 7, 0.1)
    bounds = dict(zip(ORDERS, renyi_divergences([mechanism]), strict=True))
    assert bounds[2.0] <= 1.05 * divergence(including, without, 2)


def test_skellam_tends_to_the_gaussian_as_its_grid_grows_finer():
    gaussian = [order / 2 for order in WHOLE]
    excess = [
        max(skellam_divergence(Skellam(1.0, 1.0, 1, l2_sensitivity=grid, dimension=10**6), order) / bound - 1
            for order, bound in zip(WHOLE, gaussian, strict=True))
        for grid in (10.0, 100.0, 1000.0, 10_000.0)
    ]  # fmt: skip
    assert excess == sorted(excess, reverse=True)
    assert 0 < excess[-1] < 1e-4 < excess[0]


def test_between_whole_orders_skellam_takes_the_next_ones_bound():
    mechanism = Skellam(1.0, 1.0, 1, l2_sensitivity=5, dimension=4)
    assert skellam_divergence(mechanism, 2.3) == skellam_divergence(mechanism, 3)


@pytest.mark.parametrize(("l2", "dimension", "l1"), [(1, 100, 1), (4, 9, 12), (100, 10_000, 10_000)])
def test_the_l1_sensitivity_is_the_smaller_of_its_two_bounds(l2, dimension, l1):
    assert Skellam(1.0, 1.0, 1, l2_sensitivity=l2, dimension=dimension).l1_sensitivity == l1


def test_a_discrete_gaussian_costs_what_the_gaussian_costs_in_renyi_terms():
    plain = Mechanism(1.0, 2.0, 5)
    discrete = DiscreteGaussian(1.0, 2.0, 5, l2_sensitivity=30, dimension=10**6)
    assert np.allclose(renyi_divergences([discrete]), renyi_divergences([plain]))


def test_sampling_of_symmetric_noise_is_the_gaussians_own_formula():
    own = dict(zip(ORDERS, renyi_divergences([Mechanism(0.1, 1.0, 1)]), strict=True))
    for order in WHOLE[1:]:
        assert poisson_sampled(0.1, int(order), lambda of: of / 2) == pytest.approx(own[order], rel=1e-9)


@pytest.mark.parametrize("rate", [0.05, 0.4])
@pytest.mark.parametrize("shift", [(1, 1), (2, 1), (3, 0)])
def test_the_bound_under_sampling_covers_the_exact_divergence_in_two_dimensions(rate, shift):
    mechanism = Skellam(rate, 0.8, 1, l2_sensitivity=math.hypot(*shift), dimension=2)
    one = probabilities(mechanism, 60)
    moved = [np.concatenate([np.zeros(by), one[: len(one) - by]]) for by in shift]
    without, along = np.outer(one, one), np.outer(*moved)
    including = (1 - rate) * without + rate * along
    bounds = dict(zip(ORDERS, renyi_divergences([mechanism]), strict=True))
    for order in WHOLE:
        exact = [divergence(*pair, order) for pair in ((including, without), (without, including))]
        assert exact[1] <= exact[0] + 1e-9
        assert max(exact) <= bounds[order] + 1e-9


def test_no_pld_means_the_whole_composition_is_accounted_by_rdp():
    parts = [Mechanism(0.1, 1.0, 10), Skellam(0.1, 1.0, 10, l2_sensitivity=50, dimension=100)]
    assert epsilon(parts, 1e-5) == epsilon(parts, 1e-5, "rdp") < math.inf


def test_a_kind_without_a_bound_is_refused_not_taken_for_a_gaussian():
    class Other(Mechanism):
        pass

    assert Other not in OF_ONE_RELEASE
    with pytest.raises(ValueError, match="no Renyi bound is known for Other"):
        epsilon([Other(0.1, 1.0, 1)], 1e-5)
