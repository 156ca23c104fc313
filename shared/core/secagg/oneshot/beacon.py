"""The public polynomials `a`, which every party derives from a public seed and nobody can choose.

Whoever picks `a` (0, or one with small inverse) reads updates out of ciphertexts. So no message carries it: a
client hashes the seed together with what the round is, and draws `a` by rejection, uniform below q. Whoever
picks the seed picks among outputs of a hash; that this is harmless is the random-oracle assumption.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from shared.core.secagg import key_stream
from shared.core.secagg.oneshot.ring import N, Q
from shared.core.secagg.sealing import bind

DOMAIN = b"fedlora/oneshot/a/v1"
LANES = 16  # polynomials that are transformed side by side
GROUP = N * LANES


def groups_for(coefficients: int) -> int:
    """How many groups of `LANES` polynomials hold that many coefficients."""
    return -(-coefficients // GROUP)


def expand(seed: bytes, context: tuple[bytes, ...], groups: int) -> NDArray[np.uint32]:
    """The transforms of `a`, drawn uniformly; the transform is a bijection, so `a` is uniform too.

    `key_stream.below` under SHAKE-256(domain, seed, N, q, context): 1 word in 22,800 is redrawn. A longer
    expansion begins with the shorter one.

    Args:
        seed: public, the same for all parties.
        context: what it is used for, so that no two rounds share an `a`.
        groups: of `LANES` polynomials.

    Returns: (groups, N, LANES), each value below q, in the transform's order.
    """
    bound = bind(DOMAIN, seed, N.to_bytes(4, "big"), Q.to_bytes(4, "big"), *context)
    keys = hashlib.shake_256(bound).digest(key_stream.UNIFORM_KEY_BYTES)
    return key_stream.below(Q, groups * GROUP, keys).reshape(groups, N, LANES)
