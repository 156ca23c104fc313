"""Sessions, one a group: the durable part, and the uploads in memory that the broker can deliver again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray
from pydantic import AwareDatetime

from shared.core.secagg import chunks, fixed_point, sealing
from shared.errors import Rejected
from shared.events import SessionRequested, UpdateSubmitted
from shared.events.values import LeftOut
from shared.ports import State

MISSING = "no complete upload by the deadline"


class Session(State):
    """One group's session. `declined` and `refused` map a client to the reason."""

    kind: ClassVar[str] = "session"

    job_id: str
    round_id: str
    group_id: str
    members: dict[str, bytes]
    dimension: int
    min_uploads: int
    deadline: AwareDatetime
    phase: Literal["collecting", "summed", "failed", "aborted"] = "collecting"
    declined: dict[str, str] = {}
    refused: dict[str, str] = {}

    @property
    def key(self) -> tuple[str, ...]:
        """Job, round, group."""
        return (self.job_id, self.round_id, self.group_id)

    @property
    def upload_bytes(self) -> int:
        """How long every sealed upload is."""
        return self.dimension * fixed_point.BYTES_PER_VALUE + sealing.OVERHEAD_BYTES


class RoundOver(State):
    """A round was aborted, perhaps before its session was asked for."""

    kind: ClassVar[str] = "round-over"

    job_id: str
    round_id: str

    @property
    def key(self) -> tuple[str, ...]:
        """Job, round."""
        return (self.job_id, self.round_id)


@dataclass
class Collection:
    """Uploads of one session, in memory: a sum, the clients in it, and pieces still incomplete.

    Nothing here is durable: every message that contributed is held until the sum is committed.
    """

    total: NDArray[np.int64]
    summed: dict[str, str] = field(default_factory=dict)  # client -> upload_sha256
    pieces: dict[str, tuple[str, dict[int, bytes]]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def opened(request: SessionRequested) -> Session:
    """The session that `request` asks for. Raises: Rejected when a key has the wrong length."""
    if any(len(key) != 32 for key in request.members.values()):
        raise Rejected("a member's verify key is not 32 bytes")
    return Session(
        job_id=request.job_id,
        round_id=request.round_id,
        group_id=request.group_id,
        members=dict(request.members),
        dimension=request.dimension,
        min_uploads=request.min_uploads,
        deadline=request.deadline,
    )


def authenticate(session: Session, event: UpdateSubmitted) -> None:
    """Raises: Rejected unless a member of the group signed this chunk."""
    if event.client_id not in session.members:
        raise Rejected(f"{event.client_id} is not in group {session.group_id}")
    message = sealing.signing_message(
        context_of(event), event.index, event.count, event.upload_sha256, event.payload
    )
    try:
        sealing.verify(session.members[event.client_id], event.signature, message)
    except Rejected as error:
        raise Rejected(f"{event.client_id}: {error}") from error


def context_of(event: UpdateSubmitted) -> sealing.UploadContext:
    """What the chunk's upload is bound to."""
    return sealing.UploadContext(event.job_id, event.round_id, event.group_id, event.client_id)


def collect(session: Session, collection: Collection, event: UpdateSubmitted, key: X25519PrivateKey) -> None:
    """Take in one authentic chunk; the last one of an upload adds the update to the sum. Idempotent.

    Raises: Rejected, naming the client; unless its update is already in the sum, the client is then in
        `collection.refused` and nothing of it is kept.
    """
    client = event.client_id
    if client in collection.summed:
        if collection.summed[client] != event.upload_sha256:
            raise Rejected(f"{client}: a second upload with other contents")
        return
    reason = session.refused.get(client) or collection.refused.get(client)
    if reason:
        raise Rejected(f"{client}: {reason}")
    try:
        _take(session, collection, event, key)
    except Rejected as error:
        collection.pieces.pop(client, None)
        collection.refused[client] = str(error)
        raise Rejected(f"{client}: {error}") from error


def _take(session: Session, collection: Collection, event: UpdateSubmitted, key: X25519PrivateKey) -> None:
    client, size = event.client_id, session.upload_bytes
    if event.count != chunks.count_for(size):
        raise Rejected(f"{event.count} chunks, {chunks.count_for(size)} expected")
    if event.index >= event.count or len(event.payload) != chunks.size_of(event.index, size):
        raise Rejected(f"chunk {event.index} holds {len(event.payload)} bytes")
    sha256, pieces = collection.pieces.setdefault(client, (event.upload_sha256, {}))
    if sha256 != event.upload_sha256:
        raise Rejected("two uploads with different contents")
    pieces[event.index] = event.payload
    if len(pieces) < event.count:
        return
    sealed = chunks.join(pieces, sha256)
    update = sealing.open_(sealed, key, context_of(event))
    fixed_point.add(collection.total, fixed_point.from_bytes(update, session.dimension))
    collection.summed[client] = sha256
    del collection.pieces[client]


def complete(session: Session, collection: Collection) -> bool:
    """Whether nobody is left to wait for."""
    settled = {*collection.summed, *session.declined, *session.refused, *collection.refused}
    return settled >= set(session.members)


def enough(session: Session, collection: Collection) -> bool:
    """Whether the sum may leave the session."""
    return len(collection.summed) >= session.min_uploads


def left_out(session: Session, collection: Collection) -> tuple[LeftOut, ...]:
    """Members without influence on the sum, ordered by name, each with the reason."""
    reasons: Mapping[str, str] = {**session.declined, **session.refused, **collection.refused}
    return tuple(
        LeftOut(client_id=client, reason=reasons.get(client, MISSING))
        for client in sorted(session.members)
        if client not in collection.summed
    )
