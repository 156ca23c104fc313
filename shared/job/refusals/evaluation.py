"""Evaluations that leave training no budget, or whose sums have no room for their noise."""

from collections.abc import Iterator

from shared.core.privacy import Mechanism, NoiseNotFound, epsilon, least_noise
from shared.errors import Refused
from shared.job.evaluation import (
    BITS,
    DIMENSION,
    beside_training,
    divided_over,
    evaluates,
    evaluation_mechanism,
    planned_evaluations,
)
from shared.job.specification import JobSpecification

LARGEST_PART = 0.5  # of epsilon, for all evaluations together


def evaluations(job: JobSpecification) -> Iterator[Refused]:
    """What is wrong with the job's evaluations; those that share noise need an honest survivor."""
    if not evaluates(job):
        return
    if job.evaluation.stop_epsilon is not None:
        yield from _votes(job, job.evaluation.stop_epsilon)
        return
    divided = divided_over(job)
    if divided is not None:
        if divided.shares < 1:
            return  # the job's own noise is refused for it
        try:
            divided.encoding(DIMENSION, BITS, 1.0, None)
        except Refused:
            yield Refused(
                "evaluation.records",
                f"{BITS} bits do not hold a sum over {job.evaluation.records} records beside its noise",
                "set evaluation.records: 1000, or a smaller evaluation.noise_multiplier",
            )
            return
    privacy, count = job.privacy, planned_evaluations(job)
    spent = epsilon(beside_training(job), privacy.delta)
    if spent <= LARGEST_PART * privacy.epsilon:
        return

    def planned(noise: float) -> Mechanism:
        changed = job.evaluation.model_copy(update={"noise_multiplier": noise})
        return evaluation_mechanism(job.model_copy(update={"evaluation": changed}), count)

    try:
        enough = least_noise(LARGEST_PART * privacy.epsilon, privacy.delta, planned)
        remedy = f"set evaluation.noise_multiplier: {enough:g}, or evaluate less often"
    except NoiseNotFound:
        remedy = "evaluate less often: set a larger evaluation.every"
    yield Refused(
        "evaluation.noise_multiplier",
        f"{count} evaluations alone spend epsilon {spent:.2f}, more than half of {privacy.epsilon:g}",
        remedy,
    )


def _votes(job: JobSpecification, stop_epsilon: float) -> Iterator[Refused]:
    evaluation, most = job.evaluation, LARGEST_PART * job.privacy.epsilon
    if evaluation.noise_multiplier != type(evaluation).model_fields["noise_multiplier"].default:
        yield Refused(
            "evaluation.noise_multiplier",
            "clients that vote release no sums: their noise follows from evaluation.stop_epsilon",
            "remove evaluation.noise_multiplier",
        )
    if most < stop_epsilon < job.privacy.epsilon:
        yield Refused(
            "evaluation.stop_epsilon",
            f"votes alone spend {stop_epsilon:g}, more than half of epsilon {job.privacy.epsilon:g}",
            f"set evaluation.stop_epsilon: {most / 2:g}",
        )
