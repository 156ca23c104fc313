"""AboveThreshold: its answers, its chances, and that one record changes these by e^epsilon at most."""

import math
import secrets
from collections import Counter

import numpy as np
import pytest

from shared.core.noise import KeyStream
from shared.core.privacy.above_threshold import AboveThreshold

SENSITIVITY, EPSILON = 2, 1.0


def first_above(queries, stream):
    """The index of the first yes; None without."""
    run = AboveThreshold.begin(1 / EPSILON, SENSITIVITY, stream)
    for index, query in enumerate(queries):
        run = run.asked(query, stream)
        if run.fired:
            return index
    return None


def exact(queries):
    """Chance of each index, by summing over thresholds and noise."""
    support = np.arange(-400, 401)

    def chances(scale):
        weights = np.exp(-np.abs(support) / scale)
        return weights / weights.sum()

    threshold, noise = chances(2 * SENSITIVITY / EPSILON), chances(4 * SENSITIVITY / EPSILON)
    at_least = np.append(np.cumsum(noise[::-1])[::-1], 0.0)  # P(noise >= support[i])
    left, found = threshold.copy(), []
    for query in queries:
        above = at_least[np.clip(support - query + 400, 0, len(support))]
        found.append(float((left * above).sum()))
        left = left * (1 - above)
    return [*found, float(left.sum())]


def test_its_answers_come_with_the_chances_that_follow_from_its_noise():
    seed = secrets.randbits(63)
    print("seed", seed)
    stream, queries, runs = KeyStream(np.random.default_rng(seed).bytes), [-20, 3, -5, 10], 4000
    counted = Counter(first_above(queries, stream) for _ in range(runs))
    for index, chance in zip([0, 1, 2, 3, None], exact(queries), strict=True):
        assert abs(counted[index] - runs * chance) < 6 * math.sqrt(runs * chance * (1 - chance)) + 1


@pytest.mark.parametrize("moves", [(2, 2, 2, 2), (-2, -2, -2, -2), (2, -2, 2, -2), (-2, 2, -2, 2)])
def test_one_record_changes_every_chance_by_a_factor_of_e_to_epsilon_at_most(moves):
    queries = [-20, 3, -5, 10]
    for one, other in zip(
        exact(queries), exact([q + m for q, m in zip(queries, moves, strict=True)]), strict=True
    ):
        assert abs(math.log(one / other)) <= EPSILON + 1e-9


def test_once_above_it_stays_so_without_another_draw():
    stream = KeyStream(secrets.token_bytes)
    run = AboveThreshold.begin(1 / EPSILON, SENSITIVITY, stream).asked(10_000, stream)
    assert run.fired
    assert run.asked(-10_000, None) is run


def test_what_is_far_below_never_fires():
    stream = KeyStream(secrets.token_bytes)
    assert first_above([-3_000] * 100, stream) is None
