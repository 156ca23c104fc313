"""A job's guarantee in words."""

from collections.abc import Iterable

from services.gateway.budgets import BudgetView
from services.gateway.state import JobView
from shared.core.privacy.statements import Statement, Terms, statement
from shared.events.values import PoissonSampled
from shared.job.evaluation import beside_by_one_share, beside_training
from shared.job.plan import noise_shares


def statement_of(view: JobView, budgets: Iterable[BudgetView]) -> Statement | None:
    """Both paragraphs, at what the gateway knows now; None before the job was accepted."""
    job = view.specification
    if job is None or view.noise_multiplier is None:
        return None
    privacy, budgets = job.privacy, list(budgets)
    return statement(
        Terms(
            a_round=PoissonSampled.of_round(job, view.noise_multiplier).core(),
            clip_norm=privacy.clip_norm,
            epsilon_limit=privacy.epsilon,
            delta=privacy.delta,
            rounds_planned=job.rounds.count,
            rounds_completed=sum(
                one.status == "completed" and one.kind == "train" for one in view.rounds.values()
            ),
            secure_aggregation=job.aggregation.secure,
            spent={budget.client_id: budget.epsilon for budget in budgets},
            shares=noise_shares(job),
            own_limits={
                one.client_id: one.epsilon_limit for one in budgets if 0 < one.epsilon_limit < privacy.epsilon
            },
            personal=privacy.personal_budgets,
            evaluations=beside_training(job),
            evaluations_alone=beside_by_one_share(job),
        )
    )
