"""Privacy budgets, published by the accountant."""

from shared.events.base import Event, Timestamp
from shared.events.ids import ClientId, JobId, RoundId
from shared.events.judgements import LeftOut
from shared.events.values import Reservation


class BudgetReserved(Event, type="budget.reserved.v1"):
    """These clients may spend; the others are left out with the reason."""

    job_id: JobId
    round_id: RoundId
    reservations: tuple[Reservation, ...]
    refused: tuple[LeftOut, ...]


class BudgetRefused(Event, type="budget.refused.v1"):
    """No client may spend."""

    job_id: JobId
    round_id: RoundId
    refused: tuple[LeftOut, ...]


class BudgetRunningLow(Event, type="budget.running-low.v1", mandatory=False):
    """A client's spent and reserved epsilon passed the warning line."""

    job_id: JobId
    client_id: ClientId
    epsilon: float
    epsilon_limit: float


class LedgerExtended(Event, type="ledger.extended.v1", mandatory=False):
    """A reservation was settled: what one client has spent in a job so far."""

    job_id: JobId
    round_id: RoundId
    client_id: ClientId
    outcome: str  # reserved, committed, expired, released
    epsilon: float  # by PLD, over everything spent in the job
    epsilon_rdp: float  # the cross-check
    epsilon_limit: float
    delta: float
    sequence: int
    entry_sha256: str
    recorded_at: Timestamp
