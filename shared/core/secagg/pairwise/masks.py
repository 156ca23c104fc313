"""Masks modulo 2^32: AES-256-CTR of a seed, added to a vector or taken from it, a chunk at a time."""

from collections.abc import Iterable, Mapping

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

SEED_BYTES = 32
CHUNK = 1 << 15  # values; a chunk and a key stream stay in the cache while every mask is combined with it
_ZEROS = memoryview(bytes(4 * CHUNK))


def add(values: NDArray[np.uint32], seeds: Iterable[bytes]) -> None:
    """Add each seed's mask to `values` (d,), in place, modulo 2^32.

    A mask is the key stream of AES-256 in counter mode from counter 0, read as little-endian words. A longer
    mask begins with the shorter one. A seed masks one vector; the same one again only takes it off.

    Args:
        values: (d,) contiguous uint32.
        seeds: 32 bytes each.

    Source: NIST SP 800-38A, Section 6.5.
    """
    _combine(values, [(np.add, seed) for seed in seeds])


def subtract(values: NDArray[np.uint32], seeds: Iterable[bytes]) -> None:
    """Inverse of `add`, in place."""
    _combine(values, [(np.subtract, seed) for seed in seeds])


def apply_pairs(values: NDArray[np.uint32], own: str, seeds: Mapping[str, bytes]) -> None:
    """Mask the vector of client `own` with the seeds that it shares with others, by client: the first of two
    in order adds what the second subtracts, so that the sum of both holds nothing of it."""
    pairs = [(np.add if own < other else np.subtract, seed) for other, seed in seeds.items()]
    _combine(values, pairs)


def _combine(values: NDArray[np.uint32], masks: Iterable[tuple[np.ufunc, bytes]]) -> None:
    streams = [
        (operation, Cipher(algorithms.AES256(seed), modes.CTR(bytes(16))).encryptor())
        for operation, seed in masks
    ]
    mask = np.empty(min(CHUNK, len(values)), "<u4")
    content = mask.data.cast("B")
    for start in range(0, len(values), CHUNK):
        part = values[start : start + CHUNK]
        zeros, words = _ZEROS[: part.nbytes], mask[: len(part)]
        for operation, stream in streams:
            stream.update_into(zeros, content)
            operation(part, words, out=part)
