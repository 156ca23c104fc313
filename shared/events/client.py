"""What a client worker says, each under its own routing key."""

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from shared.events.base import Channel, Event
from shared.events.ids import ClientId, GroupId, JobId, ReservationId, RoundId, Sha256
from shared.events.values import Layout

MAX_CHUNK_BYTES = 1024 * 1024
PublicKey = Annotated[bytes, Field(min_length=32, max_length=32)]
Signature = Annotated[bytes, Field(min_length=64, max_length=64)]


class ClientJoined(Event, type="client.joined.v1", channel=Channel.UP):
    """A worker started; its uploads will be signed with this Ed25519 key."""

    client_id: ClientId
    verify_key: PublicKey
    version: str = ""


class ClientSeen(Event, type="client.seen.v1", channel=Channel.UP, ephemeral=True, mandatory=False):
    """A sign of life."""

    client_id: ClientId
    activity: str = ""  # what people see: "waiting", "training step 3/8"


class ClientReady(Event, type="client.ready.v1", channel=Channel.UP):
    """The client has the model and valid data, and its owner's policy allows the job."""

    client_id: ClientId
    job_id: JobId
    layout: Layout
    records: int  # declared once by the owner; public (docs/privacy.md)
    rank: PositiveInt | None = None  # that it trains, where it is less than the layout's
    epsilon: PositiveFloat | None = None  # its owner's own, where it is less than the job's
    sealing_key: bytes = b""  # what is sealed to this client as a key holder, in this job
    sealing_signature: bytes = b""  # over it; see shared/core/secagg/sealing.py


class ClientDeclined(Event, type="client.declined.v1", channel=Channel.UP):
    """The client takes no part in the job, or in one round of it."""

    client_id: ClientId
    job_id: JobId
    round_id: RoundId | None = None
    group_id: GroupId | None = None  # of that round
    reason: str


class UpdateSubmitted(Event, type="update.submitted.v1", channel=Channel.UP, sharded=True):
    """One chunk of an encrypted update. All chunks of an upload carry the same `upload_sha256`."""

    client_id: ClientId
    job_id: JobId
    round_id: RoundId
    group_id: GroupId
    index: Annotated[int, Field(ge=0)]
    count: Annotated[int, Field(ge=1, le=65_536)]
    upload_sha256: Sha256  # of the whole sealed upload
    payload: Annotated[bytes, Field(max_length=MAX_CHUNK_BYTES)]
    signature: Signature  # over everything above; see shared/core/secagg/sealing.py


class ShareSubmitted(UpdateSubmitted, type="share.submitted.v1", channel=Channel.UP):
    """A chunk of what a client sends party 1 or 2 of `mpc3`, sealed to it; party 0 gets UpdateSubmitted.

    The signature does not name the party: an upload that is sent to another one opens for nobody there.
    """

    party: Annotated[int, Field(ge=1, le=2)]

    def routing_key(self) -> str:
        """As `Event`; each party's queue takes its own."""
        return f"{super().routing_key()}.p{self.party}"

    @classmethod
    def binding(cls, client_id: str = "*", shard: int | None = None) -> str:
        """As `Event`, for either party; a party takes every shard."""
        return f"{super().binding(client_id)}.*"

    @classmethod
    def binding_of(cls, party: int) -> str:
        """The topic pattern of what all clients send one party."""
        return f"{super().binding()}.p{party}"


class StageAnswered(Event, type="stage.answered.v1", channel=Channel.UP, sharded=True):
    """What a participant of a session, client or key holder, says in one stage of the protocol."""

    client_id: ClientId
    job_id: JobId
    round_id: RoundId
    group_id: GroupId
    stage: Annotated[str, Field(max_length=32)]
    payload: Annotated[bytes, Field(max_length=MAX_CHUNK_BYTES)]
    signature: Signature  # over everything above


class HolderSeen(Event, type="holder.seen.v1", channel=Channel.UP):
    """A dedicated key holder started, and what is sealed to it."""

    client_id: ClientId
    verify_key: PublicKey
    sealing_key: bytes
    sealing_signature: bytes


class BudgetSpent(Event, type="budget.spent.v1", channel=Channel.UP):
    """What the client consumed of its reservation."""

    client_id: ClientId
    job_id: JobId
    round_id: RoundId
    reservation_id: ReservationId
    steps: Annotated[int, Field(ge=0)]  # 0: nothing was released
