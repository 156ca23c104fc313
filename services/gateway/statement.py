"""A job's guarantee in words, and the model card that carries it with the adapter."""

from collections.abc import Iterable

from services.gateway.budgets import BudgetView
from services.gateway.state import JobView
from shared.core.privacy.statements import Statement, Terms, statement
from shared.events.values import PoissonSampled
from shared.job.plan import noise_shares
from shared.job.specification import JobSpecification


def statement_of(view: JobView, budgets: Iterable[BudgetView]) -> Statement | None:
    """Both paragraphs, at what the gateway knows now; None before the job was accepted."""
    job = view.specification
    if job is None or view.noise_multiplier is None:
        return None
    privacy = job.privacy
    return statement(
        Terms(
            a_round=PoissonSampled.of_round(job, view.noise_multiplier).core(),
            clip_norm=privacy.clip_norm,
            epsilon_limit=privacy.epsilon,
            delta=privacy.delta,
            rounds_planned=job.rounds.count,
            rounds_completed=sum(one.status == "completed" for one in view.rounds.values()),
            secure_aggregation=job.aggregation.secure,
            spent={budget.client_id: budget.epsilon for budget in budgets},
            shares=noise_shares(job),
        )
    )


def model_card(job_id: str, job: JobSpecification, said: Statement) -> str:
    """README.md of an exported adapter, in Markdown with the front matter that model hubs read."""
    return f"""---
library_name: peft
tags: [lora, federated-learning, differential-privacy]
---

# {job.name}

A LoRA adapter of `{job.model.base}` for {job.model.task.value}, trained by fedlora as job `{job_id}`:
federated DP-SGD ({job.lora.method}). Load it with `PeftModel.from_pretrained`.

## Privacy

{said.plain}

{said.formal}
"""
