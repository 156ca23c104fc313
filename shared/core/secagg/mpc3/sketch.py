"""The secret count sketch: linear, so each party applies it to its shares without a word to the others."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.core.secagg import key_stream
from shared.core.secagg.mpc3 import compiled
from shared.core.secagg.mpc3.secrets import derived


@dataclass(frozen=True)
class Sketch:
    """A draw of signs and rotations.

    Coordinates are cut into blocks of k; each is multiplied by its sign, and the block, rotated, is added to
    the sketch. Two coordinates meet with probability 1 / k, and never within a block.

    Attributes:
        signs: (d,) int8, 0 for plus and -1 for minus.
        rotations: (ceil(d / k),) int64, 0 to k - 1.
        size: k.
    """

    signs: NDArray[np.int8] = field(repr=False)
    rotations: NDArray[np.int64] = field(repr=False)
    size: int


def draw(seed: bytes, dimension: int, size: int) -> Sketch:
    """Draw a sketch from a seed that clients do not know.

    Args:
        seed: 32 bytes.
        dimension: d.
        size: k, a power of two; 0 makes an empty sketch.

    Source: Charikar, Chen, Farach-Colton 2002, ICALP, Section 3. Positions in a block are not independent;
        the variance needs only that signs are, and how often each pair meets.
    """
    if not size:
        return Sketch(np.zeros(0, np.int8), np.zeros(0, np.int64), 0)
    words = key_stream.words(derived(seed, b"signs"), -(-dimension // 64))
    bits = np.unpackbits(words.view(np.uint8), count=dimension, bitorder="little")
    blocks = -(-dimension // size)
    rotations = key_stream.words(derived(seed, b"rotations"), blocks) % np.uint64(size)
    return Sketch(-bits.view(np.int8), rotations.astype(np.int64), size)


def apply(sketch: Sketch, words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """(k,) sketch of (d,) words modulo 2^64; a party does this piece by piece, in `compiled.absorb`.

    The dot product of two sketches is that of the vectors with an error of standard deviation at most
    sqrt(2 / k) times the product of their norms, over draws of the sketch.
    """
    out, total = np.zeros(sketch.size, np.uint64), np.zeros(len(words), np.uint64)
    compiled.absorb(words, sketch.signs, sketch.rotations, total, out)
    return out
