"""A mask is AES-256-CTR, comes off as it went on, and cancels between the two clients that share its seed."""

import numpy as np
import pytest

from shared.core.secagg.pairwise import masks

# AES-256 under the zero key of counters 0, 1 and 2: H, the tag and the ciphertext of test cases 13 and 14 of
# McGrew and Viega, The Galois/Counter Mode of Operation, Appendix B.
ZERO_KEY_STREAM = bytes.fromhex(
    "dc95c078a2408989ad48a21492842087530f8afbc74536b9a963b4f1c4cb738bcea7403d4d606b6e074ec5d3baf39d18"
)


def mask(seed, length):
    values = np.zeros(length, np.uint32)
    masks.add(values, [seed])
    return values


def test_the_known_key_stream_of_aes_256():
    assert mask(bytes(32), 12).astype("<u4").tobytes() == ZERO_KEY_STREAM


@pytest.mark.parametrize("length", [0, 1, 5, masks.CHUNK - 1, masks.CHUNK, masks.CHUNK + 3])
def test_a_longer_mask_begins_with_the_shorter_one(length):
    assert (mask(b"s" * 32, masks.CHUNK + 5)[:length] == mask(b"s" * 32, length)).all()


def test_a_mask_comes_off_as_it_went_on():
    values = np.arange(70_000, dtype=np.uint32)
    masks.add(values, [b"s" * 32])
    assert (values != np.arange(70_000)).mean() > 0.99
    masks.subtract(values, [b"s" * 32])
    assert (values == np.arange(70_000)).all()


def test_the_two_ends_of_a_pair_cancel():
    one, two = np.full(10, 7, np.uint32), np.full(10, 2**32 - 3, np.uint32)
    masks.apply_pairs(one, "ana", {"ben": b"s" * 32})
    masks.apply_pairs(two, "ben", {"ana": b"s" * 32})
    assert (one + two == 4).all()
    assert (one != 7).any()


def test_many_masks_are_the_sum_of_each():
    seeds = [bytes([i]) * 32 for i in range(3)]
    together = np.zeros(masks.CHUNK + 7, np.uint32)
    masks.add(together, seeds)
    assert (together == sum(mask(seed, masks.CHUNK + 7) for seed in seeds)).all()
