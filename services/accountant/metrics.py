"""How far each job's budget is spent, as gauges of the job: no client is named."""

from collections.abc import Iterable

from services.accountant.limits import Ceilings, bounds
from services.accountant.state import Ledger, Limits, Terms, epsilons_at
from shared.ports import Telemetry


def show(terms: Terms, in_job: Iterable[Ledger], held: Ceilings, telemetry: Telemetry) -> None:
    """Over all clients that the job has reserved for: epsilon of the one that has spent most (with what
    is reserved), what is left to the one with least, how many there are, and how many run low.
    """
    bounded = [(one, bounds(terms, one.client_id, None, held, one.own_epsilon)) for one in in_job]
    shown = [(ledger, limits) for ledger, limits in bounded if isinstance(limits, Limits)]
    if not shown:
        return
    spent = epsilons_at([(ledger.spending, limits.delta) for ledger, limits in shown])
    left = [max(limits.epsilon - epsilon, 0.0) for (_, limits), epsilon in zip(shown, spent, strict=True)]
    low = sum(ledger.running_low for ledger, _ in shown)
    job = terms.job_id
    telemetry.gauge("budget_epsilon_spent_most", max(spent), job_id=job)
    telemetry.gauge("budget_epsilon_left_least", min(left), job_id=job)
    telemetry.gauge("budget_clients", len(spent), job_id=job)
    telemetry.gauge("budget_clients_running_low", low, job_id=job)
