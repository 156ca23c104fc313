"""Sealing one client's update to the aggregation service, and signing the chunks that carry it.

HPKE base mode (RFC 9180) with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM. The job, round, group
and sender are HPKE's `info`: an upload opens for exactly the context that it was sealed for.
"""

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from shared.errors import Rejected

SEAL_DOMAIN = b"fedlora/update/seal/v1"
SIGN_DOMAIN = b"fedlora/update/sign/v1"
OVERHEAD_BYTES = 32 + 16  # encapsulated X25519 key, GCM tag
SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


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


def bind(domain: bytes, *fields: bytes) -> bytes:
    """`domain` and `fields`, each after its length in 4 bytes big-endian, so that no two differ only
    in where a field ends."""
    return b"".join(len(field).to_bytes(4, "big") + field for field in (domain, *fields))


def seal(update_bytes: bytes, recipient_public: bytes, context: UploadContext) -> bytes:
    """Encrypt so that only the holder of `recipient_public`'s private key (X25519, 32 bytes) reads it.

    Returns: `len(update_bytes) + OVERHEAD_BYTES` bytes, different at each call.
    Raises: Rejected when `recipient_public` is no usable key.
    """
    try:
        recipient = X25519PublicKey.from_public_bytes(recipient_public)
        return SUITE.encrypt(update_bytes, recipient, info=bind(SEAL_DOMAIN, *context.fields()))
    except ValueError as error:
        raise Rejected("the aggregation key is not an X25519 public key") from error


def open_(sealed: bytes, recipient: X25519PrivateKey, context: UploadContext) -> bytes:
    """Inverse of `seal`. Raises: Rejected for other bytes, another context, or another key."""
    try:
        return SUITE.decrypt(sealed, recipient, info=bind(SEAL_DOMAIN, *context.fields()))
    except (InvalidTag, ValueError) as error:
        raise Rejected("the upload does not open for this round and sender") from error


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
