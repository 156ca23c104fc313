"""Random-k: all clients of a round upload the same k coordinates, chosen by a public seed.

It is a linear map, so a secure sum of what clients send is what they would send of their sum; encoding to
8 to 16 bits, with or without rotation, comes after it, on k coordinates.
Source: Konecny et al. 2016, arXiv:1610.05492 (random mask); Stich et al. 2018, arXiv:1809.07599 for rand-k.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.core.secagg import key_stream
from shared.core.secagg.sealing import bind
from shared.errors import Refused, Rejected

DOMAIN = b"fedlora/compression/random-k/v1"


@dataclass(frozen=True)
class RandomK:
    """What one round's updates are cut down to; public, one for all clients.

    The choice does not depend on data. So what is kept of an update is no longer than the update, a clip
    norm holds for it, and it is as private as the whole, whoever chose the seed.

    Attributes:
        dimension: d, coordinates of an update.
        count: k, of which so many are uploaded.
        seed: of the round, public, another one for each round.
        unbiased: multiply by d / k what comes back, once, after the sum: over seeds, its expectation is the
            update and its variance d / k - 1 times the squared norm. Otherwise what was not sent is 0.

    Raises: Refused for a k outside 1, ..., d and for an empty seed.
    """

    dimension: int
    count: int
    seed: bytes
    unbiased: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.count <= self.dimension:
            nearest = min(max(self.count, 1), max(self.dimension, 1))
            raise Refused(
                "compression.count", f"{self.count} of {self.dimension} coordinates", f"set it to {nearest}"
            )
        if not self.seed:
            raise Refused("compression.seed", "an empty seed", "give the round's")

    @property
    def factor(self) -> float:
        """What comes back is multiplied by it; noise in it too."""
        return self.dimension / self.count if self.unbiased else 1.0


def coordinates(compression: RandomK) -> NDArray[np.int64]:
    """(k,), ascending: a uniform choice of k of d, the same on every machine.

    Those with the k smallest of d words of AES-256-CTR under SHAKE-256(domain, seed, d); of equal words, the
    first.
    """
    sizes = compression.dimension.to_bytes(8, "big")
    key = hashlib.shake_256(bind(DOMAIN, compression.seed, sizes)).digest(key_stream.KEY_BYTES)
    words = key_stream.words(key, compression.dimension)
    last = np.partition(words, compression.count - 1)[compression.count - 1]
    below = np.flatnonzero(words < last)
    equal = np.flatnonzero(words == last)[: compression.count - len(below)]
    return np.sort(np.concatenate([below, equal])).astype(np.int64)


def compress(compression: RandomK, update: NDArray[np.float32]) -> NDArray[np.float32]:
    """(d,) to (k,), values as they are. Raises: Rejected for another length."""
    if update.shape != (compression.dimension,):
        raise Rejected(f"an update of shape {update.shape}, ({compression.dimension},) expected")
    return update[coordinates(compression)]


def expand(compression: RandomK, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(k,), a client's or a sum's, to (d,), zero where nothing was sent.

    Raises: Rejected for another length.
    """
    if values.shape != (compression.count,):
        raise Rejected(f"{values.shape} values, ({compression.count},) expected")
    out = np.zeros(compression.dimension, np.float32)
    out[coordinates(compression)] = values * np.float32(compression.factor)
    return out
