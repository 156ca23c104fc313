"""Known figures, and what must hold of every accountant."""

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.privacy import ACCOUNTANTS, Mechanism, composed, epsilon
from shared.core.privacy.accountants import PLD_INTERVAL
from shared.core.privacy.mechanisms import without

DELTA = 1e-5
rates = st.sampled_from([0.01, 0.05, 0.1, 0.5, 1.0])
noises = st.sampled_from([0.7, 1.0, 1.5, 4.0])
mechanisms = st.builds(Mechanism, rates, noises, st.integers(0, 50))
accountants = pytest.mark.parametrize("accountant", sorted(ACCOUNTANTS))
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


@accountants
@given(parts=st.lists(mechanisms, max_size=4), data=st.data())
@quick
def test_order_and_splitting_change_nothing(accountant, parts, data):
    shuffled = data.draw(st.permutations(parts))
    split = [Mechanism(m.sampling_rate, m.noise_multiplier, 1) for m in shuffled for _ in range(m.steps)]
    expected = epsilon(parts, DELTA, accountant)
    assert epsilon(shuffled, DELTA, accountant) == expected
    assert epsilon(split, DELTA, accountant) == expected


@accountants
@given(q=rates, sigma=noises, steps=st.integers(1, 200))
@quick
def test_more_steps_a_higher_rate_or_less_noise_never_cost_less(accountant, q, sigma, steps):
    def cost(rate, noise, count):
        return epsilon([Mechanism(rate, noise, count)], DELTA, accountant)

    one = cost(q, sigma, steps)
    assert one <= cost(q, sigma, steps + 1) + 1e-9
    # Another rate or noise is another discretisation, which is coarse by one interval.
    assert one <= cost(min(1.0, q * 1.2), sigma, steps) + PLD_INTERVAL
    assert one <= cost(q, sigma / 1.1, steps) + PLD_INTERVAL


@given(parts=st.lists(mechanisms, min_size=1, max_size=3))
@quick
def test_the_cross_check_is_never_tighter_than_pld(parts):
    assert epsilon(parts, DELTA) <= epsilon(parts, DELTA, "rdp") + PLD_INTERVAL


@accountants
def test_nothing_released_costs_nothing(accountant):
    assert epsilon([], DELTA, accountant) == 0
    assert epsilon([Mechanism(0.1, 1.0, 0)], DELTA, accountant) == 0


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
