"""Decoding a sum gives the weighted updates' sum within the predicted error; every bound holds; a transcript is known."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.secagg.encoding import Encoding, decode_sum, encode, predicted_error
from shared.core.secagg.encoding.rounding import largest_rounded_squares, rounded
from shared.errors import Refused, Rejected
from tests.unit.secagg.oneshot_round import SeededBytes

GOLDEN = Path(__file__).parent / "golden" / "encoding.json"
SEED = b"round 1"


@pytest.fixture
def rng():
    seed = 20_240
    print("seed", seed)
    return np.random.default_rng(seed)


def gaussian(rng, *shape, sigma=1e-3):
    return (rng.standard_normal(shape) * sigma).astype(np.float32)


def summed(encoding, updates, weights, noise=None):
    total = np.zeros(encoding.length)
    for i, (update, weight) in enumerate(zip(updates, weights, strict=True)):
        total += encode(encoding, update, weight, SeededBytes(i), noise).values
    return decode_sum(encoding, total)


@pytest.mark.parametrize("rotation_seed", [None, SEED])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize(("clients", "dimension"), [(1, 50_000), (10, 50_000), (100, 5_000)])
def test_the_decoded_sum_is_the_plain_one_within_the_predicted_error(
    rng, rotation_seed, bits, clients, dimension
):
    updates, weights = gaussian(rng, clients, dimension), rng.uniform(0.3, 1, clients)
    encoding = Encoding(dimension, bits, 6e-3, rotation_seed)
    error = summed(encoding, updates, weights) - weights @ updates
    predicted = predicted_error(encoding, clients)
    assert error.std() == pytest.approx(predicted, rel=0.05)
    assert abs(error.mean()) < 5 * predicted / math.sqrt(dimension)
    assert np.abs(error).max() < 7 * predicted


@pytest.mark.parametrize("dimension", [1, 2, 3, 1000, 4095, 4096, 4097])
@pytest.mark.parametrize("rotation_seed", [None, SEED])
def test_any_dimension_comes_back(rng, dimension, rotation_seed):
    update = gaussian(rng, dimension)
    encoding = Encoding(dimension, 16, 0.05, rotation_seed)
    decoded = summed(encoding, [update], [1])
    assert decoded.shape == (dimension,)
    assert decoded.dtype == np.float32
    assert np.abs(decoded - update).max() < 8 * encoding.step


def test_rounding_is_unbiased_for_small_and_large_coordinates():
    update = np.array([0.25, -0.25, 1e-3, 7.5, -126.9, 100.125, 0.999], np.float32)
    repeats = 20_000
    encoding = Encoding(7 * repeats, 8, 127.0)
    values = encode(encoding, np.tile(update, repeats), 1, SeededBytes("unbiased")).values.reshape(repeats, 7)
    fraction = update - np.floor(update)
    assert np.isin(values - np.floor(update), (0, 1)).all()
    deviation = np.sqrt(fraction * (1 - fraction) / repeats)
    assert (np.abs(values.mean(axis=0) - update) < 5 * deviation + 2e-5).all()


@settings(max_examples=100, deadline=None)
@given(
    update=st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=80),
    weight=st.floats(0.01, 1),
    seed=st.integers(0, 2**32),
)
def test_each_value_is_a_neighbour_of_the_clipped_coordinate(update, weight, seed):
    encoding = Encoding(len(update), 8, 127.0)
    encoded = encode(encoding, np.array(update, np.float32), weight, SeededBytes(seed))
    wanted = np.array(update) * weight
    assert (np.abs(encoded.values - np.clip(wanted, -127, 127)) < 1 + 1e-4).all()
    beyond = [(np.abs(wanted) > 127 + margin).mean() for margin in (1e-4, -1e-4)]
    assert beyond[0] <= encoded.clipped <= beyond[1]
    assert encoded.values.dtype == np.int32
    assert encoded.saturated == 0


def test_integers_and_zeros_are_exact_and_randomness_is_used_elsewhere():
    encoding = Encoding(6, 8, 127.0)
    whole = np.zeros(6, np.float32)
    assert encode(encoding, whole, 1, SeededBytes(1)).values.tolist() == [0] * 6
    halves = np.full(1000, 0.5, np.float32)
    first, second = (
        encode(replace(encoding, dimension=1000), halves, 1, SeededBytes(s)).values for s in (1, 2)
    )
    assert 300 < (first != second).sum() < 700


def test_one_large_coordinate_needs_a_smaller_range_when_rotated(rng):
    """Of a bound that follows from the norm, rotated coordinates lose nothing."""
    update = np.zeros(4096, np.float32)
    update[7] = 1.0
    bound = 6 / 64
    assert encode(Encoding(4096, 8, bound), update, 1, SeededBytes(0)).clipped == 1 / 4096
    rotated = Encoding(4096, 8, bound, SEED)
    assert encode(rotated, update, 1, SeededBytes(0)).clipped == 0
    error = summed(rotated, [update], [1.0]) - update
    assert error.std() < 1.6 * predicted_error(rotated, 1)


@pytest.mark.parametrize("rotation_seed", [None, SEED])
@pytest.mark.parametrize("length", [0.1, 1.0, 3.0])
@pytest.mark.parametrize(("bits", "dimension"), [(8, 3), (8, 4096), (16, 20_000)])
def test_no_rounding_exceeds_the_norm_that_accountants_are_told(rng, rotation_seed, length, bits, dimension):
    update = rng.standard_normal(dimension)
    update = (update * length / np.linalg.norm(update)).astype(np.float32)
    encoding = Encoding(dimension, bits, 1.0, rotation_seed, norm_bound=1.0)
    for seed in range(20):
        weight = 1.0 if seed else 0.5
        encoded = encode(encoding, update, weight, SeededBytes(seed))
        values = encoded.values.astype(np.int64)
        assert values @ values <= encoding.largest_squares
        assert encoded.shortened == pytest.approx(min(1, 1 / (weight * length)), rel=1e-5)


def test_a_rounding_that_is_too_long_is_repeated():
    """Of 4000 halves 2000 are rounded up, give or take 32: at most 1970 take several trials."""
    trials, stream = [], SeededBytes("repeat")

    def counted(count):
        trials.append(count)
        return stream(count)

    for _ in range(20):
        values, _ = rounded(np.full(4000, 0.5, np.float32), 1.0, 127.0, counted, 1970)
        assert values @ values <= 1970
    assert len(trials) > 40


def test_encoding_with_a_norm_bound_repeats_what_plain_rounding_makes_too_long():
    """Halves at the bound: one plain rounding in six is too long."""
    update = np.full(100, 100.5, np.float32)
    plain, bounded = Encoding(100, 8, 127.0), Encoding(100, 8, 127.0, norm_bound=1005.0)

    def longest(encoding):
        values = (encode(encoding, update, 1, SeededBytes(seed)).values for seed in range(100))
        return max(int(row @ row) for row in values)

    assert longest(bounded) <= bounded.largest_squares < longest(plain)


@pytest.mark.parametrize(("norm", "length"), [(1.0, 4), (50.0, 10_000), (1e4, 10_000), (3e7, 1_000_000)])
def test_the_bound_on_rounded_norms_is_kairouz_algorithm_1(norm, length):
    root = math.sqrt(length)
    second = norm**2 + length / 4 + norm + root / 2  # sqrt(2 ln(1 / beta)) is 1
    assert largest_rounded_squares(norm, length) == math.floor(min((norm + root) ** 2, second))
    assert largest_rounded_squares(norm, length) >= norm**2


@pytest.mark.parametrize("bits", [8, 16])
def test_the_longest_update_of_the_largest_coordinates_still_rounds(bits):
    """The bound's float32 factor is rounded down: a norm far above 2^24 steps would not end otherwise."""
    dimension = 200_000
    encoding = Encoding(dimension, bits, 1.0, norm_bound=math.sqrt(dimension))
    update = np.full(dimension, 1.0, np.float32)
    values = encode(encoding, update, 1, SeededBytes(bits)).values.astype(np.int64)
    assert values @ values <= encoding.largest_squares


def test_noise_is_added_and_leaves_the_predicted_error(rng):
    encoding = Encoding(50_000, 12, 6e-3, noise_sigma=1e-3)

    def noise(count):
        return np.rint(rng.standard_normal(count) * encoding.noise_steps).astype(np.int64)

    updates = gaussian(rng, 5, 50_000)
    error = summed(encoding, updates, [1] * 5, noise) - updates.sum(axis=0)
    assert error.std() == pytest.approx(predicted_error(encoding, 5), rel=0.03)
    assert predicted_error(encoding, 5) == pytest.approx(1e-3 * math.sqrt(5), rel=0.01)
    assert encode(encoding, updates[0], 1, SeededBytes(0), noise).saturated == 0


def test_noise_beyond_the_range_saturates_and_is_reported():
    encoding = Encoding(4, 8, 127.0)
    noise = np.array([10**12, -(10**12), 1, 0])
    encoded = encode(encoding, np.zeros(4, np.float32), 1, SeededBytes(0), lambda _: noise)
    assert encoded.values.tolist() == [127, -127, 1, 0]
    assert encoded.saturated == 0.5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rotation_seed", [None, SEED])
def test_what_is_not_finite_is_rejected(value, rotation_seed):
    update = np.zeros(10, np.float32)
    update[3] = value
    with pytest.raises(Rejected, match="not finite"):
        encode(Encoding(10, 16, 1.0, rotation_seed), update, 1, SeededBytes(0))


def test_what_is_huge_is_clipped_or_if_its_rotation_overflows_rejected():
    update = np.full(4096, 3e38, np.float32)
    assert encode(Encoding(4096, 16, 1e-30), update, 1, SeededBytes(0)).clipped == 1
    with pytest.raises(Rejected, match="too large to rotate"):
        encode(Encoding(4096, 16, 1.0, SEED), update, 1, SeededBytes(0))


@pytest.mark.parametrize(
    ("update", "weight"),
    [
        (np.zeros(9, np.float32), 1),
        (np.zeros((1, 10), np.float32), 1),
        (np.zeros(10), 1),
        (np.zeros(10, np.float32), 0),
        (np.zeros(10, np.float32), 1.01),
        (np.zeros(10, np.float32), math.nan),
    ],
)
def test_another_shape_type_or_weight_is_rejected(update, weight):
    with pytest.raises(Rejected):
        encode(Encoding(10, 16, 1.0), update, weight, SeededBytes(0))


@pytest.mark.parametrize("total", [np.zeros(10), np.zeros(17), np.full(16, np.nan)])
def test_a_sum_of_another_shape_or_not_finite_is_rejected(total):
    with pytest.raises(Rejected):
        decode_sum(Encoding(10, 16, 1.0, SEED), total)


def test_decoding_leaves_the_sum_as_it_was():
    total = np.arange(16.0)
    decode_sum(Encoding(10, 16, 1.0, SEED), total)
    assert (total == np.arange(16.0)).all()


@pytest.mark.parametrize(
    "change",
    [
        {"dimension": 0},
        {"bits": 7},
        {"bits": 17},
        {"bound": 0.0},
        {"bound": math.nan},
        {"bound": math.inf},
        {"norm_bound": 0.0},
        {"noise_sigma": -1.0},
        {"noise_sigma": math.nan},
        {"rotation_seed": b""},
    ],
)
def test_settings_that_encode_nothing_are_refused(change):
    with pytest.raises(Refused):
        replace(Encoding(10, 16, 1.0), **change)


def test_every_field_changes_the_digests_fields():
    base = Encoding(10, 16, 1.0)
    changes = [
        {"dimension": 11}, {"bits": 15}, {"bound": 1.5}, {"rotation_seed": SEED}, {"norm_bound": 1.0},
        {"noise_sigma": 0.5},
    ]  # fmt: skip
    fields = [base.to_fields(), *(replace(base, **change).to_fields() for change in changes)]
    assert len(set(fields)) == len(fields)


def transcript():
    """Three clients' updates, encoded with everything on, summed and decoded."""
    encoding = Encoding(6, 12, 2.0, SEED, norm_bound=3.0, noise_sigma=0.01)
    updates = np.array([[1, -1, 0.5, 0.25, 0, 3], [0.1, 0.2, -0.3, 0.4, 0.5, -0.6], [5] * 6], np.float32)
    draws = np.array([3, -8, 0, 1, 12, -2, 4, -5])
    encoded = [
        encode(encoding, update, weight, SeededBytes("golden", i), lambda _: draws)
        for i, (update, weight) in enumerate(zip(updates, (1.0, 0.5, 0.25), strict=True))
    ]
    total = sum(each.values for each in encoded).astype(np.float64)
    return {
        "fields": [field.hex() for field in encoding.to_fields()],
        "step": encoding.step.hex(),
        "noise_steps": encoding.noise_steps.hex(),
        "largest_squares": encoding.largest_squares,
        "values": [each.values.tolist() for each in encoded],
        "shortened": [round(each.shortened, 9) for each in encoded],
        "total": total.tolist(),
        "decoded": [float(value).hex() for value in decode_sum(encoding, total)],
        "predicted_error": predicted_error(encoding, 3).hex(),
    }


def test_a_whole_encoding_is_known():
    assert transcript() == json.loads(GOLDEN.read_text())
