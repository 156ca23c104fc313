"""What follows from a job's settings for its evaluations: how many, of what, with how much noise."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from shared.core.privacy import Mechanism, Pure, Skellam
from shared.job.specification import JobSpecification, Task

if TYPE_CHECKING:
    from shared.core.secagg.encoding.divided import DividedNoise

VALUES = ("correct", "count", "loss")  # summed over held-out records; a record's each lie in [0, 1]
DIMENSION = len(VALUES)
SENSITIVITY = math.sqrt(DIMENSION)  # L2, of a client's sums to adding or removing one record
BITS = 16  # of an encoded sum
REACH = 8.0  # standard deviations of a client's own noise that the encoding leaves room for
LARGEST_LOSS = 10.0  # nats a token: beyond, a record counts as this


def evaluates(specification: JobSpecification) -> bool:
    """Whether clients hold records out."""
    return specification.evaluation.every is not None


def votes(specification: JobSpecification) -> bool:
    """Whether an evaluation releases one bit of each client, whether to stop, and no sums."""
    return evaluates(specification) and specification.evaluation.stop_epsilon is not None


def planned_evaluations(specification: JobSpecification) -> int:
    """How many there are at the most: after every so many rounds, and after the last one."""
    every = specification.evaluation.every
    return 0 if every is None else -(-specification.rounds.count // every)


def due(specification: JobSpecification, completed: int, evaluated: int) -> bool:
    """Whether an evaluation is next.

    Args:
        specification: the job's.
        completed: rounds that have moved the adapter, by the steps of a planned one.
        evaluated: how many those were at the latest evaluation, whatever became of it.
    """
    every = specification.evaluation.every
    if every is None or completed <= evaluated:
        return False
    return completed % every == 0 or completed >= specification.rounds.count


def largest_loss(specification: JobSpecification) -> float:
    """In nats, of one record: a classifier's is twice that of a uniform guess."""
    if specification.model.task is Task.SEQUENCE_CLASSIFICATION:
        return 2 * math.log(max(2, len(specification.model.labels)))
    return LARGEST_LOSS


def own_noise(specification: JobSpecification) -> float:
    """Standard deviation of what a client adds to each of its sums by itself, in records; 0 where the
    session adds it."""
    if specification.privacy.noise == "divided" or votes(specification):
        return 0.0
    return specification.evaluation.noise_multiplier * SENSITIVITY


def scale(specification: JobSpecification) -> float:
    """How many records an uploaded 1 stands for: no sum is larger, its client's own noise included; 1 vote
    where clients vote."""
    if votes(specification):
        return 1.0
    return specification.evaluation.records + REACH * own_noise(specification)


def divided_over(specification: JobSpecification) -> "DividedNoise | None":
    """How one evaluation's noise is divided over the clients; None where each client has its own, as a vote
    has.

    Honest survivors are those of a sum of `min_clients`, without the malicious ones and one more, who knows
    its own noise.
    """
    if specification.privacy.noise != "divided" or votes(specification):
        return None
    from shared.core.secagg.encoding.divided import DividedNoise  # noqa: PLC0415 - compiles

    shares = specification.rounds.min_clients - specification.aggregation.malicious - 1
    moved = SENSITIVITY / scale(specification)
    return DividedNoise(specification.evaluation.noise_multiplier, moved, shares)


def evaluation_mechanism(specification: JobSpecification, evaluations: int = 1) -> Mechanism:
    """What one client's records are exposed to in so many evaluations, as accountants take it: every held-out
    record is asked, so nothing is amplified. All votes of a job are one run of AboveThreshold."""
    if specification.evaluation.stop_epsilon is not None:
        return Pure(1.0, 1 / specification.evaluation.stop_epsilon, min(1, evaluations))
    noise, divided = specification.evaluation.noise_multiplier, divided_over(specification)
    if divided is None:
        return Mechanism(1.0, noise, evaluations)
    least = divided.least_sensitivity(BITS, 1.0)
    return Skellam.of_any_dimension(1.0, noise, evaluations, float(f"{least * (1 - 5e-4):.4g}"))


def beside_training(specification: JobSpecification) -> tuple[Mechanism, ...]:
    """What all planned evaluations cost; empty without any."""
    count = planned_evaluations(specification)
    return (evaluation_mechanism(specification, count),) if count else ()


def beside_rounds(specification: JobSpecification, rounds: int) -> tuple[Mechanism, ...]:
    """What the evaluations cost that are due within so many completed rounds; beyond the planned ones, of a
    job that is as much longer."""
    planned = specification.rounds
    if rounds >= planned.count:
        longer = planned.model_copy(update={"count": rounds})
        return beside_training(specification.model_copy(update={"rounds": longer}))
    every = specification.evaluation.every
    happened = 0 if every is None else rounds // every
    return (evaluation_mechanism(specification, happened),) if happened else ()


def beside_by_one_share(specification: JobSpecification) -> tuple[Mechanism, ...]:
    """What all planned evaluations cost where one client's own noise is all there is on its sums."""
    divided = divided_over(specification)
    if divided is None:
        return beside_training(specification)
    return tuple(
        replace(one, noise_multiplier=one.noise_multiplier / math.sqrt(divided.shares))
        for one in beside_training(specification)
    )


def noise_on_sums(specification: JobSpecification, clients: int) -> float:
    """Standard deviation of the noise on each of the three sums of so many clients, in records; that of
    rounding to integers included."""
    divided = divided_over(specification)
    if divided is None:
        step = scale(specification) / (2 ** (BITS - 1) - 1)
        return math.sqrt(clients * (own_noise(specification) ** 2 + step**2 / 4))
    encoding = divided.encoding(DIMENSION, BITS, 1.0, None)
    return scale(specification) * math.sqrt(clients * (encoding.noise_sigma**2 + encoding.step**2 / 4))
