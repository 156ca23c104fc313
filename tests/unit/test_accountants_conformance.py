"""What must hold of every accountant, whatever it computes with."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import ndtr

from shared.core.privacy import ACCOUNTANTS, AdaptiveClipping, Mechanism, epsilon, epsilons
from shared.core.privacy.accountants import PLD_INTERVAL, forget
from shared.core.privacy.mechanisms import DiscreteGaussian, EvaluationQueries, Skellam

DELTA = 1e-5
accountants = pytest.mark.parametrize("accountant", sorted(ACCOUNTANTS))
few = settings(max_examples=20, deadline=None)
counts = st.integers(1, 40)
rates, noises = st.sampled_from([0.01, 0.1, 0.5, 1.0]), st.sampled_from([0.7, 1.0, 1.5, 4.0])


def adaptive_clipping(rate, noise, steps):
    return AdaptiveClipping.of(rate, noise, 5.0, steps)


def skellam(rate, noise, steps):
    return Skellam(rate, noise, steps, l2_sensitivity=20, dimension=100)


def discrete_gaussian(rate, noise, steps):
    return DiscreteGaussian(rate, noise, steps, l2_sensitivity=20, dimension=100)


kinds = st.sampled_from([Mechanism, adaptive_clipping, skellam, discrete_gaussian])
mechanisms = st.one_of(
    st.builds(lambda kind, *figures: kind(*figures), kinds, rates, noises, counts),
    st.builds(EvaluationQueries, st.just(1.0), noises, counts),
)
gaussians = st.builds(Mechanism, rates, noises, counts)


def exact_gaussian(noise, steps, delta):
    """Balle and Wang 2018, arXiv:1805.06530, Theorem 8; `steps` releases are one with noise / sqrt(steps)."""
    sigma = noise / math.sqrt(steps)

    def excess(eps):
        within, beyond = ndtr(0.5 / sigma - eps * sigma), ndtr(-0.5 / sigma - eps * sigma)
        return within - math.exp(eps) * beyond - delta

    return brentq(excess, 0, 400) if excess(0) > 0 else 0.0


@accountants
def test_nothing_released_costs_nothing(accountant):
    assert epsilon([], DELTA, accountant) == 0
    assert epsilon([Mechanism(0.1, 1.0, 0)], DELTA, accountant) == 0


@accountants
@given(kind=kinds, q=rates, noise=noises, steps=counts)
@few
def test_more_steps_a_higher_rate_less_noise_or_a_smaller_delta_never_cost_less(
    accountant, kind, q, noise, steps
):
    one = epsilon([kind(q, noise, steps)], DELTA, accountant)
    assert one <= epsilon([kind(q, noise, steps + 1)], DELTA, accountant) + 1e-9
    assert one <= epsilon([kind(q, noise, steps)], DELTA / 2, accountant) + 1e-9
    # Another rate or noise is another discretisation, which is coarse by one interval.
    assert one <= epsilon([kind(min(1.0, q * 1.2), noise, steps)], DELTA, accountant) + PLD_INTERVAL
    assert one <= epsilon([kind(q, noise / 1.1, steps)], DELTA, accountant) + PLD_INTERVAL


@accountants
@given(parts=st.lists(mechanisms, max_size=4), more=mechanisms)
@few
def test_one_release_more_never_costs_less(accountant, parts, more):
    before, after = (epsilon(all_of_it, DELTA, accountant) for all_of_it in (parts, [*parts, more]))
    assert before <= after + 1e-9


@accountants
@given(parts=st.lists(mechanisms, max_size=4), data=st.data())
@few
def test_neither_the_order_nor_how_steps_are_split_over_entries_matters(accountant, parts, data):
    shuffled = data.draw(st.permutations(parts))
    split = [replace(m, steps=1) for m in shuffled for _ in range(m.steps)]
    expected = epsilon(parts, DELTA, accountant)
    assert epsilon(shuffled, DELTA, accountant) == expected
    assert epsilon(split, DELTA, accountant) == expected


@accountants
@given(many=st.lists(st.lists(mechanisms, max_size=3), max_size=6))
@few
def test_many_at_once_cost_what_each_costs_alone_whatever_is_remembered(accountant, many):
    forget()
    together = epsilons(many, DELTA, accountant)
    assert together == [epsilon(one, DELTA, accountant) for one in many]
    forget()
    assert together == pytest.approx([epsilon(one, DELTA, accountant) for one in many], rel=0, abs=1e-9)


@accountants
@given(noise=noises, steps=counts, delta=st.sampled_from([1e-3, 1e-5, 1e-8]))
@few
def test_it_is_an_upper_bound_on_the_exact_gaussian(accountant, noise, steps, delta):
    assert epsilon([Mechanism(1.0, noise, steps)], delta, accountant) >= exact_gaussian(noise, steps, delta)


@accountants
@given(parts=st.lists(gaussians, min_size=1, max_size=3))
@few
def test_it_is_never_under_pld_by_more_than_the_discretisation(accountant, parts):
    assert epsilon(parts, DELTA, accountant) >= epsilon(parts, DELTA, "pld") - PLD_INTERVAL


@accountants
@given(q=rates, noise=noises, steps=counts)
@few
def test_adaptive_clipping_costs_what_a_gaussian_with_the_joint_noise_costs(accountant, q, noise, steps):
    both = adaptive_clipping(q, noise, steps)
    gaussian = Mechanism(q, both.noise_multiplier, steps)
    assert epsilon([both], DELTA, accountant) == epsilon([gaussian], DELTA, accountant)


@accountants
def test_units_are_not_added(accountant):
    with pytest.raises(ValueError, match="account for each unit on its own"):
        epsilon([Mechanism(0.1, 1.0, 1), Mechanism(0.1, 1.0, 1, "client")], DELTA, accountant)
