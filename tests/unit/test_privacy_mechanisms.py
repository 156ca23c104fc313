"""What ran, as data: merged, told apart by kind, never added over units."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.privacy import AdaptiveClipping, Mechanism, composed
from shared.core.privacy.mechanisms import EvaluationQueries, Skellam, without

noises = st.floats(0.1, 100)


def test_entries_that_differ_in_steps_alone_are_merged_and_kinds_stay_apart():
    gaussian, bits = Mechanism(0.1, 1.0, 2), AdaptiveClipping(0.1, 1.0, 3, bits_noise_multiplier=4.0)
    other_bits = AdaptiveClipping(0.1, 1.0, 3, bits_noise_multiplier=5.0)
    assert composed([bits, gaussian, other_bits, bits, gaussian]) == (
        AdaptiveClipping(0.1, 1.0, 6, bits_noise_multiplier=4.0),
        other_bits,
        Mechanism(0.1, 1.0, 4),
    )


def test_one_kind_is_not_taken_away_from_another():
    bits = AdaptiveClipping(0.1, 1.0, 3, bits_noise_multiplier=4.0)
    with pytest.raises(ValueError, match="more would be taken away"):
        without([bits], Mechanism(0.1, 1.0, 3))
    assert without([bits, Mechanism(0.1, 1.0, 3)], bits) == (Mechanism(0.1, 1.0, 3),)


def test_records_and_clients_are_not_added():
    with pytest.raises(ValueError, match="units client and record: account for each unit on its own"):
        composed([Mechanism(0.1, 1.0, 3), Mechanism(0.1, 1.0, 3, "client")])


@given(gradient=noises, bits=noises)
def test_the_joint_noise_of_adaptive_clipping_gives_the_gradients_back(gradient, bits):
    both = AdaptiveClipping.of(0.1, gradient, bits, 1)
    assert both.noise_multiplier < min(gradient, bits)
    assert math.isclose(both.noise_multiplier**-2, gradient**-2 + bits**-2)
    assert math.isclose(both.gradient_noise_multiplier, gradient, rel_tol=1e-6)


def test_bits_that_alone_cost_more_than_the_whole_are_refused():
    with pytest.raises(ValueError, match="give the bits more noise"):
        AdaptiveClipping(0.1, 1.0, 3, bits_noise_multiplier=1.0)


def test_an_evaluation_query_asks_everyone():
    with pytest.raises(ValueError, match="not a rate of 0.5"):
        EvaluationQueries(0.5, 1.0, 3)
    assert composed([EvaluationQueries(1.0, 1.0, 3)]) != composed([Mechanism(1.0, 1.0, 3)])


@pytest.mark.parametrize(("l2", "dimension"), [(0, 5), (3, 0), (-1, 5)])
def test_integer_noise_without_a_sensitivity_or_coordinates_is_refused(l2, dimension):
    with pytest.raises(ValueError, match="must be positive"):
        Skellam(0.1, 1.0, 1, l2_sensitivity=l2, dimension=dimension)
