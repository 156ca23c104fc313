"""Every event of the federation, one module per publisher."""

from shared.events.accountant import BudgetRefused, BudgetReserved, BudgetRunningLow, LedgerExtended
from shared.events.base import Channel, DeadlinePassed, Envelope, Event
from shared.events.client import (
    BudgetSpent,
    ClientDeclined,
    ClientJoined,
    ClientReady,
    ClientSeen,
    HolderSeen,
    ShareSubmitted,
    StageAnswered,
    UpdateSubmitted,
)
from shared.events.coordinator import (
    BudgetRequested,
    JobAccepted,
    JobAnnounced,
    JobClosed,
    JobEnded,
    JobRefused,
    RoundAborted,
    RoundClosed,
    RoundCompleted,
    RoundOpened,
    RoundStarted,
    SessionRequested,
)
from shared.events.gateway import JobCancelled, JobSubmitted, LimitRaised
from shared.events.robust_aggregator import UpdateAggregated
from shared.events.secure_aggregation import GroupFailed, GroupSummed, SessionOpened, StageBegun

__all__ = [
    "BudgetRefused",
    "BudgetRequested",
    "BudgetReserved",
    "BudgetRunningLow",
    "BudgetSpent",
    "Channel",
    "ClientDeclined",
    "ClientJoined",
    "ClientReady",
    "ClientSeen",
    "DeadlinePassed",
    "Envelope",
    "Event",
    "GroupFailed",
    "GroupSummed",
    "HolderSeen",
    "JobAccepted",
    "JobAnnounced",
    "JobCancelled",
    "JobClosed",
    "JobEnded",
    "JobRefused",
    "JobSubmitted",
    "LedgerExtended",
    "LimitRaised",
    "RoundAborted",
    "RoundClosed",
    "RoundCompleted",
    "RoundOpened",
    "RoundStarted",
    "SessionOpened",
    "SessionRequested",
    "ShareSubmitted",
    "StageAnswered",
    "StageBegun",
    "UpdateAggregated",
    "UpdateSubmitted",
]
