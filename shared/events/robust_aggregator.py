"""The round's one trustworthy update, published by the robust aggregator."""

from shared.events.base import Event
from shared.events.ids import ClientId, JobId, RoundId
from shared.events.judgements import Finding, LeftOut
from shared.events.values import BlobRef


class UpdateAggregated(Event, type="update.aggregated.v1"):
    """What the global adapter shall move by."""

    job_id: JobId
    round_id: RoundId
    update: BlobRef  # float32 little-endian, length d
    weights: dict[ClientId, float]  # sum to 1 but for rules that shorten updates; 0 for those left out
    left_out: tuple[LeftOut, ...]
    findings: tuple[Finding, ...] = ()  # about clients, or groups where those were judged
    update_norm: float
    updates: BlobRef | None = None  # each client's, as in GroupSummed, for LoRA methods that need them
    uploaded_bytes: int = 0  # by all clients of the round
    seconds: dict[ClientId, float] = {}  # to each complete upload, as in GroupSummed
