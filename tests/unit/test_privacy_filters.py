"""A filter never lets more through than its budget, and little is lost to it."""

import pytest
from dp_accounting.rdp.rdp_privacy_accountant import compute_epsilon
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.privacy import Mechanism, RenyiFilter, Skellam, epsilon
from shared.core.privacy.accountants.renyi import ORDERS

DELTA = 1e-5
budgets = st.sampled_from([0.5, 2.0, 8.0, 10.0])
steps = st.integers(1, 20)
rates, noises = st.sampled_from([0.01, 0.1, 1.0]), st.sampled_from([0.8, 1.0, 2.0, 6.0])
asked = st.one_of(
    st.builds(Mechanism, rates, noises, steps),
    st.builds(Skellam, rates, noises, steps, l2_sensitivity=st.just(30), dimension=st.just(100)),
)


@given(budget=budgets, delta=st.sampled_from([1e-3, DELTA, 1e-8]), queue=st.lists(asked, max_size=30))
@settings(max_examples=60, deadline=None)
def test_all_that_is_admitted_together_stays_within_the_budget(budget, delta, queue):
    guard = RenyiFilter.of(budget, delta)
    ran = []
    for mechanism in queue:
        if guard.admits(ran, mechanism):
            ran.append(mechanism)
    assert guard.spent(ran) <= guard.limit
    assert epsilon(ran, delta, "rdp") <= budget + 1e-9
    assert epsilon(ran, delta) <= budget + 1e-9


@given(budget=budgets, ran=st.lists(asked, max_size=3), one=asked)
@settings(max_examples=40, deadline=None)
def test_what_is_refused_would_pass_the_limit_at_the_order(budget, ran, one):
    guard = RenyiFilter.of(budget, DELTA)
    assert guard.admits(ran, one) == (guard.spent(ran) + guard.spent([one]) <= guard.limit + 1e-12)


@pytest.mark.parametrize("a_step", [Mechanism(0.01, 1.0, 1), Mechanism(1.0, 20.0, 1), Mechanism(0.1, 2.0, 1)])
def test_what_was_expected_is_admitted_as_often_as_renyi_accounting_of_a_fixed_plan_allows(a_step):
    guard = RenyiFilter.of(8.0, DELTA, expected=a_step)
    count = int(guard.limit / guard.spent([a_step]))
    for more in (0, 1):
        plan = Mechanism(a_step.sampling_rate, a_step.noise_multiplier, count + more)
        assert (epsilon([plan], DELTA, "rdp") <= 8.0) == (more == 0)


def test_the_order_depends_on_the_budget_and_what_is_expected_alone():
    assert RenyiFilter.of(8.0, DELTA) == RenyiFilter.of(8.0, DELTA)
    assert RenyiFilter.of(8.0, DELTA).order < RenyiFilter.of(0.5, DELTA).order


@pytest.mark.parametrize(("budget", "delta"), [(0.0, DELTA), (float("nan"), DELTA), (1.0, 0.0), (1.0, 1.0)])
def test_what_is_no_budget_is_refused(budget, delta):
    with pytest.raises(ValueError, match="a budget is"):
        RenyiFilter(budget, delta, 2.0)


def test_an_order_that_is_not_computed_is_refused_and_so_is_a_budget_below_all_orders():
    with pytest.raises(ValueError, match="order 2.05"):
        RenyiFilter(1.0, DELTA, 2.05)
    with pytest.raises(ValueError, match="no order holds"):
        RenyiFilter.of(1e-6, 1e-300)


def test_units_are_not_added():
    guard = RenyiFilter.of(8.0, DELTA)
    with pytest.raises(ValueError, match="account for each unit on its own"):
        guard.admits([Mechanism(0.1, 1.0, 1)], Mechanism(0.1, 1.0, 1, "client"))


@pytest.mark.parametrize("order", [order for order in ORDERS if RenyiFilter(8.0, DELTA, order).limit > 0])
def test_spending_the_limit_of_an_order_gives_the_budgets_epsilon_back(order):
    guard = RenyiFilter(8.0, DELTA, order)
    assert compute_epsilon([order], [guard.limit], DELTA)[0] == pytest.approx(8.0)
