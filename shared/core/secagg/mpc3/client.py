"""The client: it shares its update among the parties once a round, and then repeats its bytes."""

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from shared.core.randomness import RandomBytes
from shared.core.secagg import sealing
from shared.core.secagg.mpc3 import shares
from shared.core.secagg.mpc3.messages import Payload, Receipt, upload_message
from shared.core.secagg.mpc3.terms import LARGEST_VALUE, PARTIES, VALUE_BITS, Terms
from shared.errors import Rejected


def share(
    values: NDArray[np.int32],
    terms: Terms,
    client_id: str,
    signing_key: Ed25519PrivateKey,
    random_bytes: RandomBytes,
) -> tuple[bytes, bytes, bytes]:
    """Cut an update into three shares that add up to it modulo 2^64; any one party's two say nothing.

    Payload p holds the shares p and p + 1, and the client's one signature over commitments to all three. The
    caller seals it to party p, keeps it, and sends the same bytes again: a second set of shares is not made.

    Args:
        values: (terms.dimension,) int32 of 16 bits.
        terms: as the client itself was told them.
        client_id: its name in the cohort.
        signing_key: whose public half the cohort names.
        random_bytes: cryptographic; drawn from for two seeds and a salt of 32 bytes.

    Raises: Rejected when the client is not in the cohort under this key, or `values` do not fit.
    Source: Araki et al. 2016, CCS, Section 2.
    """
    if terms.cohort.get(client_id) != signing_key.public_key().public_bytes_raw():
        raise Rejected(f"{client_id} is not in the cohort under this key")
    words = _checked(values, terms.dimension).astype(np.int64).view(np.uint64)
    seeds = [random_bytes(shares.SEED_BYTES) for _ in range(PARTIES - 1)]
    for index, seed in enumerate(seeds):
        for number, piece in enumerate(shares.pieces(index, seed, terms.dimension)):
            start = number * shares.PIECE
            words[start : start + len(piece)] -= piece
    contents = (*seeds, random_bytes(shares.SALT_BYTES) + shares.words_to_bytes(words))
    commitments = tuple(shares.commitment(terms, index, content) for index, content in enumerate(contents))
    receipt = Receipt(commitments, sealing.sign(signing_key, upload_message(terms, client_id, commitments)))
    first, second, third = (
        Payload(receipt, *(contents[index] for index in shares.held_by(party))).to_bytes()
        for party in range(PARTIES)
    )
    return first, second, third


def _checked(values: NDArray[np.int32], dimension: int) -> NDArray[np.int32]:
    if values.shape != (dimension,) or values.dtype != np.int32:
        raise Rejected(f"an update is ({dimension},) int32, not {values.shape} {values.dtype}")
    if int(values.max()) >= LARGEST_VALUE or int(values.min()) < -LARGEST_VALUE:
        raise Rejected(f"the update has a value beyond {VALUE_BITS} bits: clip it before it is shared")
    return values
