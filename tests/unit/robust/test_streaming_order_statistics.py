"""Median and trimmed mean, counted as updates arrive: equal to NumPy's and SciPy's of the whole matrix."""

from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from shared.core.robust.streaming import columns, histogram, quantised, ranks
from shared.errors import Rejected


@dataclass(frozen=True)
class Way:
    """One of the modules, and what it takes."""

    module: ModuleType
    dtype: type

    def taken(self, updates):
        """All rows, in order."""
        dimension = updates.shape[1]
        state = (
            histogram.empty(dimension)
            if self.module is histogram
            else columns.empty(dimension, len(updates) + 1)
        )
        for update in updates:
            state = self.module.absorb(state, update)
        return state


WAYS = (Way(histogram, np.int8), Way(columns, np.int16))
every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: np.dtype(way.dtype).name)


@st.composite
def matrices(draw, dtype):
    """(n, d), over block borders, of the whole range or with many equal values."""
    shape = (draw(st.integers(1, 70)), draw(st.integers(1, 5)))
    limits = np.iinfo(dtype)
    low, high = draw(st.sampled_from([(limits.min, limits.max), (-2, 2), (limits.max - 1, limits.max)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()):
        return rng.integers(low, high, shape, dtype, endpoint=True)
    return draw(arrays(dtype, shape, elements=st.integers(low, high), fill=st.integers(low, high)))


def random_updates(way, rows, dimension, seed=5):
    print("seed", seed)
    limits = np.iinfo(way.dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max, (rows, dimension), way.dtype)


@every_way
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_the_median_is_numpys(way, data):
    updates = data.draw(matrices(way.dtype))
    expected = np.median(updates.astype(np.float64), axis=0)
    assert np.array_equal(way.module.median(way.taken(updates)), expected)


@every_way
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_the_trimmed_mean_is_scipys_for_every_trim(way, data):
    updates = data.draw(matrices(way.dtype))
    state = way.taken(updates)
    ordered = np.sort(updates.astype(np.float64), axis=0)
    for trim in range((len(updates) - 1) // 2 + 1):
        trimmed = way.module.trimmed_mean(state, trim)
        # SciPy cuts a fraction, rounded down.
        expected = stats.trim_mean(updates.astype(np.float64), (trim + 0.5) / len(updates), axis=0)
        assert np.array_equal(trimmed, expected)
        assert np.array_equal(trimmed, ordered[trim : len(updates) - trim].mean(axis=0))


@every_way
@settings(deadline=None)
@given(data=st.data())
def test_the_order_of_arrival_does_not_matter(way, data):
    updates = data.draw(matrices(way.dtype))
    other = updates[data.draw(st.permutations(range(len(updates))))]
    trim = data.draw(st.integers(0, (len(updates) - 1) // 2))
    assert np.array_equal(
        way.module.trimmed_mean(way.taken(updates), trim), way.module.trimmed_mean(way.taken(other), trim)
    )


@every_way
@pytest.mark.parametrize("rows", [1, 2, 31, 32, 33, 64, 1000])
def test_a_result_in_between_changes_nothing(way, rows):
    updates = random_updates(way, rows, 3)
    state = way.taken(updates[:0])
    if way.module is columns:
        state = columns.empty(3, rows)
    for count, update in enumerate(updates, start=1):
        state = way.module.absorb(state, update)
        expected = np.median(updates[:count], axis=0)
        assert np.array_equal(way.module.median(state), expected)
        assert np.array_equal(way.module.median(state), expected)


@every_way
@pytest.mark.parametrize("copies", [2, 3, 5])
def test_whole_blocks_again_leave_the_median(way, copies):
    updates = random_updates(way, 33, 4)
    again = np.concatenate([updates] * copies)
    assert np.array_equal(way.module.median(way.taken(again)), way.module.median(way.taken(updates)))
    assert np.array_equal(
        way.module.trimmed_mean(way.taken(again), 4 * copies), way.module.trimmed_mean(way.taken(updates), 4)
    )


@every_way
def test_what_the_caller_writes_afterwards_changes_nothing(way):
    updates = random_updates(way, 40, 4)
    state, expected = way.taken(updates[:0]), np.median(updates, axis=0)
    if way.module is columns:
        state = columns.empty(4, 40)
    reused = np.empty(4, way.dtype)
    for update in updates:
        reused[:] = update
        state = way.module.absorb(state, reused)
    reused[:] = 0
    assert np.array_equal(way.module.median(state), expected)


@every_way
def test_read_only_and_strided_updates_are_taken(way):
    updates = random_updates(way, 33, 8)
    strided = updates[:, ::2]
    strided.flags.writeable = False
    assert np.array_equal(way.module.median(way.taken(strided)), np.median(strided, axis=0))


@every_way
@settings(deadline=None)
@given(data=st.data())
def test_as_many_hostile_as_the_breakdown_leave_each_coordinate_between_honest_ones(way, data):
    updates = data.draw(matrices(way.dtype))
    count = len(updates)
    hostile = ranks.breakdown_of_median(count)
    limits = np.iinfo(way.dtype)
    updates[:hostile] = data.draw(st.sampled_from([limits.min, limits.max]))
    honest, state = updates[hostile:], way.taken(updates)
    results = [
        way.module.median(state),
        way.module.trimmed_mean(state, ranks.breakdown_of_trimmed_mean(count)),
    ]
    for result in results:
        assert (honest.min(axis=0) <= result).all()
        assert (result <= honest.max(axis=0)).all()


@every_way
@pytest.mark.parametrize("count", [1, 2, 3, 32, 33, 100])
def test_one_more_than_the_breakdown_decides(way, count):
    hostile = ranks.breakdown_of_median(count) + 1
    updates = np.zeros((count, 2), way.dtype)
    updates[:hostile] = 100
    assert (way.module.median(way.taken(updates)) > 0).all()


@every_way
def test_what_does_not_fit_is_refused_and_not_counted(way):
    updates = random_updates(way, 40, 3)
    state = way.taken(updates)
    wrong = (updates[0][:2], updates[:1], updates[0].astype(np.float32), updates[0].astype(">i4"))
    for update in wrong:
        with pytest.raises(Rejected, match="the update"):
            way.module.absorb(state, update)
    assert state.count == 40
    assert np.array_equal(way.module.median(state), np.median(updates, axis=0))


@every_way
def test_a_trim_that_leaves_nothing_is_refused(way):
    state = way.taken(random_updates(way, 4, 3))
    for trim in (2, 3, -1):
        with pytest.raises(Rejected, match="trim"):
            way.module.trimmed_mean(state, trim)
    with pytest.raises(Rejected, match="0 updates"):
        way.module.median(way.taken(random_updates(way, 0, 3)))


def test_the_largest_number_of_equal_updates_does_not_overflow():
    state = histogram.empty(2)
    update = np.array([-128, 127], np.int8)
    for _ in range(histogram.MOST):
        state = histogram.absorb(state, update)
    assert histogram.median(state).tolist() == [-128, 127]
    assert histogram.trimmed_mean(state, 1000).tolist() == [-128, 127]
    with pytest.raises(Rejected, match="65535"):
        histogram.absorb(state, update)


def test_the_largest_number_of_equal_columns_does_not_overflow():
    state = columns.empty(2, columns.MOST)
    update = np.array([-32768, 32767], np.int16)
    for _ in range(columns.MOST):
        state = columns.absorb(state, update)
    assert columns.median(state).tolist() == [-32768, 32767]
    assert columns.trimmed_mean(state, 1000).tolist() == [-32768, 32767]
    with pytest.raises(Rejected, match="32767"):
        columns.absorb(state, update)
    with pytest.raises(Rejected, match="32768"):
        columns.empty(2, 32768)


@every_way
def test_the_median_of_quantised_updates_is_the_quantised_median(way):
    seed = 11
    print("seed", seed)
    updates = np.random.default_rng(seed).normal(0, 0.01, (101, 7)).astype(np.float32)
    state = way.taken(np.array([quantised.quantise(update, 0.05, way.dtype) for update in updates]))
    median = np.median(updates, axis=0)
    step = quantised.step(0.05, way.dtype)
    assert np.array_equal(way.module.median(state), quantised.quantise(median, 0.05, way.dtype))
    assert (np.abs(way.module.median(state) * step - median) <= step / 2 * (1 + 1e-6)).all()
    ordered = np.sort(updates, axis=0)[20:-20].mean(axis=0, dtype=np.float64)
    assert (np.abs(way.module.trimmed_mean(state, 20) * step - ordered) <= step / 2).all()


@every_way
def test_what_is_beyond_the_bound_becomes_the_bound(way):
    largest = np.iinfo(way.dtype).max
    update = np.array([-1e30, -1, -0.5, 0, 1, 3e38], np.float32)
    values = quantised.quantise(update, 1.0, way.dtype)
    assert values.dtype == way.dtype
    assert values.tolist() == [-largest, -largest, round(-largest / 2), 0, largest, largest]
