"""Sealing bytes to one recipient, and signing what travels.

HPKE base mode (RFC 9180) with ML-KEM-768 + X25519 (draft-connolly-cfrg-xwing-kem), HKDF-SHA256 and
AES-256-GCM: what was recorded today stays closed if either of the two is broken later. The job, round, group,
sender and purpose are HPKE's `info`: what is sealed opens for exactly the context that it was sealed for.
"""

from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from shared.errors import Rejected

SEAL_DOMAIN = b"fedlora/update/seal/v1"
SIGN_DOMAIN = b"fedlora/update/sign/v1"
STAGE_DOMAIN = b"fedlora/stage/sign/v1"
SHARE_DOMAIN = b"fedlora/share/seal/v1"
KEY_DOMAIN = b"fedlora/sealing-key/sign/v1"
OVERHEAD_BYTES = 1088 + 32 + 16  # encapsulated ML-KEM-768 and X25519 keys, GCM tag
PUBLIC_BYTES = 1184 + 32
PRIVATE_BYTES = 64 + 32
SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


@dataclass(frozen=True)
class SealingKey:
    """A recipient's private key: ML-KEM-768's seed and X25519's scalar."""

    mlkem: MLKEM768PrivateKey
    x25519: X25519PrivateKey

    @classmethod
    def generate(cls) -> "SealingKey":
        """A new key, from the operating system's randomness."""
        return cls(MLKEM768PrivateKey.generate(), X25519PrivateKey.generate())

    @classmethod
    def from_bytes(cls, content: bytes) -> "SealingKey":
        """Inverse of `to_bytes`. Raises: Rejected for another length."""
        if len(content) != PRIVATE_BYTES:
            raise Rejected(f"a sealing key of {len(content)} bytes, {PRIVATE_BYTES} expected")
        return cls(
            MLKEM768PrivateKey.from_seed_bytes(content[:64]),
            X25519PrivateKey.from_private_bytes(content[64:]),
        )

    def to_bytes(self) -> bytes:
        """96 bytes, secret."""
        return self.mlkem.private_bytes_raw() + self.x25519.private_bytes_raw()

    @property
    def public(self) -> bytes:
        """1216 bytes: ML-KEM-768's encapsulation key, X25519's public key."""
        return self.mlkem.public_key().public_bytes_raw() + self.x25519.public_key().public_bytes_raw()


@dataclass(frozen=True)
class UploadContext:
    """What an upload is for, and whose it is."""

    job_id: str
    round_id: str
    group_id: str
    client_id: str

    def fields(self) -> tuple[bytes, ...]:
        """The four names as bytes, in the order in which they are bound."""
        return tuple(name.encode() for name in (self.job_id, self.round_id, self.group_id, self.client_id))

    @property
    def info(self) -> bytes:
        """For an update that is sealed to the aggregation service, or to one of its parties."""
        return bind(SEAL_DOMAIN, *self.fields())

    def share_info(self, holder: str) -> bytes:
        """For a share that this client seals to a key holder."""
        return bind(SHARE_DOMAIN, *self.fields(), holder.encode())

    def stage_message(self, stage: str, payload: bytes) -> bytes:
        """What this participant signs when it answers a stage of a session."""
        return bind(STAGE_DOMAIN, *self.fields(), stage.encode(), payload)


def key_message(job_id: str, owner: str, sealing_key: bytes) -> bytes:
    """What a participant signs to say that shares for it are sealed to `sealing_key` in one job."""
    return bind(KEY_DOMAIN, job_id.encode(), owner.encode(), sealing_key)


def bind(domain: bytes, *fields: bytes) -> bytes:
    """`domain` and `fields`, each after its length in 4 bytes big-endian, so that no two differ only
    in where a field ends."""
    return b"".join(len(field).to_bytes(4, "big") + field for field in (domain, *fields))


def seal(content: bytes, recipient_public: bytes, info: bytes) -> bytes:
    """Encrypt so that only the holder of `recipient_public`'s private key reads it, for `info` only.

    Returns: `len(content) + OVERHEAD_BYTES` bytes, different at each call.
    Raises: Rejected when `recipient_public` is no usable key.
    """
    return SUITE.encrypt(content, _public_key(recipient_public), info=info)


@lru_cache(maxsize=128)  # a committee's keys, for one upload after another
def _public_key(content: bytes) -> MLKEM768X25519PublicKey:
    if len(content) != PUBLIC_BYTES:
        raise Rejected(f"a public sealing key of {len(content)} bytes, {PUBLIC_BYTES} expected")
    try:
        return MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(content[:1184]),
            X25519PublicKey.from_public_bytes(content[1184:]),
        )
    except ValueError as error:
        raise Rejected("the public sealing key is not one of ML-KEM-768 and X25519") from error


def open_(sealed: bytes, recipient: SealingKey, info: bytes) -> bytes:
    """Inverse of `seal`. Raises: Rejected for other bytes, another `info`, or another key."""
    try:
        key = MLKEM768X25519PrivateKey(recipient.mlkem, recipient.x25519)
        return SUITE.decrypt(sealed, key, info=info)
    except (InvalidTag, ValueError) as error:
        raise Rejected("what was sealed does not open for this recipient, round and sender") from error


def signing_message(
    context: UploadContext, index: int, count: int, upload_sha256: str, payload: bytes
) -> bytes:
    """The bytes that a chunk's Ed25519 signature covers: every field of the chunk but the signature."""
    return bind(
        SIGN_DOMAIN,
        *context.fields(),
        index.to_bytes(4, "big"),
        count.to_bytes(4, "big"),
        upload_sha256.encode(),
        payload,
    )


def sign(key: Ed25519PrivateKey, message: bytes) -> bytes:
    """The 64-byte Ed25519 signature of `message`."""
    return key.sign(message)


def verify(verify_key: bytes, signature: bytes, message: bytes) -> None:
    """Check an Ed25519 signature. Raises: Rejected when it is not `verify_key`'s over `message`."""
    try:
        Ed25519PublicKey.from_public_bytes(verify_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise Rejected("the signature does not fit the sender's key") from error
