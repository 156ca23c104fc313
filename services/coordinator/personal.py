"""Clients whose owners allow a smaller epsilon than the job's, and what a round costs them."""

from collections.abc import Iterable
from typing import ClassVar

from services.coordinator.state import Job
from shared.core.privacy import NoiseNotFound
from shared.errors import Refused
from shared.events.values import PoissonSampled
from shared.job.personal import own_mechanism, planned_own_noise
from shared.ports import State, UnitOfWork


class OwnBudget(State):
    """Of one client in one job: an epsilon less than the job's, and the noise multiplier for it."""

    kind: ClassVar[str] = "own_budget"

    job_id: str
    client_id: str
    epsilon: float
    noise_multiplier: float

    @property
    def key(self) -> tuple[str, ...]:
        """Job, client."""
        return (self.job_id, self.client_id)


def planned(job: Job, client_id: str, epsilon: float | None, known: OwnBudget | None) -> OwnBudget | None:
    """The client's budget; None where it is the job's. The job may have begun to spend a `known` one, which
    stays.

    Takes a second or more. Raises: Refused where the job has one budget for all, or no noise is enough.
    """
    privacy = job.specification.privacy
    if known is not None:
        if epsilon == known.epsilon:
            return known
        raise Refused(
            "epsilon", f"epsilon {known.epsilon:g} was said before", "keep to it until the job ends"
        )
    if epsilon is None or epsilon >= privacy.epsilon:
        return None
    if not privacy.personal_budgets:
        raise Refused(
            "privacy.epsilon", f"its owner allows {epsilon:g}", "set privacy.personal_budgets: true"
        )
    try:
        noise = planned_own_noise(job.specification, job.noise_multiplier, epsilon)
    except NoiseNotFound as error:
        raise Refused("privacy.epsilon", str(error), "plan fewer rounds") from None
    return OwnBudget(job_id=job.job_id, client_id=client_id, epsilon=epsilon, noise_multiplier=noise)


async def budgets_of(job: Job, clients: Iterable[str], unit: UnitOfWork) -> dict[str, OwnBudget]:
    """Those of the clients that have their own."""
    if not job.specification.privacy.personal_budgets:
        return {}
    found = {one.client_id: one for one in await unit.select(OwnBudget, job.job_id)}
    return {client: found[client] for client in clients if client in found}


def mechanism_of(job: Job, own: OwnBudget) -> PoissonSampled:
    """What the client releases in the job's next round of training."""
    return PoissonSampled.of(
        own_mechanism(job.specification, job.noise_multiplier, own.noise_multiplier, job.next_steps)
    )
