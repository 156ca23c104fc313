"""The keys of one client in one round: agreed by X25519, derived by HKDF-SHA256, vouched for by Ed25519."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.core.randomness import RandomBytes
from shared.core.secagg import sealing
from shared.core.secagg.pairwise.messages import Advertisement
from shared.core.secagg.pairwise.shamir import SHARE_BYTES
from shared.core.secagg.pairwise.terms import Terms
from shared.errors import Rejected

KEY_BYTES = 32
SEALED_BYTES = 2 * SHARE_BYTES + 16  # and GCM's tag
_NONCE = bytes(12)  # each key seals one message


@dataclass(frozen=True)
class Secrets:
    """What a client draws anew for each round, 32 bytes each. Two key pairs: the private key of the first is
    revealed when the client is lost, and must not open the shares that others sealed to it."""

    mask_key: bytes = field(repr=False)
    share_key: bytes = field(repr=False)
    self_seed: bytes = field(repr=False)


def draw(random_bytes: RandomBytes) -> Secrets:
    """New secrets."""
    return Secrets(random_bytes(KEY_BYTES), random_bytes(KEY_BYTES), random_bytes(KEY_BYTES))


def public_of(private: bytes) -> bytes:
    """The X25519 public key."""
    return private_from(private).public_key().public_bytes_raw()


def commitment(terms: Terms, client_id: str, self_seed: bytes) -> bytes:
    """The hash by which a reconstructed seed is checked. It hides a uniform seed as far as SHA-256 does."""
    return hashlib.sha256(terms.label(b"self", client_id, "", self_seed)).digest()


def advertise(terms: Terms, client_id: str, secrets: Secrets, identity: Ed25519PrivateKey) -> Advertisement:
    """The signed public side of `secrets`."""
    content = (
        public_of(secrets.mask_key),
        public_of(secrets.share_key),
        commitment(terms, client_id, secrets.self_seed),
    )
    unsigned = Advertisement(client_id, *content, b"")
    return Advertisement(client_id, *content, sealing.sign(identity, unsigned.message(terms)))


def check(terms: Terms, advertisement: Advertisement) -> None:
    """Raises: Rejected unless it is signed by that client's identity, for these terms."""
    client = advertisement.client_id
    if client not in terms.cohort:
        raise Rejected(f"{client} is not in the cohort")
    try:
        sealing.verify(terms.cohort[client], advertisement.signature, advertisement.message(terms))
    except Rejected as error:
        raise Rejected(f"the keys of {client} are not signed by its identity for this round") from error


def pair_seeds(terms: Terms, mask_key: bytes, own: str, peers: Mapping[str, bytes]) -> dict[str, bytes]:
    """The seed that `own` shares with each of `peers`, from its private and their public mask keys; the same
    from either end.

    Raises: as `agree`.
    """
    private = private_from(mask_key)
    labels = {peer: terms.label(b"pair", min(own, peer), max(own, peer)) for peer in peers}
    return {peer: agree(private, public, labels[peer]) for peer, public in peers.items()}


def private_from(content: bytes) -> X25519PrivateKey:
    """A key to agree with. It costs as much as agreeing once: parse it once for all peers."""
    return X25519PrivateKey.from_private_bytes(content)


def agree(private: X25519PrivateKey, public: bytes, label: bytes) -> bytes:
    """32 bytes for that label. Raises: Rejected for a public key of low order or another length.

    Source: RFC 7748, Section 6.1; RFC 5869.
    """
    try:
        peer = X25519PublicKey.from_public_bytes(public)
        shared = private.exchange(peer)
    except ValueError as error:
        raise Rejected("an advertised key is no usable X25519 key") from error
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=label).derive(shared)


@dataclass(frozen=True)
class HeldShares:
    """One client's shares of another's mask key and self mask, 33 bytes each."""

    of_key: bytes = field(repr=False)
    of_self: bytes = field(repr=False)


def seal(key: bytes, label: bytes, held: HeldShares) -> bytes:
    """AES-256-GCM with `label` beside it. The nonce is zero: `key` is that label's, and seals this alone."""
    return AESGCM(key).encrypt(_NONCE, held.of_key + held.of_self, label)


def open_(key: bytes, label: bytes, sealed: bytes) -> HeldShares:
    """Inverse of `seal`. Raises: Rejected for other bytes, another key or label."""
    try:
        content = AESGCM(key).decrypt(_NONCE, sealed, label)
    except InvalidTag as error:
        raise Rejected("sealed shares do not open for this round, sender and receiver") from error
    if len(content) != 2 * SHARE_BYTES:
        raise Rejected(f"shares of {len(content)} bytes, {2 * SHARE_BYTES} expected")
    return HeldShares(content[:SHARE_BYTES], content[SHARE_BYTES:])
