"""What guessed canaries say about epsilon: published values, and mechanisms whose epsilon is known."""

import math

import numpy as np
import pytest
from scipy import stats

from shared.core.privacy.audit import (
    GUESSED_SHARES,
    Guesses,
    audited_epsilon,
    chi_squared_p_value,
    epsilon_lower_bound,
    guess,
    membership_scores,
    most_audited_epsilon,
    p_value,
)

CONFIDENCE = 0.95


@pytest.mark.parametrize(
    ("guesses", "delta", "printed"),
    [
        (Guesses(1000, 100, 75), 1e-4, 0.673),  # arXiv:2305.08846v1, Appendix D
        (Guesses(100_000, 1510, 1439), 1e-5, 2.675),  # Section 7, Figure 11; cut, not rounded
    ],
)
def test_the_bound_is_the_one_printed_in_the_paper(guesses, delta, printed):
    assert epsilon_lower_bound(guesses, delta, CONFIDENCE) == pytest.approx(printed, abs=1e-3)


def test_without_delta_the_p_value_is_a_binomial_tail():
    for made, correct, epsilon in ((40, 31, 0.5), (500, 480, 3.0), (7, 7, 0.0)):
        tail = stats.binom.sf(correct - 1, made, 1 / (1 + math.exp(-epsilon)))
        assert p_value(Guesses(1000, made, correct), epsilon, 0.0) == pytest.approx(tail, rel=1e-9)


def test_delta_adds_the_papers_correction():
    made, correct, epsilon, delta, canaries = 60, 50, 1.0, 1e-3, 80
    x = stats.binom(made, 1 / (1 + math.exp(-epsilon)))
    worst = max((x.cdf(correct - 1) - x.cdf(correct - i - 1)) / i for i in range(1, correct + 1))
    wanted = x.sf(correct - 1) + 2 * canaries * delta * worst
    assert p_value(Guesses(canaries, made, correct), epsilon, delta) == pytest.approx(wanted, rel=1e-9)


def test_more_correct_guesses_never_lower_the_bound_and_more_confidence_or_delta_never_raise_it():
    bounds = [epsilon_lower_bound(Guesses(400, 200, v), 1e-5, CONFIDENCE) for v in range(100, 201, 5)]
    assert bounds == sorted(bounds)
    assert bounds[0] == 0 < bounds[-1]
    some = Guesses(400, 200, 190)
    surer = [epsilon_lower_bound(some, 1e-5, confidence) for confidence in (0.8, 0.9, 0.99, 0.9999)]
    assert surer == sorted(surer, reverse=True)
    weaker = [epsilon_lower_bound(some, delta, CONFIDENCE) for delta in (0.0, 1e-5, 1e-4, 1e-3)]
    assert weaker == sorted(weaker, reverse=True)


def randomised_responses(generator, canaries, epsilon):
    """(truth, answers) of a mechanism that is exactly epsilon-private for each canary."""
    included = generator.random(canaries) < 0.5
    honest = generator.random(canaries) < 1 / (1 + math.exp(-epsilon))
    return included, np.where(honest, included, ~included)


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_randomised_response_is_refuted_at_its_own_epsilon_at_most_as_often_as_allowed(epsilon):
    seed, runs, canaries = 20230515, 400, 300
    print(f"seed {seed}")
    generator = np.random.default_rng(seed)
    refuted = 0
    for _ in range(runs):
        included, answers = randomised_responses(generator, canaries, epsilon)
        right = int((included == answers).sum())
        refuted += epsilon_lower_bound(Guesses(canaries, canaries, right), 0.0, CONFIDENCE) > epsilon
    assert refuted <= stats.binom.ppf(1 - 1e-6, runs, 1 - CONFIDENCE)


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_many_canaries_bring_the_bound_near_the_epsilon_of_randomised_response(epsilon):
    seed = 7
    print(f"seed {seed}")
    included, answers = randomised_responses(np.random.default_rng(seed), 20_000, epsilon)
    right = int((included == answers).sum())
    bound = epsilon_lower_bound(Guesses(20_000, 20_000, right), 0.0, CONFIDENCE)
    assert 0.9 * epsilon < bound < 1.02 * epsilon


def test_scores_that_say_nothing_give_no_bound_more_often_than_the_confidence_allows():
    seed, runs = 11, 300
    print(f"seed {seed}")
    generator = np.random.default_rng(seed)
    above = sum(
        audited_epsilon(generator.random(200), generator.random(200) < 0.5, 0.0, CONFIDENCE)[0] > 0
        for _ in range(runs)
    )
    assert above <= stats.binom.ppf(1 - 1e-6, runs, 1 - CONFIDENCE)


def test_scores_that_say_all_give_the_most_that_so_many_canaries_can_show():
    included = np.arange(1000) % 2 == 0
    found, guesses = audited_epsilon(included.astype(float), included, 1e-5, CONFIDENCE)
    assert guesses.correct == guesses.made
    assert found == most_audited_epsilon(1000, 1e-5, CONFIDENCE)
    level = 1 - (1 - CONFIDENCE) / len(GUESSED_SHARES)
    assert found == max(
        epsilon_lower_bound(guess(included.astype(float), included, *shares), 1e-5, level)
        for shares in GUESSED_SHARES
    )
    assert most_audited_epsilon(100, 1e-5, CONFIDENCE) < found


def test_the_highest_scores_are_guessed_in_and_the_lowest_out():
    included = np.array([False, True, True, False, True, True, False, True, False, True])
    assert guess(np.arange(10.0), included, 0.2, 0.3) == Guesses(10, 5, 2)
    assert guess(np.arange(10.0), included, 0.2, 0.0) == Guesses(10, 2, 1)


def test_scores_at_rate_one_order_canaries_as_the_sum_of_inner_products():
    shares = np.random.default_rng(1).normal(size=(5, 50))
    scores = membership_scores(shares, 1.0, np.full((5, 50), 2.0))
    assert (np.argsort(scores) == np.argsort(shares.sum(axis=0))).all()


def test_a_score_is_the_log_of_a_ratio_of_densities():
    shares, rate, noise = np.array([[0.3], [1.4]]), 0.2, 0.7
    absent, present = stats.norm(0, noise).pdf(shares), stats.norm(1, noise).pdf(shares)
    wanted = np.log(((1 - rate) * absent + rate * present) / absent).sum()
    found = membership_scores(shares, rate, np.full((2, 1), noise))
    assert found == pytest.approx([wanted])


@pytest.mark.parametrize("degrees", [1, 30, 10**6])
def test_the_variance_test_is_two_sided_and_near_its_own_median_says_nothing(degrees):
    chi = stats.chi2(degrees)
    assert chi_squared_p_value(chi.median(), degrees) == pytest.approx(1.0)
    assert chi_squared_p_value(chi.ppf(0.001), degrees) == pytest.approx(0.002, rel=1e-6)
    assert chi_squared_p_value(chi.isf(0.001), degrees) == pytest.approx(0.002, rel=1e-6)
    assert chi_squared_p_value(4 * degrees + 40, degrees) < 1e-6


@pytest.mark.parametrize("counts", [(10, 11, 5), (10, 5, 6), (10, 5, -1)])
def test_impossible_guesses_are_refused(counts):
    with pytest.raises(ValueError, match="guesses on"):
        Guesses(*counts)
