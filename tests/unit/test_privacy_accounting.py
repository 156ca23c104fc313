"""Known figures, and compositions as data. What must hold of every accountant: test_accountants_conformance.py."""

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.privacy import Mechanism, composed, epsilon
from shared.core.privacy.accountants import PLD_INTERVAL
from shared.core.privacy.mechanisms import without

DELTA = 1e-5
rates = st.sampled_from([0.01, 0.05, 0.1, 0.5, 1.0])
noises = st.sampled_from([0.7, 1.0, 1.5, 4.0])
mechanisms = st.builds(Mechanism, rates, noises, st.integers(0, 50))
quick = settings(max_examples=25, deadline=None)


@pytest.mark.parametrize(
    ("steps", "accountant", "figure"),
    [(1_000, "rdp", 2.101), (1_000, "pld", 1.829), (10_000, "rdp", 6.713), (10_000, "pld", 6.191)],
)
def test_known_figures_at_rate_001_and_noise_1(steps, accountant, figure):
    assert epsilon([Mechanism(0.01, 1.0, steps)], DELTA, accountant) == pytest.approx(figure, abs=6e-4)


@given(st.lists(mechanisms.filter(lambda m: m.steps), min_size=1, max_size=3))
@quick
def test_pld_agrees_with_dp_accounting_given_the_events_one_by_one(parts):
    official = PLDAccountant(
        dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=PLD_INTERVAL
    )
    for m in parts:
        step = dp_accounting.PoissonSampledDpEvent(
            m.sampling_rate, dp_accounting.GaussianDpEvent(m.noise_multiplier)
        )
        official.compose(dp_accounting.SelfComposedDpEvent(step, m.steps))
    assert epsilon(parts, DELTA) == pytest.approx(official.get_epsilon(DELTA), abs=1e-6)


@given(parts=st.lists(mechanisms, min_size=1, max_size=3))
@quick
def test_the_cross_check_is_never_tighter_than_pld(parts):
    assert epsilon(parts, DELTA) <= epsilon(parts, DELTA, "rdp") + PLD_INTERVAL


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, float("nan")])
def test_a_delta_that_is_no_probability_is_refused(delta):
    with pytest.raises(ValueError, match="between 0 and 1"):
        epsilon([Mechanism(0.1, 1.0, 1)], delta)


def test_there_is_no_gdp_accountant_to_underestimate_with():
    with pytest.raises(ValueError, match="there are pld, rdp"):
        epsilon([Mechanism(0.1, 1.0, 1)], DELTA, "gdp")


@given(st.lists(mechanisms, max_size=5), mechanisms)
@quick
def test_what_was_added_can_be_taken_away_again(parts, one):
    assert without(composed([*parts, one]), one) == composed(parts)


@given(st.lists(mechanisms, max_size=5), mechanisms.filter(lambda m: m.steps))
@quick
def test_more_than_was_composed_cannot_be_taken_away(parts, one):
    held = sum(
        m.steps
        for m in parts
        if (m.sampling_rate, m.noise_multiplier) == (one.sampling_rate, one.noise_multiplier)
    )
    with pytest.raises(ValueError, match="more would be taken away"):
        without(parts, Mechanism(one.sampling_rate, one.noise_multiplier, held + 1))


def test_a_mechanism_cannot_run_a_negative_number_of_times():
    with pytest.raises(ValueError, match="cannot run -1 times"):
        composed([Mechanism(0.1, 1.0, -1)])
