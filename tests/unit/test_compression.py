"""Random-k by a shared seed is linear, uniform, unbiased where asked, and fits before the secure encoding."""

import hashlib
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.compression import RandomK, compress, coordinates, expand
from shared.core.secagg.encoding import Encoding, decode_sum, encode, predicted_error
from shared.errors import Refused, Rejected


def seeds(count):
    return [number.to_bytes(4, "big") for number in range(count)]


def vectors(rows, dimension, seed):
    print(f"seed {seed}")
    return np.random.default_rng(seed).normal(size=(rows, dimension)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(dimension=st.integers(1, 300), share=st.floats(0, 1), seed=st.binary(min_size=1, max_size=40))
def test_k_different_coordinates_in_order(dimension, share, seed):
    count = max(1, round(share * dimension))
    chosen = coordinates(RandomK(dimension, count, seed))
    assert len(chosen) == count and (np.diff(chosen) > 0).all()
    assert chosen[0] >= 0 and chosen[-1] < dimension


def test_the_same_seed_gives_the_same_coordinates_for_ever():
    assert coordinates(RandomK(20, 5, b"round")).tolist() == [1, 5, 6, 16, 17]
    many = coordinates(RandomK(100_000, 1000, b"round")).astype("<i8")
    assert hashlib.sha256(many.tobytes()).hexdigest()[:16] == "80204a365b2a7651"


def test_every_coordinate_and_every_pair_is_chosen_equally_often():
    dimension, count, rounds = 10, 3, 4000
    chosen = np.zeros((rounds, dimension))
    for row, seed in zip(chosen, seeds(rounds), strict=True):
        row[coordinates(RandomK(dimension, count, seed))] = 1
    together = chosen.T @ chosen / rounds
    single, pair = count / dimension, count * (count - 1) / (dimension * (dimension - 1))
    off = ~np.eye(dimension, dtype=bool)
    assert np.abs(np.diag(together) - single).max() < 5 * np.sqrt(single * (1 - single) / rounds)
    assert np.abs(together[off] - pair).max() < 5 * np.sqrt(pair * (1 - pair) / rounds)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 40), unbiased=st.booleans())
def test_what_is_kept_of_a_sum_is_the_sum_of_what_is_kept(seed, count, unbiased):
    rng = np.random.default_rng(seed)
    rows = rng.integers(-1000, 1000, (5, 40)).astype(np.float32)  # integers: sums are exact
    compression = RandomK(40, count, b"round", unbiased)
    apart = sum(compress(compression, row) for row in rows)
    assert np.array_equal(apart, compress(compression, rows.sum(axis=0)))
    assert np.linalg.norm(apart) <= np.linalg.norm(rows.sum(axis=0))
    # Keeping what was kept keeps all of it.
    once = expand(replace(compression, unbiased=False), apart)
    assert np.array_equal(compress(compression, once), apart)


def test_all_coordinates_are_the_update_itself():
    (update,) = vectors(1, 33, 61)
    for unbiased in (True, False):
        every = RandomK(33, 33, b"round", unbiased)
        assert np.array_equal(expand(every, compress(every, update)), update)


def test_over_seeds_the_expectation_is_the_update_and_the_variance_is_known():
    (update,), rounds, count = vectors(1, 30, 62), 6000, 6
    back = np.array([expand(k, compress(k, update)) for k in (RandomK(30, count, s) for s in seeds(rounds))])
    variance = (30 / count - 1) * update.astype(np.float64) ** 2
    assert np.abs(back.mean(axis=0) - update).max() < 5 * np.sqrt(variance.max() / rounds)
    squares = ((back - update) ** 2).sum(axis=1)
    expected = (30 / count - 1) * float(update @ update)
    assert abs(squares.mean() - expected) < 5 * squares.std() / np.sqrt(rounds)
    # Not multiplied, k / d of it comes back.
    short = [
        expand(k, compress(k, update)) for k in (RandomK(30, count, s, unbiased=False) for s in seeds(rounds))
    ]
    assert float(np.mean(short, axis=0) @ update / (update @ update)) == pytest.approx(count / 30, rel=0.1)


@pytest.mark.parametrize("rotation", [None, b"rotation"])
def test_encoded_for_a_secure_sum_after_it_nothing_is_lost_but_rounding(rotation):
    clients, rows = 8, vectors(8, 500, 63)
    compression = RandomK(500, 100, b"round")
    encoding = Encoding(100, bits=16, bound=8.0 if rotation is None else 30.0, rotation_seed=rotation)
    total = sum(
        encode(encoding, compress(compression, row), 1.0, os.urandom).values.astype(np.float64)
        for row in rows
    )
    decoded = expand(compression, decode_sum(encoding, total))
    expected = expand(compression, compress(compression, rows.sum(axis=0)))
    error = compression.factor * predicted_error(encoding, clients)
    assert np.abs(decoded - expected).max() < 7 * error < 0.1
    assert np.count_nonzero(decoded) <= 100


def test_what_does_not_fit_is_refused_or_rejected():
    for count, remedy in ((0, "set it to 1"), (11, "set it to 10")):
        with pytest.raises(Refused, match=remedy):
            RandomK(10, count, b"round")
    with pytest.raises(Refused, match="empty seed"):
        RandomK(10, 5, b"")
    with pytest.raises(Rejected, match=r"\(10,\) expected"):
        compress(RandomK(10, 5, b"round"), np.ones(9, np.float32))
    with pytest.raises(Rejected, match=r"\(5,\) expected"):
        expand(RandomK(10, 5, b"round"), np.ones(10, np.float32))
