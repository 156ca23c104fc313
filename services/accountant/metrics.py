"""How far each job's budget is spent, as gauges of the job: no client is named."""

from collections.abc import Iterable

from services.accountant.limits import Ceilings, bounds
from services.accountant.state import Denied, Ledger, Terms
from shared.ports import Telemetry


def show(terms: Terms, in_job: Iterable[Ledger], held: Ceilings, telemetry: Telemetry) -> None:
    """Over all clients that the job has reserved for: epsilon of the one that has spent most (with what
    is reserved), what is left to the one with least, how many there are, and how many run low.
    """
    spent, left, low = [], [], 0
    for ledger in in_job:
        limits = bounds(terms, ledger.client_id, None, held)
        if isinstance(limits, Denied):
            continue
        epsilon = ledger.spending.epsilon(limits.delta)
        spent.append(epsilon)
        left.append(max(limits.epsilon - epsilon, 0.0))
        low += ledger.running_low
    if not spent:
        return
    job = terms.job_id
    telemetry.gauge("budget_epsilon_spent_most", max(spent), job_id=job)
    telemetry.gauge("budget_epsilon_left_least", min(left), job_id=job)
    telemetry.gauge("budget_clients", len(spent), job_id=job)
    telemetry.gauge("budget_clients_running_low", low, job_id=job)
