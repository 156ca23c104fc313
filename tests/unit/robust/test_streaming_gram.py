"""The Gram matrix of updates as they arrive: exact for integers, and within its bound for sketches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.robust.streaming import gram
from shared.core.secagg.mpc3 import sketch
from shared.errors import Rejected

SEED = bytes(range(32))


def taken(updates, drawn=None, most=None):
    """All rows, in order."""
    state = gram.empty(updates.shape[1], most or len(updates), updates.dtype, drawn)
    for update in updates:
        state = gram.absorb(state, update)
    return state


def random_updates(rows, dimension, dtype, seed):
    print("seed", seed)
    rng = np.random.default_rng(seed)
    if dtype is np.float32:
        return rng.normal(0, 1, (rows, dimension)).astype(np.float32)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, (rows, dimension), dtype, endpoint=True)


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 70),
    dimension=st.one_of(st.integers(1, 5), st.integers(1000, 1100)),
    dtype=st.sampled_from([np.int8, np.int16]),
    seed=st.integers(0, 2**32 - 1),
)
def test_of_integers_it_is_exact(rows, dimension, dtype, seed):
    updates = random_updates(rows, dimension, dtype, seed)
    wide = updates.astype(np.int64)
    assert np.array_equal(gram.matrix(taken(updates)), (wide @ wide.T).astype(np.float64))


@pytest.mark.parametrize("dtype", [np.int8, np.int16])
@pytest.mark.parametrize("limit", ["min", "max"])
def test_of_the_largest_magnitude_everywhere_it_is_exact(dtype, limit):
    value = int(getattr(np.iinfo(dtype), limit))
    updates = np.full((33, 5001), value, dtype)
    assert (gram.matrix(taken(updates)) == 5001 * value**2).all()


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, 70), dimension=st.integers(1, 3000), seed=st.integers(0, 2**32 - 1))
def test_of_floats_it_is_within_the_rounding_of_1024_products(rows, dimension, seed):
    updates = random_updates(rows, dimension, np.float32, seed)
    wide, result = updates.astype(np.float64), gram.matrix(taken(updates))
    bound = 1025 * 2.0**-24 * (np.abs(wide) @ np.abs(wide).T)
    assert (np.abs(result - wide @ wide.T) <= bound).all()
    assert np.array_equal(result, result.T)


@pytest.mark.parametrize("drawn", [None, sketch.draw(SEED, 300, 64)], ids=["whole", "sketched"])
def test_it_is_the_same_in_between_and_in_another_order(drawn):
    updates = random_updates(70, 300, np.int8, 4)
    whole = gram.matrix(taken(updates, drawn))
    state = gram.empty(300, 70, np.int8, drawn)
    for count, update in enumerate(updates, start=1):
        state = gram.absorb(state, update)
        assert np.array_equal(gram.matrix(state), whole[:count, :count])
    order = np.random.default_rng(4).permutation(70)
    assert np.array_equal(gram.matrix(taken(updates[order], drawn)), whole[np.ix_(order, order)])


def test_the_same_block_again_has_the_same_products():
    block = random_updates(32, 20, np.int16, 6)
    once, twice = gram.matrix(taken(block)), gram.matrix(taken(np.concatenate([block, block])))
    assert np.array_equal(twice, np.tile(once, (2, 2)))


@pytest.mark.parametrize("dtype", [np.int8, np.int16])
@pytest.mark.parametrize(("dimension", "size"), [(1, 1), (100, 64), (128, 64), (1000, 96), (5, 512)])
def test_the_sketch_of_integers_is_that_of_the_three_party_protocol(dtype, dimension, size):
    updates = random_updates(3, dimension, dtype, 7)
    drawn = sketch.draw(SEED, dimension, size)
    words = updates.astype(np.int64).view(np.uint64)
    plain = np.array([sketch.apply(drawn, row).view(np.int64) for row in words])
    assert np.array_equal(taken(updates, drawn).rows, plain.astype(np.float64))
    assert np.array_equal(gram.matrix(taken(updates, drawn)), (plain @ plain.T).astype(np.float64))


def test_inner_products_of_sketches_are_off_by_what_is_stated():
    size, draws = 64, 400
    updates = random_updates(2, 2000, np.float32, 8)
    updates[1] += updates[0]
    wide = updates.astype(np.float64)
    exact, norms = wide @ wide.T, np.linalg.norm(wide, axis=1)
    found = np.array(
        [
            gram.matrix(taken(updates, sketch.draw(draw.to_bytes(32, "big"), 2000, size)))
            for draw in range(draws)
        ]
    )
    allowed = np.sqrt(2 / size) * np.outer(norms, norms)
    assert (found.std(axis=0) < 1.2 * allowed).all()
    assert (np.abs(found.mean(axis=0) - exact) < 5 * allowed / np.sqrt(draws)).all()


def test_another_seed_gives_another_sketch_and_the_same_one_the_same():
    updates = random_updates(2, 500, np.float32, 9)
    first, same, other = (
        gram.matrix(taken(updates, sketch.draw(seed, 500, 64))) for seed in (SEED, SEED, bytes(32))
    )
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_what_does_not_fit_is_refused_and_not_counted():
    updates = random_updates(40, 3, np.float32, 10)
    state = taken(updates, most=41)
    for update in (updates[0][:2], updates[:1], updates[0].astype(np.float64)):
        with pytest.raises(Rejected, match="the update"):
            gram.absorb(state, update)
    assert state.count == 40
    full = gram.absorb(state, updates[0])
    with pytest.raises(Rejected, match="holds 41"):
        gram.absorb(full, updates[0])


def test_another_type_or_a_sketch_of_other_updates_is_refused():
    with pytest.raises(Rejected, match="float64"):
        gram.empty(3, 10, np.float64)
    for drawn in (sketch.draw(SEED, 4, 64), sketch.draw(SEED, 3, 0)):
        with pytest.raises(Rejected, match="a sketch of"):
            gram.empty(3, 10, np.int8, drawn)


def test_nobody_writes_into_the_matrix():
    with pytest.raises(ValueError, match="read-only"):
        gram.matrix(taken(random_updates(3, 4, np.int8, 12)))[0, 0] = 1
