"""Honest training stays within the default bounds, cohorts within their rings, noise adds up."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.secagg.encoding import (
    Adam,
    Encoding,
    Sgd,
    check_cohort,
    coordinate_bound,
    encode,
    largest_cohort,
    rotated_bound,
    share_sigma,
)
from shared.core.secagg.encoding.cohorts import PROTOCOLS
from shared.core.secagg.oneshot.ring import Q
from shared.errors import Refused
from tests.unit.secagg.oneshot_round import SeededBytes

DIMENSION = 20_000


def adam(gradients, learning_rate=1.0):
    """Kingma, Ba 2015, Algorithm 1, without epsilon: (steps, d) to (d,)."""
    first = second = moved = np.zeros(gradients.shape[1])
    for t, gradient in enumerate(gradients, start=1):
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        root = np.sqrt(second / (1 - 0.999**t))
        moved = moved + np.divide(first / (1 - 0.9**t), root, out=np.zeros_like(root), where=root > 0)
    return learning_rate * moved


def sgd(gradients, learning_rate, momentum):
    velocity = moved = np.zeros(gradients.shape[1])
    for gradient in gradients:
        velocity = momentum * velocity + gradient
        moved = moved + velocity
    return learning_rate * moved


def noised_gradients(rng, settings, heavy):
    """Poisson samples of records of norm c, a tenth of the norm in one coordinate or all of it."""
    batch = settings.expected_batch
    direction = rng.standard_normal(DIMENSION)
    direction /= np.linalg.norm(direction)
    direction[0] = heavy
    direction /= np.linalg.norm(direction)
    counts = rng.poisson(batch, settings.steps)[:, None]
    noise = rng.standard_normal((settings.steps, DIMENSION)) * settings.noise_multiplier
    return settings.clip_norm * (counts * direction + noise) / batch


@pytest.mark.parametrize("heavy", [0.1, 1e9])
@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(("batch", "noise"), [(1, 0.0), (1, 1.0), (32, 0.8)])
def test_updates_of_noisy_sgd_are_not_clipped_and_the_bound_is_not_idle(
    heavy, rotated, momentum, batch, noise
):
    seed = 11
    print("seed", seed)
    settings = Sgd(0.01, 10, 0.5, noise, batch, momentum)
    rng = np.random.default_rng(seed)
    update = sgd(noised_gradients(rng, settings, heavy), 0.01, momentum).astype(np.float32)
    bound = coordinate_bound(settings, DIMENSION if rotated else None)
    encoding = Encoding(DIMENSION, 16, bound, b"round" if rotated else None)
    encoded = encode(encoding, update, 1.0, SeededBytes(seed))
    assert encoded.clipped == 0
    if heavy > 1 and not rotated:
        assert bound < 5 * np.abs(update).max()


def test_rounds_that_draw_more_records_than_expected_stay_within_the_bound_too():
    seed = 13
    print("seed", seed)
    drawn = np.random.default_rng(seed).poisson(2, (10_000, 10)).sum(axis=1) / 2
    assert drawn.max() > 10 * 1.5
    assert drawn.max() < coordinate_bound(Sgd(1.0, 10, expected_batch=2)) < 2 * drawn.max()


def test_the_bound_of_sgd_by_hand():
    """Steps weigh 1, 1.5, 1.75, with squares 6.3125: records 4.25 + 6 sqrt(6.3125 / 4), noise 6 sqrt(6.3125) 2 / 4."""
    settings = Sgd(0.1, 3, clip_norm=5, noise_multiplier=2, expected_batch=4, momentum=0.5)
    records, noise = 4.25 + 3 * math.sqrt(6.3125), 3 * math.sqrt(6.3125)
    assert coordinate_bound(settings) == pytest.approx(0.5 * (records + noise))
    assert coordinate_bound(settings, 10**6) == pytest.approx(0.5 * (records * 6 / 64 + noise))


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("steps", [1, 10, 200])
def test_updates_of_noisy_adam_are_not_clipped(rotated, steps):
    seed = 12
    print("seed", seed)
    rng = np.random.default_rng(seed)
    gradients = rng.standard_normal((steps, DIMENSION)) + 3 * rng.standard_normal(DIMENSION)
    update = adam(gradients, 0.001).astype(np.float32)
    bound = coordinate_bound(Adam(0.001, steps), DIMENSION if rotated else None)
    encoding = Encoding(DIMENSION, 16, bound, b"round" if rotated else None)
    assert encode(encoding, update, 1.0, SeededBytes(seed)).clipped == 0
    assert bound < (15 if rotated else 3) * np.abs(update).max()


@given(
    gradients=st.lists(
        st.floats(-1e6, 1e6).filter(lambda g: abs(g) > 1e-6 or g == 0), min_size=1, max_size=60
    )
)
def test_no_gradients_move_adam_beyond_its_bound(gradients):
    moved = adam(np.array(gradients)[:, None])[0]
    assert abs(moved) <= Adam(1.0, len(gradients)).reach() * (1 + 1e-9)


@pytest.mark.parametrize("steps", [1, 2, 10, 500])
def test_growing_gradients_take_adams_last_step_to_its_bound(steps):
    """The bound of each step is reached, and for long rounds it is far over the often quoted 3.2."""
    worst = (0.9 / 0.999) ** -np.arange(float(steps))
    last = adam(worst[:, None])[0] - (adam(worst[:-1, None])[0] if steps > 1 else 0)
    step = Adam(1.0, steps).reach() - Adam(1.0, steps - 1).reach()
    assert last == pytest.approx(step, rel=1e-6)
    assert steps < 500 or last > 4


def test_a_rotated_coordinate_stays_within_six_standard_deviations():
    assert rotated_bound(2.0, 4096) == pytest.approx(2 * 6 / 64)
    assert rotated_bound(2.0, 16) == 2.0


@pytest.mark.parametrize(
    ("bits", "modulus", "most"),
    [(16, 2**32, 65538), (8, 2**32, 16_909_320), (16, Q, 32767), (16, 2**64, 2**53 // 32767), (8, 256, 1)],
)
def test_the_largest_cohorts_worst_sum_does_not_wrap_and_one_more_would(bits, modulus, most):
    assert largest_cohort(bits, modulus) == most
    largest = 2 ** (bits - 1) - 1
    assert 2 * most * largest < modulus
    assert 2 * (most + 1) * largest >= min(modulus, 2**54)


@pytest.mark.parametrize(
    ("protocol", "clients", "bits", "remedy"),
    [
        ("secagg", 65_539, 16, "set it to 15"),
        ("secagg", 10**6, 16, "set it to 12"),
        ("secagg", 10**8, 16, "groups of at most 65538"),
        ("oneshot", 2048, 8, "groups of at most 2047"),
    ],
)
def test_a_cohort_that_overflows_is_refused_with_the_nearest_that_fits(protocol, clients, bits, remedy):
    with pytest.raises(Refused, match=remedy):
        check_cohort(protocol, clients, bits)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_a_protocol_holds_is_accepted_and_one_more_is_not(protocol):
    most = PROTOCOLS[protocol](16)
    check_cohort(protocol, most, 16)
    with pytest.raises(Refused):
        check_cohort(protocol, most + 1, 16)


def test_shares_of_honest_survivors_add_up_to_the_noise():
    assert 49 * share_sigma(3.5, 49) ** 2 == pytest.approx(3.5**2)
    assert share_sigma(3.5, 1) == 3.5
    with pytest.raises(Refused):
        share_sigma(3.5, 0)
    assert math.isclose(share_sigma(1, 100), 0.1)
