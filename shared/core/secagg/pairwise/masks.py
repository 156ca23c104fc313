"""Masks modulo 2^32: AES-256-CTR of a seed, added to a vector or taken from it, a chunk at a time."""

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

SEED_BYTES = 32
CHUNK = 1 << 16  # values; a chunk and its key stream stay in the cache
_ZEROS = bytes(4 * CHUNK)


def add(values: NDArray[np.uint32], seed: bytes) -> None:
    """Add the seed's mask to `values` (d,), in place, modulo 2^32.

    The mask is the key stream of AES-256 in counter mode from counter 0, read as little-endian words. A
    longer mask begins with the shorter one. A seed masks one vector; the same one again only takes it off.

    Args:
        values: (d,) contiguous uint32.
        seed: 32 bytes.

    Source: NIST SP 800-38A, Section 6.5.
    """
    _combine(np.add, values, seed)


def subtract(values: NDArray[np.uint32], seed: bytes) -> None:
    """Inverse of `add`, in place."""
    _combine(np.subtract, values, seed)


def apply_pair(values: NDArray[np.uint32], seed: bytes, own: str, other: str) -> None:
    """Mask the vector of client `own` with the seed that it shares with `other`: the first of the two in
    order adds what the second subtracts, so that the sum of both holds nothing of it."""
    _combine(np.add if own < other else np.subtract, values, seed)


def _combine(operation: np.ufunc, values: NDArray[np.uint32], seed: bytes) -> None:
    stream = Cipher(algorithms.AES256(seed), modes.CTR(bytes(16))).encryptor()
    mask = np.empty(min(CHUNK, len(values)), "<u4")
    content = mask.data.cast("B")
    for start in range(0, len(values), CHUNK):
        part = values[start : start + CHUNK]
        stream.update_into(_ZEROS[: part.nbytes] if part.nbytes < len(_ZEROS) else _ZEROS, content)
        operation(part, mask[: len(part)], out=part)
