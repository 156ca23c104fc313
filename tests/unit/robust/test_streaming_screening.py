"""Updates that cannot be taken are named with the reason, and change nothing."""

import re
import warnings

import numpy as np
import pytest

from shared.core.robust.streaming import gram, histogram, quantised
from shared.core.robust.streaming.screening import refusal

GOOD = np.array([0.5, -0.25, 0.0, 1e-40], np.float32)
SMALLEST = np.finfo(np.float32).smallest_normal


def changed(value, at=2):
    """GOOD with one other coordinate."""
    update = GOOD.copy()
    update[at] = value
    return update


BAD = {
    "NaN": (changed(np.nan), "not a number"),
    "NaN with infinities": (np.array([np.inf, np.nan, -np.inf, 1], np.float32), "not a number"),
    "infinity": (changed(np.inf), "infinite"),
    "minus infinity": (changed(-np.inf), "infinite"),
    "both infinities": (np.array([np.inf, -np.inf, 0, 1], np.float32), "infinite"),
    "too short": (GOOD[:3], r"shape \(3,\), not \(4,\)"),
    "two dimensions": (GOOD[None], r"shape \(1, 4\)"),
    "scalar": (np.float32(1) * np.ones(()).astype(np.float32), r"shape \(\)"),
    "empty": (GOOD[:0], r"shape \(0,\)"),
    "float64": (GOOD.astype(np.float64), "<f8, not <f4"),
    "float16": (GOOD.astype(np.float16), "<f2, not <f4"),
    "integers": (GOOD.astype(np.int32), "<i4, not <f4"),
    "big-endian": (GOOD.astype(">f4"), ">f4, not <f4"),
    "objects": (GOOD.astype(object), "O, not <f4"),
    "complex": (GOOD.astype(np.complex64), "<c8, not <f4"),
    "zero": (np.zeros(4, np.float32), "zero in every coordinate"),
    "minus zero": (-np.zeros(4, np.float32), "zero in every coordinate"),
    "huge": (changed(3e38), "magnitude 3e\\+38, beyond 127"),
    "huge, negative": (changed(-128), "magnitude 128, beyond 127"),
    "subnormal": (np.array([1e-40, 0, -1e-39, 0], np.float32), "subnormal"),
    "just subnormal": (np.full(4, np.nextafter(SMALLEST, np.float32(0))), "subnormal"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_update_is_refused_with_its_reason(name):
    update, reason = BAD[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = refusal(update, 4, np.float32, 127.0)
    assert text is not None
    assert re.search(reason, text), text


@pytest.mark.parametrize(
    "update",
    [GOOD, -GOOD, changed(127), changed(-127), np.full(4, SMALLEST), np.array([0, 0, 0, 1], np.float32)],
)
def test_a_good_update_is_taken_as_it_is(update):
    before = update.tobytes()
    assert refusal(update, 4, np.float32, 127.0) is None
    assert update.tobytes() == before


def test_the_smallest_integer_does_not_overflow():
    update = np.array([-128, 1], np.int8)
    assert refusal(update, 2, np.int8, 128.0) is None
    assert "128, beyond 127" in (refusal(update, 2, np.int8, 127.0) or "")
    assert "zero" in (refusal(np.zeros(2, np.int16), 2, np.int16, 127.0) or "")


def test_whoever_is_left_out_changes_nothing_else():
    seed = 3
    print("seed", seed)
    honest = list(np.random.default_rng(seed).normal(0, 0.1, (70, 4)).astype(np.float32))
    arriving = honest.copy()
    for at, (update, _) in enumerate(BAD.values()):
        arriving.insert(3 * at, update)
    counted, products, left_out = histogram.empty(4), gram.empty(4, len(arriving), np.float32), []
    for position, update in enumerate(arriving):
        if refusal(update, 4, np.float32, 127.0) is not None:
            left_out.append(position)
            continue
        counted = histogram.absorb(counted, quantised.quantise(update, 0.5, np.int8))
        products = gram.absorb(products, update)
    assert left_out == [3 * at for at in range(len(BAD))]
    alone = [quantised.quantise(update, 0.5, np.int8) for update in honest]
    assert np.array_equal(histogram.median(counted), np.median(alone, axis=0))
    without = gram.empty(4, len(honest), np.float32)
    for update in honest:
        without = gram.absorb(without, update)
    assert np.array_equal(gram.matrix(products), gram.matrix(without))
