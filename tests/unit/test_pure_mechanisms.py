"""What is (epsilon, 0)-private among the accountants, and the noise that AboveThreshold is made with."""

import math
import secrets

import numpy as np
import pytest
from scipy import stats

from shared.core.noise import DiscreteLaplace, KeyStream
from shared.core.privacy import Mechanism, Pure, epsilon
from shared.core.privacy.accountants import reference
from shared.events.values import PoissonSampled


def test_one_release_costs_its_epsilon_and_no_more():
    for asked in (0.1, 0.5, 2.0):
        found = epsilon([Pure(1.0, 1 / asked, 1)], 1e-9)
        assert asked - 1e-3 <= found <= asked + 2e-3
        assert epsilon([Pure(1.0, 1 / asked, 1)], 1e-9, "rdp") >= found - 2e-3


def test_two_releases_cost_what_randomised_response_twice_does():
    """Kairouz, Oh, Viswanath 2015, Theorem 3.3, for two releases: delta at epsilon 0 is (1 - e^-a)/(1 + e^-a),
    and the largest loss 2a has the probability (e^a / (1 + e^a))^2."""
    one, delta = 0.5, 0.1
    keep = (math.exp(one) / (1 + math.exp(one))) ** 2
    exact = 2 * one + math.log(1 - delta / keep)
    assert epsilon([Pure(1.0, 1 / one, 2)], delta) == pytest.approx(exact, abs=5e-3)
    assert epsilon([Pure(1.0, 1 / one, 2)], delta) >= exact - 1e-9


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_beside_training_it_costs_less_than_its_epsilon_more_and_an_auditor_agrees(accountant):
    training, vote = Mechanism(0.1, 1.0, 100), Pure(1.0, 1 / 0.3, 1)
    alone, both = epsilon([training], 1e-5, accountant), epsilon([training, vote], 1e-5, accountant)
    assert alone < both <= alone + 0.3 + 2e-3
    assert reference.epsilon([training, vote], 1e-5, accountant) == pytest.approx(both, abs=1e-6)


def test_a_reservation_says_what_it_is_and_nothing_that_cannot_be():
    mechanism = Pure(1.0, 1 / 0.3, 1)
    assert PoissonSampled.of(mechanism).core() == mechanism
    for wrong in ({"sampling_rate": 0.5}, {"l2_sensitivity": 1.0}, {"bits_noise_multiplier": 50.0}):
        with pytest.raises(ValueError, match=r"integers|pure"):
            PoissonSampled(**{"kind": "pure", "sampling_rate": 1, "noise_multiplier": 3, "steps": 1, **wrong})
    with pytest.raises(ValueError, match="sampling"):
        Pure(0.5, 1.0, 1)


@pytest.mark.parametrize("scale", [0.3, 1.0, 7.5, 300.0])
def test_laplace_noise_on_integers_has_the_chances_of_its_formula(scale):
    seed = secrets.randbits(63)
    print("seed", seed)
    count = 100_000
    drawn = DiscreteLaplace(scale).add(
        np.zeros(count, np.int64), KeyStream(np.random.default_rng(seed).bytes)
    )
    ratio = math.exp(-1 / scale)
    edges = np.unique(np.round(np.array([-4, -2, -1, -0.5, -0.1, 0, 0.1, 0.5, 1, 2, 4]) * scale).astype(int))

    def below(k):
        """P(X <= k)."""
        return 1 - ratio ** (k + 1) / (1 + ratio) if k >= 0 else ratio**-k / (1 + ratio)

    cumulated = np.array([below(int(edge)) for edge in edges])
    expected = np.diff([0, *cumulated, 1]) * count
    found = np.histogram(drawn, [-(2**40), *(edges + 0.5), 2**40])[0]
    assert ((found - expected) ** 2 / expected).sum() < stats.chi2.ppf(1 - 1e-6, len(expected) - 1)


def test_a_scale_that_is_not_one_is_refused():
    for scale in (0.0, -1.0, math.inf, math.nan, 1e5):
        with pytest.raises(ValueError, match=r"positive|table"):
            DiscreteLaplace(scale)
