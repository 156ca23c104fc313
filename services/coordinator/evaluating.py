"""Rounds that evaluate the adapter: noisy sums over records that clients hold out, which move nothing."""

import math
from collections.abc import Sequence

import numpy as np
import structlog
from numpy.typing import NDArray

from services.coordinator.beginning import advance
from services.coordinator.cohort.members import members_of
from services.coordinator.context import Coordination
from services.coordinator.ending import abort, end, over, publish
from services.coordinator.state import Job, Round, grouped
from shared.errors import Rejected, Stale
from shared.events import RoundCompleted, SessionRequested, UpdateAggregated
from shared.events.plans import SessionPlan
from shared.job.evaluation import DIMENSION, largest_loss, noise_on_sums, scale, votes
from shared.job.specification import JobSpecification, Task
from shared.ports import UnitOfWork

FINISHED = "all rounds are done"
log = structlog.get_logger()


async def on_reserved(job: Job, round_: Round, unit: UnitOfWork, context: Coordination) -> None:
    """Ask for a session of all that may spend, in which everyone weighs the same."""
    wanted = job.specification.rounds.min_clients
    if len(round_.reservations) < wanted:
        reason = f"{len(round_.reservations)} clients have budget for an evaluation, {wanted} are needed"
        await skip(round_, reason, unit, context)
        return
    if job.layout is None:
        raise Stale("the job has no layout")
    shuffled = context.shuffled([item.client_id for item in round_.reservations])
    groups = grouped(round_.round_id, shuffled, None)
    members = await members_of(groups, job, unit)
    await unit.save(round_.replace(groups=groups))
    for group_id in groups:
        requested = SessionRequested(
            job_id=job.job_id,
            round_id=round_.round_id,
            group_id=group_id,
            members={name: members[name].model_copy(update={"weight": 1.0}) for name in sorted(members)},
            plan=SessionPlan.evaluating(job.specification),
            layout_sha256=job.layout.sha256,
            dimension=DIMENSION,
            deadline=round_.deadline,
        )
        publish(requested, round_, unit)


async def on_sum(
    job: Job, round_: Round, event: UpdateAggregated, unit: UnitOfWork, context: Coordination
) -> None:
    """Publish what the sums say of the adapter; training goes on, unless it has stopped to help."""
    if job.adapter is None:
        raise Stale("the job has no adapter")
    clients = tuple(sorted(event.weights))
    if len(clients) < job.specification.rounds.min_clients:
        await skip(round_, f"{len(clients)} clients took part in the evaluation", unit, context)
        return
    mean = np.frombuffer(await context.blobs.get(event.update), "<f4")
    voting = votes(job.specification)
    metrics = (counted if voting else metrics_of)(mean, len(clients), job.specification)
    await over(round_.replace(phase="completed"), "completed", "", unit)
    completed = RoundCompleted(
        job_id=job.job_id,
        round_id=round_.round_id,
        number=round_.number,
        kind="evaluate",
        metrics=metrics,
        uploaded_bytes=event.uploaded_bytes,
        adapter=job.adapter,
        base=job.base,
        contributors=clients,
        weights=event.weights,
        left_out=(*round_.left_out, *event.left_out),
        update_norm=0.0,
        started_at=round_.started_at,
        completed_at=unit.now,
        root=round_.root,
    )
    publish(completed, round_, unit)
    if voting:
        job = job.replace(round_id="", evaluated=job.progress, voters=tuple(sorted({*job.voters, *clients})))
        if not job.finished and 2 * metrics["stop_votes"] > len(clients):
            await end(job, "completed", f"{metrics['stop_votes']:g} of {len(clients)} vote to stop", unit)
            return
        await go_on(job, unit, context)
        return
    losses = (*job.losses, metrics["loss"])
    job = job.replace(round_id="", evaluated=job.progress, losses=losses)
    patience = job.specification.evaluation.patience
    if not job.finished and no_better(losses, patience):
        await end(job, "completed", f"no better loss in {patience} evaluations", unit)
        return
    await go_on(job, unit, context)


async def skip(round_: Round, reason: str, unit: UnitOfWork, context: Coordination) -> None:
    """Give an evaluation up; the next comes when the next is due."""
    log.warning("evaluation skipped", round_id=round_.round_id, reason=reason)
    await abort(round_, reason, unit)
    job = await unit.load(Job, round_.job_id)
    await go_on(job.replace(round_id="", evaluated=job.progress), unit, context)


async def go_on(job: Job, unit: UnitOfWork, context: Coordination) -> None:
    """The next round, if there is one."""
    if job.purpose == "train" and job.finished:
        await end(job, "completed", FINISHED, unit)
        return
    await unit.save(job)
    await advance(job, unit, context)


def metrics_of(mean: NDArray[np.float32], clients: int, specification: JobSpecification) -> dict[str, float]:
    """What noisy sums say, each figure with the standard error that the noise gives it, as `<name>_error`.

    Args:
        mean: (3,) of what the clients uploaded: correct, count and loss, over `scale`.
        clients: how many.
        specification: the job's.

    Returns: `count` of records; `accuracy`, of classes or of learnt tokens, averaged over records; `loss`,
        averaged over records, in nats a token; of a language model `perplexity`, e to the loss. Errors of
        ratios are of first order: too small where the count is within a few of its own errors of 0.
    Raises: Rejected for another shape.
    """
    if mean.shape != (DIMENSION,):
        raise Rejected(f"an evaluation's sums have shape {mean.shape}, ({DIMENSION},) expected")
    correct, count, loss = mean.astype(np.float64) * clients * scale(specification)
    noise, cap = noise_on_sums(specification, clients), largest_loss(specification)
    records = max(count, 1.0)
    accuracy, part = min(max(correct / records, 0.0), 1.0), min(max(loss / records, 0.0), 1.0)
    found = {
        "count": float(count),
        "count_error": noise,
        "accuracy": float(accuracy),
        "accuracy_error": float(noise * math.hypot(1, accuracy) / records),
        "loss": float(part * cap),
        "loss_error": float(noise * cap * math.hypot(1, part) / records),
    }
    if specification.model.task is Task.CAUSAL_LM:
        found["perplexity"] = math.exp(found["loss"])
        found["perplexity_error"] = found["perplexity"] * found["loss_error"]
    return found


def counted(mean: NDArray[np.float32], clients: int, specification: JobSpecification) -> dict[str, float]:
    """How many vote to stop, as `stop_votes`, the nearest whole number to what their sum says.

    Raises: Rejected for another shape, or for what no votes add up to.
    """
    if mean.shape != (DIMENSION,):
        raise Rejected(f"votes' sums have shape {mean.shape}, ({DIMENSION},) expected")
    found = round(float(mean[0]) * clients * scale(specification))
    if not 0 <= found <= clients:
        raise Rejected(f"{found} votes of {clients} clients")
    return {"stop_votes": float(found)}


def no_better(losses: Sequence[float], patience: int | None) -> bool:
    """Whether none of the last `patience` losses is below all before them."""
    if patience is None or len(losses) <= patience:
        return False
    return min(losses[-patience:]) >= min(losses[:-patience])
