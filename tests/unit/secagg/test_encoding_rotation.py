"""The rotation is orthogonal, undone exactly enough, and spreads what was in one place."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.secagg.encoding import compiled, rotation

KNOWN_SIGNS = "67a497892d17c999"  # AES-256-CTR under SHAKE-256 of the fields, computed with openssl


def gaussian(seed, size):
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


@pytest.mark.parametrize("block", [1, 2, 4, 8, 32, 64, 4096])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_block_is_multiplied_by_sylvesters_matrix(block, dtype):
    values = np.random.default_rng(block).integers(-99, 99, (3, block)).astype(dtype)
    expected = values @ scipy.linalg.hadamard(block).astype(dtype)
    flat = values.reshape(-1)
    compiled.hadamard(flat, block)
    assert (flat.reshape(3, block) == expected).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dimension=st.integers(1, 9_000))
def test_undoing_gives_the_update_back_and_the_norm_stays(seed, dimension):
    update = gaussian(seed, dimension)
    turned = rotation.rotate(update, b"seed")
    assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(update), rel=1e-5)
    assert np.abs(rotation.undo(turned.astype(np.float64), b"seed", dimension) - update).max() < 1e-5


@given(dimension=st.integers(1, 2**21))
def test_padding_is_less_than_one_block(dimension):
    block = rotation.block_for(dimension)
    assert block <= 4096
    assert block & (block - 1) == 0
    assert rotation.padded(dimension) % block == 0
    assert dimension <= rotation.padded(dimension) < dimension + block


@pytest.mark.parametrize("dimension", [5, 4096, 4097, 100_000])
def test_a_rotation_of_a_sum_is_the_sum_of_rotations(dimension):
    left, right = gaussian(1, dimension), gaussian(2, dimension)
    both = rotation.rotate(left, b"s").astype(np.float64) + rotation.rotate(right, b"s")
    assert np.abs(rotation.undo(both, b"s", dimension) - left - right).max() < 1e-5


def test_one_large_coordinate_is_spread_over_its_block_alone():
    update = np.zeros(3 * 4096, np.float32)
    update[5000] = 64
    turned = rotation.rotate(update, b"seed").reshape(3, 4096)
    assert (np.abs(turned[1]) == 1).all()
    assert not turned[[0, 2]].any()


def test_a_smooth_update_is_spread_too_as_signs_are_random():
    turned = rotation.rotate(np.ones(4096 * 16, np.float32), b"seed")
    assert np.abs(turned).max() < 6
    assert turned.std() == pytest.approx(1, abs=0.05)


def test_seed_and_length_pick_the_signs():
    update = np.ones(8192, np.float32)
    turned = rotation.rotate(update, b"seed")
    assert (turned == rotation.rotate(update, b"seed")).all()
    assert (turned != rotation.rotate(update, b"another")).any()
    assert (turned != rotation.rotate(np.ones(8193, np.float32), b"seed")[:8192]).any()


def test_known_signs():
    """The upper row of the matrix is ones, so a unit vector's first coordinate is its sign."""
    units = np.eye(64, dtype=np.float32)
    bits = [np.signbit(rotation.rotate(unit, b"seed")[0]) for unit in units]
    assert np.packbits(bits, bitorder="little").tobytes().hex() == KNOWN_SIGNS
