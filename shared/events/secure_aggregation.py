"""Sessions and their sums, published by the secure-aggregation service."""

from typing import Annotated

from pydantic import Field, PositiveInt

from shared.events.base import Channel, Event
from shared.events.ids import ClientId, GroupId, JobId, RoundId
from shared.events.judgements import Finding, LeftOut
from shared.events.plans import RulePlan
from shared.events.values import BlobRef

MAX_STAGE_BYTES = 1024 * 1024


class SessionOpened(Event, type="session.opened.v1"):
    """Uploads for this group are awaited, on `terms`."""

    job_id: JobId
    round_id: RoundId
    group_id: GroupId
    terms: BlobRef


class StageBegun(Event, type="stage.begun.v1", channel=Channel.DOWN):
    """A participant of a session, client or key holder, is told what the protocol's next stage needs."""

    client_id: ClientId
    job_id: JobId
    round_id: RoundId
    group_id: GroupId
    terms: BlobRef
    stage: str
    payload: Annotated[bytes, Field(max_length=MAX_STAGE_BYTES)]


class GroupSummed(Event, type="group.summed.v1"):
    """The group's sum is known; no single update left the session.

    Attributes:
        weights: of those in the sum; where updates were judged one by one, what each counts in the update, 0
            for those left out.
        judged: whether they were; then `total` is the update itself.
        findings: why some count less than their share.
    """

    job_id: JobId
    round_id: RoundId
    group_id: GroupId
    groups: PositiveInt = 1  # of the round
    total: BlobRef  # float64 little-endian, the sum of weighted updates
    weights: dict[ClientId, float]
    left_out: tuple[LeftOut, ...]
    rule: RulePlan = RulePlan()
    judged: bool = False
    findings: tuple[Finding, ...] = ()
    updates: BlobRef | None = None  # float32 little-endian, (clients, d), by name, where the plan keeps them
    uploaded_bytes: int = 0  # complete uploads that came here; `mpc3` sends the other parties more
    seconds: dict[ClientId, float] = {}  # from the session's opening to the complete upload
    named: dict[ClientId, str] = {}  # clients and key holders who sent something wrong, without effect


class GroupFailed(Event, type="group.failed.v1"):
    """The group has no sum.

    Attributes:
        faulty: clients without whom it would have had one; they are left out of the job from now on.
    """

    job_id: JobId
    round_id: RoundId
    group_id: GroupId
    groups: PositiveInt = 1
    reason: str
    left_out: tuple[LeftOut, ...]
    faulty: tuple[ClientId, ...] = ()
    seconds: dict[ClientId, float] = {}  # as in GroupSummed
