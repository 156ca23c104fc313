"""Plans never overspend, waste less than the last decimal, and say how long a budget lasts."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.privacy import (
    Mechanism,
    NoiseNotFound,
    Skellam,
    epsilon,
    epsilon_curve,
    noise_multiplier_for,
    rounds_left,
)
from shared.core.privacy.accountants import FIGURE_TOLERANCE, reference
from shared.core.privacy.planning import LEAST_NOISE

DELTA = 1e-5


@given(
    target=st.sampled_from([0.5, 1.0, 3.0, 8.0, 10.0]),
    q=st.sampled_from([0.01, 0.1, 0.3]),
    steps=st.integers(1, 60),
)
@settings(max_examples=6, deadline=None)
def test_a_plan_keeps_its_margin_and_a_ten_thousandth_less_noise_would_not(target, q, steps):
    noise = noise_multiplier_for(target, DELTA, q, steps)
    most = target - FIGURE_TOLERANCE
    assert epsilon([Mechanism(q, noise, steps)], DELTA) <= most
    assert round(noise, 4) == noise
    if noise > LEAST_NOISE:
        assert epsilon([Mechanism(q, noise - 1e-4, steps)], DELTA) > most


def test_a_plan_holds_on_a_machine_whose_figures_are_higher_by_what_may_differ():
    exact = epsilon([Mechanism(0.1, 2.0, 400)], DELTA)  # met by a noise multiplier of 2 to the last bit
    noise = noise_multiplier_for(exact, DELTA, 0.1, 400)
    assert noise > 2.0
    assert reference.epsilon([Mechanism(0.1, noise, 400)], DELTA) + FIGURE_TOLERANCE / 2 <= exact


def test_a_target_that_no_noise_meets_is_refused():
    with pytest.raises(NoiseNotFound, match="epsilon 1e-06 cannot be met over 1000 steps"):
        noise_multiplier_for(1e-6, DELTA, 1.0, 1000)


@given(spent_rounds=st.integers(0, 12), planned=st.integers(1, 12))
@settings(max_examples=15, deadline=None)
def test_the_rounds_left_are_those_planned_less_those_spent(spent_rounds, planned):
    a_round = Mechanism(0.1, 1.0, 4)
    target = epsilon([Mechanism(0.1, 1.0, 4 * planned)], DELTA)
    spent = [Mechanism(0.1, 1.0, 4 * spent_rounds)]
    assert rounds_left(spent, a_round, target, DELTA) == max(0, planned - spent_rounds)


def test_rounds_left_stops_counting_at_the_longest_asked_about():
    assert rounds_left([], Mechanism(0.001, 50.0, 1), 8.0, DELTA, longest=20) == 20


@pytest.mark.parametrize("noise", [600.0, 900.0])
def test_targets_that_take_hundreds_of_noise_multipliers_are_planned(noise):
    target = epsilon([Mechanism(1.0, noise, 400)], DELTA) + FIGURE_TOLERANCE
    found = noise_multiplier_for(target, DELTA, 1.0, 400)
    assert epsilon([Mechanism(1.0, found, 400)], DELTA) <= target
    assert found <= noise


def test_rounds_left_keeps_the_kind_and_the_unit_of_a_round():
    a_round = Skellam(0.1, 2.0, 4, "client", l2_sensitivity=50, dimension=100)
    target = epsilon([replace(a_round, steps=12)], DELTA)
    assert rounds_left([a_round], a_round, target, DELTA) == 2


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_a_curve_rises_to_the_plans_own_epsilon(accountant):
    after, spent = epsilon_curve(Mechanism(0.05, 1.0, 4), 200, DELTA, accountant)
    assert len(after) == len(spent) <= 50
    assert (after[0], after[-1]) == (1, 200)
    assert (spent[1:] >= spent[:-1]).all()
    assert spent[-1] == epsilon([Mechanism(0.05, 1.0, 800)], DELTA, accountant)


def test_a_short_plan_has_a_point_for_each_round():
    after, _ = epsilon_curve(Mechanism(0.05, 1.0, 4), 7, DELTA)
    assert after.tolist() == [1, 2, 3, 4, 5, 6, 7]
    with pytest.raises(ValueError, match="nothing to show"):
        epsilon_curve(Mechanism(0.05, 1.0, 4), 0, DELTA)
