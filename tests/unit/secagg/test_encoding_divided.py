"""Noise divided over clients: what a record moves after rounding, the grid, and the noise that adds up."""

import math
import os

import numpy as np
import pytest
from scipy import stats

from shared.core.secagg.encoding import (
    SMALLEST_SHARE,
    DividedNoise,
    Encoding,
    decode_sum,
    encode,
    rounded_sensitivity,
)
from shared.core.secagg.encoding.parameters import NOISE_REACH
from shared.errors import Refused
from tests.unit.secagg.oneshot_round import SeededBytes

PLANS = [
    pytest.param(dimension, bits, seed, DividedNoise(z, 1e-4, shares), id=f"{dimension}-{bits}-{z}-{shares}")
    for dimension, bits, seed, z, shares in (
        (3000, 16, b"seed", 0.5, 1), (100_000, 16, b"seed", 2.0, 9), (100_000, 16, None, 1.0, 4),
        (100_000, 12, b"seed", 1.0, 9), (2_000_000, 16, b"seed", 2.0, 2),
    )
]  # fmt: skip
BOUND = 15e-4


@pytest.mark.parametrize("spread", [1, 300, 20_000], ids="over {} coordinates".format)
@pytest.mark.parametrize("moved", [0.5, 30.0, 1000.0])
def test_the_same_rounding_with_and_without_a_record_moves_integers_by_no_more(moved, spread):
    seed = int.from_bytes(os.urandom(4))
    print("seed", seed)
    rng = np.random.default_rng(seed)
    bound = 5000.0
    encoding = Encoding(20_000, 16, bound)
    longest = 0.0
    for trial in range(20):
        without = rng.uniform(-bound, bound, 20_000).astype(np.float32)
        record = np.zeros(20_000)
        record[:spread] = rng.standard_normal(spread)
        record *= moved * encoding.step / np.linalg.norm(record)
        pair = (without, (without + record).astype(np.float32))
        one, other = (encode(encoding, update, 1, SeededBytes(trial)).values.astype(float) for update in pair)
        longest = max(longest, float(np.linalg.norm(one - other)))
    limit = rounded_sensitivity(moved, encoding.length)
    assert longest <= limit
    assert moved < limit <= moved * (1 + 2**-9) + math.sqrt(20_000)


def test_rounding_costs_little_where_a_step_is_small_and_is_never_left_out():
    assert rounded_sensitivity(1650.0, 102_400) / 1650 == pytest.approx(1.0103, abs=1e-3)
    assert rounded_sensitivity(1.0, 10**6) >= math.sqrt(10**6 / 4)


@pytest.mark.parametrize(("dimension", "bits", "seed", "noise"), PLANS)
def test_the_grid_is_the_finest_that_holds_bound_and_noise(dimension, bits, seed, noise):
    encoding = noise.encoding(dimension, bits, BOUND, seed)
    moved = noise.sensitivity / encoding.step
    honest = encoding.noise_steps * math.sqrt(noise.shares)
    assert honest >= noise.noise_multiplier * rounded_sensitivity(moved, encoding.length) * (1 - 1e-12)
    filled = encoding.bound / encoding.step + NOISE_REACH * encoding.noise_steps
    assert filled == pytest.approx(encoding.largest, rel=1e-9)


@pytest.mark.parametrize(("dimension", "bits", "seed", "noise"), PLANS)
def test_the_sensitivity_that_accountants_are_told_is_not_above_that_of_any_dimension(
    dimension, bits, seed, noise
):
    encoding = noise.encoding(dimension, bits, BOUND, seed)
    real = rounded_sensitivity(noise.sensitivity / encoding.step, encoding.length)
    assert noise.least_sensitivity(bits, BOUND) <= real


@pytest.mark.parametrize(
    ("change", "bits", "bound"), [({}, 8, BOUND), ({"noise_multiplier": 900.0}, 16, BOUND), ({}, 16, 10.0)]
)
def test_a_range_that_cannot_hold_a_record_beside_the_noise_is_refused(change, bits, bound):
    noise = DividedNoise(**{"noise_multiplier": 1.0, "sensitivity": 1e-4, "shares": 1, **change})
    with pytest.raises(Refused, match="do not hold what a record adds"):
        noise.encoding(1_000_000, bits, bound, b"seed")


def test_no_share_is_added_without_somebody_to_add_it():
    with pytest.raises(Refused):
        DividedNoise(1.0, 1e-4, 0).encoding(1000, 16, BOUND, None)


@pytest.mark.parametrize("seed", [None, b"seed"])
def test_noise_is_added_unasked_and_has_the_planned_variance(seed):
    """Of 5 clients of whom 4 are planned to be honest, (5 / 4) (z S)^2 by a chi-squared test at 1e-6."""
    number = int.from_bytes(os.urandom(4))
    print("seed", number)
    dimension, clients = 100_000, 5
    noise = DividedNoise(0.8, 1e-4, 4)
    encoding = noise.encoding(dimension, 16, BOUND, seed)
    update = np.zeros(dimension, np.float32)
    total = np.zeros(encoding.length)
    for client in range(clients):
        total += encode(encoding, update, 1, SeededBytes(number, client)).values
    left = decode_sum(encoding, total).astype(np.float64)
    moved = rounded_sensitivity(noise.sensitivity / encoding.step, encoding.length) * encoding.step
    expected = clients / noise.shares * (noise.noise_multiplier * moved) ** 2
    statistic = float(left @ left) / expected
    assert stats.chi2.ppf(5e-7, dimension) < statistic < stats.chi2.ppf(1 - 5e-7, dimension)


def test_no_two_uploads_share_noise():
    encoding = DividedNoise(0.8, 1e-4, 4).encoding(1000, 16, BOUND, None)
    update = np.zeros(1000, np.float32)
    first, second = (encode(encoding, update, 1, os.urandom).values for _ in range(2))
    assert abs(float(np.corrcoef(first, second)[0, 1])) < 0.3


def test_the_range_is_left_with_a_negligible_probability():
    """Chernoff's bound on P(X >= k), X Skellam of the smallest share's variance."""
    variance = SMALLEST_SHARE**2
    k = NOISE_REACH * SMALLEST_SHARE
    log_tail = math.hypot(variance, k) - variance - k * math.asinh(k / variance)
    assert log_tail < -115 * math.log(2)
