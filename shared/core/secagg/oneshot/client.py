"""The client: it encrypts its update once a round, and then has only bytes to send again."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from shared.core.randomness import RandomBytes
from shared.core.secagg import key_stream, sealing
from shared.core.secagg.oneshot import commitment, compiled, encoding, noise, packed_shamir, ring
from shared.core.secagg.oneshot.beacon import GROUP
from shared.core.secagg.oneshot.messages import Share, Upload, upload_message, words_to_bytes
from shared.core.secagg.oneshot.terms import Terms, public_polynomials
from shared.errors import Rejected


@dataclass(frozen=True)
class Client:
    """One client in one round.

    Attributes:
        terms: as the client itself was told them.
        client_id: its name in the cohort.
        upload: for the server; kept, and sent again as it is, until the round is over.
        shares: one for each holder, which the caller seals to that holder, bound to round and sender.
    """

    terms: Terms
    client_id: str
    upload: Upload | None = None
    shares: tuple[bytes, ...] = ()


def encrypt(
    client: Client, values: NDArray[np.int32], signing_key: Ed25519PrivateKey, random_bytes: RandomBytes
) -> Client:
    """Encrypt an update as a s + e + scale values, and share s with the committee.

    `a` is derived here from the terms; s and e are drawn here and dropped, so no second ciphertext can have
    them.

    Args:
        client: that has not encrypted yet.
        values: (terms.dimension,) int32 of 16 bits.
        signing_key: whose public half the cohort names.
        random_bytes: cryptographic; drawn from for keys of 32 and 64 bytes.

    Raises: Rejected when it has encrypted already, is not in the cohort under this key, or `values` do not
        fit.
    Source: Lyubashevsky, Peikert, Regev 2010, EUROCRYPT; sums over two and more honest clients:
        Kim et al. 2023, CRYPTO (Hint-RLWE).
    """
    terms = client.terms
    if client.upload is not None:
        raise Rejected("this round's update is encrypted already: send the kept bytes again")
    if terms.cohort.get(client.client_id) != signing_key.public_key().public_bytes_raw():
        raise Rejected(f"{client.client_id} is not in the cohort under this key")
    plain = encoding.checked(values, terms.dimension)
    secret = noise.from_words(key_stream.words(random_bytes(key_stream.KEY_BYTES), ring.N))
    ciphertext = words_to_bytes(_ciphertext(terms, plain, secret, random_bytes(key_stream.KEY_BYTES)))
    shares = packed_shamir.share(secret, terms.scheme, random_bytes(key_stream.UNIFORM_KEY_BYTES))
    return _signed(client, ciphertext, tuple(shares), signing_key)


def _ciphertext(
    terms: Terms, plain: NDArray[np.int32], secret: NDArray[np.int64], error_key: bytes
) -> NDArray[np.uint32]:
    """(terms.length,): group by group in a core's cache, each written over the `a` that it came from."""
    public = public_polynomials(terms)
    out = public.reshape(-1)
    masks = compiled.masks(public, secret)
    errors = key_stream.pieces(error_key, terms.length, GROUP)
    for start, mask, words in zip(range(0, terms.length, GROUP), masks, errors, strict=True):
        part = plain[start : start + len(words)]
        padded = np.zeros(len(words), np.int32)
        padded[: len(part)] = part
        block = mask[: len(words)]
        compiled.conceal(block, words, padded, terms.scale)
        out[start : start + len(words)] = block
    return out[: terms.length]


def _signed(
    client: Client, ciphertext: bytes, shares: tuple[NDArray[np.uint32], ...], key: Ed25519PrivateKey
) -> Client:
    tree = commitment.levels(tuple(words_to_bytes(share) for share in shares))
    (root,) = tree[-1]
    ciphertext_sha256 = hashlib.sha256(ciphertext).digest()
    signature = sealing.sign(key, upload_message(client.terms, client.client_id, ciphertext_sha256, root))
    payloads = (
        Share(share, ciphertext_sha256, commitment.path(tree, index), signature).to_bytes()
        for index, share in enumerate(shares)
    )
    return replace(client, upload=Upload(ciphertext, root, signature), shares=tuple(payloads))
