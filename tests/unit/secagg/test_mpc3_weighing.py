"""A rule's weights become integers in proportion, and few updates have to be delivered again."""

from secrets import randbits

import numpy as np
import pytest

from shared.core.secagg.mpc3.selection import WEIGHT_BYTES
from shared.core.secagg.mpc3.weighing import select
from shared.errors import Rejected

DIGEST, LARGEST = bytes(32), 2**16


def test_equal_weights_are_ones():
    selection, part = select(DIGEST, np.array([0.0, 1 / 7, 0.0, 1 / 7 * (1 + 1e-12)]), LARGEST)
    assert (selection.unit, selection.weights) == (1, (0, 1, 0, 1))
    assert part == pytest.approx(1 / 7)
    assert selection.survivors_digest == DIGEST


@pytest.mark.parametrize("count", [1, 2, 30])
def test_integers_are_in_proportion_to_within_half_of_one(count):
    seed = randbits(32)
    print(f"seed {seed}")
    weights = np.random.default_rng(seed).random(count) / count
    weights[0] = 0.6 / count
    selection, part = select(DIGEST, np.append(weights, [0.0, weights.max() / 2]), LARGEST)
    integers = np.array(selection.weights)
    assert integers.max() == LARGEST
    assert integers[-2] == 0
    assert np.abs(integers[:-2] * part - weights).max() <= part / 2 * (1 + 1e-9)
    assert all(integer < 256**WEIGHT_BYTES for integer in selection.weights)


def test_the_unit_is_what_most_updates_have_and_never_0():
    weights = np.array([0, 0, 0, 0, 0.5, 0.25, 0.25, 0.1])
    selection, _ = select(DIGEST, weights, LARGEST)
    assert selection.unit == LARGEST // 2
    assert select(DIGEST, np.array([0.0, 0.0, 0.0, 1e-9, 1.0]), LARGEST)[0].unit == LARGEST


def test_without_any_weight_there_is_no_selection():
    with pytest.raises(Rejected, match="no update has a weight"):
        select(DIGEST, np.zeros(3), LARGEST)
