"""A public random rotation: every block of coordinates gets random signs, then a Hadamard transform.

It spreads what is in one coordinate evenly over its block, so that a bound on each coordinate follows from
the L2 norm and few integers of the range go to waste.
Source: Suresh et al. 2017, arXiv:1611.00429, Section 3; Ailon, Chazelle 2009 for the transform.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from shared.core.secagg import key_stream
from shared.core.secagg.encoding import compiled
from shared.core.secagg.sealing import bind

DOMAIN = b"fedlora/encoding/rotation/v1"
LARGEST_BLOCK = 4096  # coordinates: 16 KiB of float32 stay in the first cache
SIGNS_A_WORD = 64


def block_for(dimension: int) -> int:
    """Coordinates that are rotated together: the least power of two that holds all, 4096 at most."""
    return min(LARGEST_BLOCK, 1 << (dimension - 1).bit_length())


def padded(dimension: int) -> int:
    """d': `dimension` rounded up to whole blocks."""
    block = block_for(dimension)
    return -(-dimension // block) * block


def rotate(update: NDArray[np.float32], seed: bytes) -> NDArray[np.float32]:
    """The rotated update.

    Args:
        update: (d,).
        seed: public, of the round.

    Returns: (d',) of the same L2 norm, the update padded with zeros before it is rotated.
    """
    block = block_for(len(update))
    out = np.zeros(padded(len(update)), np.float32)
    compiled.flip(update, _signs(seed, len(out)), np.float32(block**-0.5), out[: len(update)])
    compiled.hadamard(out, block)
    return out


def undo(rotated: NDArray[np.float64], seed: bytes, dimension: int) -> NDArray[np.float64]:
    """Inverse of `rotate`, also on sums of what it returned: (d',), which is overwritten, to (d,)."""
    block = block_for(dimension)
    compiled.hadamard(rotated, block)
    out = rotated[:dimension]
    compiled.flip(out, _signs(seed, len(rotated)), np.float64(block**-0.5), out)
    return out


def _signs(seed: bytes, length: int) -> NDArray[np.uint64]:
    """One bit a coordinate, from the lowest: AES-256-CTR under SHAKE-256(domain, seed, length)."""
    key = hashlib.shake_256(bind(DOMAIN, seed, length.to_bytes(8, "big"))).digest(key_stream.KEY_BYTES)
    return key_stream.words(key, -(-length // SIGNS_A_WORD))
