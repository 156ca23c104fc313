"""The quick composition finds what dp-accounting finds, one by one or many at once."""

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.privacy import AdaptiveClipping, Mechanism, Skellam, epsilon
from shared.core.privacy.accountants import PLD_INTERVAL, fourier, reference
from shared.core.privacy.accountants.fourier import LARGEST_PERIOD, composed_epsilons
from shared.core.privacy.accountants.pld import LARGEST_EPSILON, by_pld

DELTA = 1e-5
segment = st.tuples(
    st.sampled_from([0.001, 0.01, 0.1, 0.3, 1.0]),
    st.sampled_from([0.5, 0.8, 1.0, 2.0, 8.0, 60.0]),
    st.sampled_from([1, 2, 5, 40, 300, 2000]),
)
compositions = st.lists(segment, min_size=1, max_size=4, unique_by=lambda one: one[:2])


def with_dp_accounting_alone(segments, delta):
    official = PLDAccountant(
        dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=PLD_INTERVAL
    )
    for q, noise, steps in segments:
        step = dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(noise))
        official.compose(dp_accounting.SelfComposedDpEvent(step, steps))
    with np.errstate(over="ignore"):
        return official.get_epsilon(delta)


@given(segments=compositions, delta=st.sampled_from([1e-2, 1e-4, 1e-5, 1e-6]))
@settings(max_examples=40, deadline=None)
def test_it_agrees_with_dp_accounting_alone_to_a_millionth(segments, delta):
    (found,), official = composed_epsilons([segments], delta), with_dp_accounting_alone(segments, delta)
    if official <= LARGEST_EPSILON:
        assert found == pytest.approx(official, rel=0, abs=1e-6)
    else:
        assert found > LARGEST_EPSILON


@given(many=st.lists(compositions, min_size=1, max_size=12))
@settings(max_examples=25, deadline=None)
def test_many_at_once_are_what_each_is_alone(many):
    together = composed_epsilons(many, DELTA)
    alone = [composed_epsilons([one], DELTA)[0] for one in many]
    assert together == pytest.approx(alone, rel=0, abs=1e-9)


@given(many=st.lists(compositions, min_size=2, max_size=6))
@settings(max_examples=25, deadline=None)
def test_the_order_of_segments_matters_only_to_rounding(many):
    turned = [one[::-1] for one in many]
    assert composed_epsilons(many, DELTA) == pytest.approx(composed_epsilons(turned, DELTA), rel=0, abs=1e-9)


def test_more_steps_than_are_remembered_are_composed_a_few_at_a_time(monkeypatch):
    many = [[(0.01 + index / 1000, 1.0, 9), (0.2, 2.0, 3)] for index in range(7)]
    at_once = composed_epsilons(many, DELTA)
    monkeypatch.setattr(fourier, "REMEMBERED", 12)  # of which a quarter at once
    assert composed_epsilons(many, DELTA) == pytest.approx(at_once, rel=0, abs=1e-9)


def test_nothing_to_compose_is_no_figure():
    assert composed_epsilons([], DELTA) == []


def test_a_delta_that_everything_meets_costs_nothing():
    assert composed_epsilons([[(0.01, 1.0, 1)], [(1.0, 200.0, 1)]], 0.9) == [0.0, 0.0]


def test_a_loss_too_wide_for_the_quick_way_is_left_to_dp_accounting():
    wide = [(1.0, 0.5, 400)]
    assert composed_epsilons([wide, [(0.01, 1.0, 10)]], DELTA)[0] == np.inf
    mechanism = Mechanism(*wide[0])
    found = by_pld([(mechanism,)], DELTA)[0]
    assert LARGEST_EPSILON < found == reference.epsilon([mechanism], DELTA) < LARGEST_PERIOD * 0.01


def test_an_absurd_composition_costs_more_than_anyone_allows():
    parts = [Mechanism(0.3, 0.5, 300), Mechanism(1.0, 0.5, 300)]
    assert epsilon(parts, 0.01) > 500


def test_many_steps_at_a_small_delta_are_left_to_dp_accounting():
    mechanism = Mechanism(0.001, 1.0, 3000)
    assert by_pld([(mechanism,)], 1e-8) == [reference.epsilon([mechanism], 1e-8)]


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_the_reference_finds_the_same_for_every_kind(accountant):
    skellam = Skellam(0.1, 1.0, 8, l2_sensitivity=50, dimension=100)
    clipping = AdaptiveClipping.of(0.01, 1.0, 5.0, 800)
    for parts in ([], [clipping], [clipping, Mechanism(0.02, 0.9, 40)], [clipping, skellam]):
        found = epsilon(parts, DELTA, accountant)
        assert found == pytest.approx(reference.epsilon(parts, DELTA, accountant), rel=0, abs=1e-6)


def test_the_reference_refuses_what_the_accountants_refuse():
    with pytest.raises(ValueError, match="between 0 and 1"):
        reference.epsilon([], 0)
    with pytest.raises(ValueError, match="there are pld, rdp"):
        reference.epsilon([], DELTA, "gdp")
