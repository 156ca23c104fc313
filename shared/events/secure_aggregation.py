"""Sessions and their sums, published by the secure-aggregation service."""

from shared.events.base import Event
from shared.events.ids import ClientId, GroupId, JobId, RoundId
from shared.events.values import BlobRef, LeftOut


class SessionOpened(Event, type="session.opened.v1"):
    """Uploads for this group are awaited; clients seal them to `aggregation_key`."""

    job_id: JobId
    round_id: RoundId
    group_id: GroupId
    aggregation_key: bytes


class GroupSummed(Event, type="group.summed.v1"):
    """The group's sum is known; no single update left the session."""

    job_id: JobId
    round_id: RoundId
    group_id: GroupId
    total: BlobRef  # int64 little-endian, fixed point
    fraction_bits: int
    members: tuple[ClientId, ...]  # in the sum, each with weight 1
    left_out: tuple[LeftOut, ...]


class GroupFailed(Event, type="group.failed.v1"):
    """Too few uploads by the deadline."""

    job_id: JobId
    round_id: RoundId
    group_id: GroupId
    reason: str
    left_out: tuple[LeftOut, ...]
