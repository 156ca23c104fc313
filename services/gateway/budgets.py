"""What the gateway knows of privacy budgets, projected from events; as all views, in any order."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from shared.events import BudgetRunningLow, LedgerExtended
from shared.ports import State


class Spent(BaseModel):
    """A client's epsilon after one ledger entry."""

    model_config = ConfigDict(frozen=True)

    round_id: str
    outcome: str
    epsilon: float
    epsilon_rdp: float
    sequence: int


class BudgetView(State):
    """What one client has spent in one job, entry by entry."""

    kind: ClassVar[str] = "gateway.budget"

    job_id: str
    client_id: str
    epsilon_limit: float = 0.0
    delta: float = 0.0
    running_low: bool = False
    entries: dict[int, Spent] = {}

    @property
    def key(self) -> tuple[str, ...]:
        """The job and the client."""
        return (self.job_id, self.client_id)

    @property
    def epsilon(self) -> float:
        """By PLD, after the latest entry."""
        return self.entries[max(self.entries)].epsilon if self.entries else 0.0

    @property
    def epsilon_rdp(self) -> float:
        """By RDP, after the latest entry."""
        return self.entries[max(self.entries)].epsilon_rdp if self.entries else 0.0


def extended(view: BudgetView, event: LedgerExtended) -> BudgetView:
    """One more ledger entry of this client."""
    spent = Spent(
        round_id=event.round_id,
        outcome=event.outcome,
        epsilon=event.epsilon,
        epsilon_rdp=event.epsilon_rdp,
        sequence=event.sequence,
    )
    return view.replace(
        epsilon_limit=event.epsilon_limit,
        delta=event.delta,
        entries={**view.entries, event.sequence: spent},
    )


def running_low(view: BudgetView, event: BudgetRunningLow) -> BudgetView:
    """The warning line was passed."""
    return view.replace(running_low=True, epsilon_limit=event.epsilon_limit)
