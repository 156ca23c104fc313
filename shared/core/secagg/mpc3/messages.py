"""What clients send the parties, and these each other until the survivor set stands, as values and bytes."""

import hashlib
from dataclasses import dataclass

from shared.core.secagg.mpc3 import shares
from shared.core.secagg.mpc3.terms import PARTIES, Terms
from shared.core.secagg.sealing import bind
from shared.errors import Rejected

UPLOAD_DOMAIN = b"fedlora/mpc3/upload/v1"
SURVIVORS_DOMAIN = b"fedlora/mpc3/survivors/v1"
HASH_BYTES, SIGNATURE_BYTES = 32, 64
RECEIPT_BYTES = PARTIES * HASH_BYTES + SIGNATURE_BYTES


def upload_message(terms: Terms, client_id: str, commitments: tuple[bytes, ...]) -> bytes:
    """What a client signs, once: its commitments to all three shares."""
    return bind(UPLOAD_DOMAIN, terms.digest, client_id.encode(), *commitments)


def upload_digest(terms: Terms, client_id: str, commitments: tuple[bytes, ...]) -> bytes:
    """By which an upload is named."""
    return hashlib.sha256(upload_message(terms, client_id, commitments)).digest()


@dataclass(frozen=True)
class Receipt:
    """What a client has signed, without the shares."""

    commitments: tuple[bytes, ...]
    signature: bytes

    def to_bytes(self) -> bytes:
        """Three commitments, signature."""
        return b"".join((*self.commitments, self.signature))


def receipt_from_bytes(content: bytes | memoryview) -> Receipt:
    """Inverse of `Receipt.to_bytes`. Raises: Rejected for another length."""
    if len(content) != RECEIPT_BYTES:
        raise Rejected(f"a receipt of {len(content)} bytes")
    whole = bytes(content)
    ends = range(0, PARTIES * HASH_BYTES, HASH_BYTES)
    return Receipt(tuple(whole[at : at + HASH_BYTES] for at in ends), whole[PARTIES * HASH_BYTES :])


@dataclass(frozen=True)
class Payload:
    """What one client sends one party, sealed to it: the contents of the party's two shares."""

    receipt: Receipt
    first: bytes | memoryview
    second: bytes | memoryview

    def to_bytes(self) -> bytes:
        """Receipt, the share of the party's number, the next."""
        return b"".join((self.receipt.to_bytes(), self.first, self.second))


def payload_from_bytes(content: bytes, party: int, dimension: int) -> Payload:
    """Inverse of `Payload.to_bytes`, without a copy of the shares. Raises: Rejected for another length."""
    first, second = (shares.size_bytes(index, dimension) for index in shares.held_by(party))
    if len(content) != RECEIPT_BYTES + first + second:
        raise Rejected(f"{len(content)} bytes, {RECEIPT_BYTES + first + second} expected")
    view, split = memoryview(content), RECEIPT_BYTES + first
    return Payload(receipt_from_bytes(view[:RECEIPT_BYTES]), view[RECEIPT_BYTES:split], view[split:])


@dataclass(frozen=True)
class Holdings:
    """Whose uploads one party holds, when it has closed: what the other two compare with their own."""

    terms_digest: bytes
    party: int
    receipts: tuple[tuple[str, Receipt], ...]  # ascending by client, each once

    def to_bytes(self) -> bytes:
        """Digest, party in 1 byte, then for each client its name after 2 bytes of length, and the receipt."""
        parts = [self.terms_digest, bytes([self.party])]
        for client, receipt in self.receipts:
            name = client.encode()
            parts += [len(name).to_bytes(2, "big"), name, receipt.to_bytes()]
        return b"".join(parts)


def holdings_from_bytes(content: bytes) -> Holdings:
    """Inverse of `Holdings.to_bytes`. Raises: Rejected for other bytes, or clients twice or out of order."""
    at = HASH_BYTES + 1
    if len(content) < at or content[at - 1] >= PARTIES:
        raise Rejected("these are no holdings of a party")
    receipts: list[tuple[str, Receipt]] = []
    while at < len(content):
        name_at = at + 2
        receipt_at = name_at + int.from_bytes(content[at:name_at], "big")
        at = receipt_at + RECEIPT_BYTES
        try:
            name = content[name_at:receipt_at].decode()
        except UnicodeDecodeError as error:
            raise Rejected("a client's name is not UTF-8") from error
        receipts.append((name, receipt_from_bytes(content[receipt_at:at])))
    names = [name for name, _ in receipts]
    if names != sorted(set(names)):
        raise Rejected("the holdings name a client twice or out of order")
    return Holdings(content[:HASH_BYTES], content[HASH_BYTES], tuple(receipts))


@dataclass(frozen=True)
class SurvivorSet:
    """Whose uploads all three parties hold: the digest of each one's upload, by client."""

    terms_digest: bytes
    uploads: tuple[tuple[str, bytes], ...]  # ascending by client, each once

    def message(self) -> bytes:
        """What every party signs."""
        members = (part for client, digest in self.uploads for part in (client.encode(), digest))
        return bind(SURVIVORS_DOMAIN, self.terms_digest, *members)

    @property
    def digest(self) -> bytes:
        """By which later messages name it."""
        return hashlib.sha256(self.message()).digest()
