"""The noise's variance is taken out of second moments without bias."""

import numpy as np
import pytest

from shared.core.optimisers import OPTIMISERS, Options, advance
from tests.unit.optimisers_at_work import mean_of

COORDINATES, ROUNDS, NOISE = 100_000, 40, 0.5
OPTIONS = Options(rate=0.01, momentum=0.9, memory=0.9, floor=0.05)


def seconds(name, signal, noise, told, seed):
    """v after some rounds, (d,): a constant signal in Gaussian noise, of which the optimiser is told."""
    print(f"seed {seed}")
    rng, optimiser = np.random.default_rng(seed), OPTIMISERS[name]
    adapter, state = np.zeros(COORDINATES, np.float32), optimiser.start(COORDINATES, OPTIONS)
    for _ in range(ROUNDS):
        update = signal + noise * rng.standard_normal(COORDINATES)
        adapter, state = advance(optimiser, adapter, state, mean_of(update, told), OPTIONS)
    return state.moments["second"]


@pytest.mark.parametrize("signal", [0.0, 0.3])
@pytest.mark.parametrize("told", [NOISE**2, np.full(COORDINATES, NOISE**2)], ids=["number", "vector"])
def test_adams_second_moment_is_what_it_would_be_without_noise(signal, told):
    noisy = seconds("fedadam", signal, NOISE, told, seed=21)
    clean = seconds("fedadam", signal, 0.0, 0.0, seed=21)
    error = 5 * noisy.std() / np.sqrt(COORDINATES)
    assert abs(noisy.mean() - clean.mean()) < error
    # The test can fail: untold, v is too large by nearly the noise's variance, far more than that error.
    untold = seconds("fedadam", signal, NOISE, 0.0, seed=21)
    assert untold.mean() - clean.mean() > 0.9 * NOISE**2 > 50 * error


def test_yogi_takes_pure_noise_for_nothing():
    told = seconds("fedyogi", 0.0, NOISE, NOISE**2, seed=22)
    untold = seconds("fedyogi", 0.0, NOISE, 0.0, seed=22)
    assert told.min() >= 0
    assert np.median(told) < 0.3 * np.median(untold)


def test_a_larger_signal_has_a_larger_second_moment_in_the_same_noise():
    for name in ("fedadam", "fedyogi"):
        means = [seconds(name, signal, NOISE, NOISE**2, seed=23).mean() for signal in (0.0, 0.5, 1.0)]
        assert means == sorted(means) and means[2] > 2 * means[1]


def test_a_step_is_finite_where_noise_made_the_second_moment_negative():
    update = np.zeros(3, np.float32)
    for name in ("fedadam", "fedyogi"):
        optimiser = OPTIMISERS[name]
        adapter, state = advance(
            optimiser, update, optimiser.start(3, OPTIONS), mean_of(update, 9.0), OPTIONS
        )
        adapter, _ = advance(optimiser, adapter, state, mean_of(update + 1, 9.0), OPTIONS)
        # m = 0.1, v is taken as 0: rate m / tau.
        np.testing.assert_allclose(adapter, 0.01 * 0.1 / 0.05, rtol=1e-6)


@pytest.mark.parametrize(("share", "shorter"), [(1 / 3, True), (0.03, False)])
def test_pure_noise_steps_less_than_the_rate_if_the_floor_is_a_third_of_it(share, shorter):
    print("seed 24")
    rng, optimiser = np.random.default_rng(24), OPTIMISERS["fedadam"]
    options = Options(rate=1.0, floor=share * NOISE)
    state, before = optimiser.start(20_000, options), np.zeros(20_000, np.float32)
    for _ in range(400):
        update = NOISE * rng.standard_normal(20_000)
        after, state = advance(optimiser, before, state, mean_of(update, NOISE**2), options)
        step, before = after - before, after
    assert (np.sqrt((step.astype(np.float64) ** 2).mean()) < options.rate) == shorter
