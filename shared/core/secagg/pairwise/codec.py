"""Messages, and the phases that a client keeps between them, as bytes."""

from collections.abc import Mapping
from typing import TypeVar

from shared.core.secagg.pairwise import client, messages, shamir
from shared.core.secagg.pairwise.client import Member, Phase
from shared.core.secagg.pairwise.keys import KEY_BYTES, SEALED_BYTES, HeldShares, Secrets
from shared.core.secagg.pairwise.layout import (
    NAME_BYTES,
    WORD_BYTES,
    Bytes,
    Name,
    Names,
    Reader,
    Record,
    Table,
    Vector,
)
from shared.core.secagg.pairwise.terms import Terms
from shared.errors import Rejected

M = TypeVar("M")
_KEY, _HASH, _SIGNATURE, _SHARE = Bytes(KEY_BYTES), Bytes(32), Bytes(64), Bytes(shamir.SHARE_BYTES)
_SIGNATURES, _SEALED = Table(_SIGNATURE), Table(Bytes(SEALED_BYTES))
_ADVERTISEMENT = Record(messages.Advertisement, (Name(), _KEY, _KEY, _HASH, _SIGNATURE))
_SECRETS = Record(Secrets, (_KEY, _KEY, _KEY))
_HELD = Record(HeldShares, (_SHARE, _SHARE))

# The number is the first byte. A layout that changes takes a new one.
_MESSAGES = {
    1: _ADVERTISEMENT,
    2: Record(messages.KeyList, (Table(_ADVERTISEMENT),)),
    3: Record(messages.SealedShares, (Name(), _SEALED)),
    4: Record(messages.Delivery, (Names(), _SEALED)),
    5: Record(messages.MaskedInput, (Name(), Vector(), _SIGNATURE)),
    6: Record(messages.SurvivorSet, (Names(), _SIGNATURES)),
    7: Record(messages.Endorsement, (Name(), _SIGNATURE)),
    8: Record(messages.Endorsements, (_SIGNATURES,)),
    9: Record(messages.Unmasking, (Name(), Table(_SHARE), Table(_SHARE))),
}
_PHASES = {
    65: Record(client.Advertised, (_SECRETS,)),
    66: Record(client.Shared, (_SECRETS, Table(_ADVERTISEMENT), _HELD)),
    67: Record(client.Masked, (Names(), Table(_HELD))),
    68: Record(client.Endorsed, (Names(), Table(_HELD), Names())),
    69: Record(client.Finished, ()),
}
_NUMBERS = {record.kind: number for number, record in (_MESSAGES | _PHASES).items()}


def to_bytes(message: object, terms: Terms) -> bytes:
    """The one string of bytes for a message: a byte for its kind, the digest of the terms, its fields.

    Raises: Rejected for what is no message, or does not fit the terms.
    """
    return _written(message, terms, _MESSAGES)


def from_bytes(kind: type[M], content: bytes, terms: Terms) -> M:
    """Inverse of `to_bytes`. What is read is well formed; whether it is true, the phases check.

    Raises: Rejected for other bytes, another kind of message, or other terms, and says which.
    """
    value = _read(content, terms, _MESSAGES)
    if not isinstance(value, kind):
        raise Rejected(f"a {type(value).__name__}, where a {kind.__name__} is expected")
    return value


def masked_input_bytes(terms: Terms) -> int:
    """How long a masked vector's message is."""
    return 1 + len(terms.digest) + NAME_BYTES + WORD_BYTES * terms.dimension + _SIGNATURE.size


def phase_to_bytes(phase: Phase) -> bytes:
    """What a client makes durable before its answer leaves; secret. The identity is not in it.

    Raises: Rejected for what is no phase of a client.
    """
    return _written(
        phase, phase.member.terms, _PHASES, Name().write(phase.member.client_id, phase.member.terms)
    )


def phase_from_bytes(member: Member, content: bytes) -> Phase:
    """Inverse of `phase_to_bytes`. Raises: Rejected for other bytes, another client, or other terms."""
    own = Name().write(member.client_id, member.terms)
    value = _read(content, member.terms, _PHASES, own, member)
    if not isinstance(value, Phase):
        raise Rejected("no phase of a client")
    return value


def _written(value: object, terms: Terms, records: Mapping[int, Record], owner: bytes = b"") -> bytes:
    number = _NUMBERS.get(type(value), 0)
    if number not in records:
        raise Rejected(f"a {type(value).__name__} has no bytes here")
    try:
        return bytes([number]) + terms.digest + owner + records[number].write(value, terms)
    except Rejected as error:
        raise Rejected(f"{type(value).__name__}: {error}") from None


def _read(
    content: bytes, terms: Terms, records: Mapping[int, Record], owner: bytes = b"", *first: object
) -> object:
    reader = Reader(content)
    number = reader.take(1)[0]
    if number not in records:
        raise Rejected(f"kind {number} is not known")
    name = records[number].kind.__name__
    try:
        reader.expect(terms.digest, "the digest of other terms")
        reader.expect(owner, "another client")
        value = records[number].read(reader, terms, *first)
        reader.end()
    except Rejected as error:
        raise Rejected(f"{name}: {error}") from None
    return value
