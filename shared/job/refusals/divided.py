"""What noise that is divided over a sum's clients asks of a job."""

import math
from collections.abc import Iterator

from shared.core.privacy import NoiseNotFound
from shared.errors import Refused
from shared.job.plan import (
    MEAN,
    divided_noise,
    fewest_in_a_sum,
    honest_survivors,
    is_divided,
    planned_bound,
    planned_noise,
)
from shared.job.specification import JobSpecification

MOST_BITS = 16
# What exceptions of the analysis may add to delta (rounding, tables of noise, its range): docs/privacy.md.
SMALLEST_DELTA = 1e-12
EXAMPLE_CAP = 1000


def divided(job: JobSpecification) -> Iterator[Refused]:
    """Everything that keeps a sum from being the one release of a round, or its noise from fitting."""
    if not is_divided(job):
        return
    found = [*_one_release(job), *_one_step(job)]
    yield from found
    if not found:
        yield from _room(job)


def _one_release(job: JobSpecification) -> Iterator[Refused]:
    aggregation = job.aggregation
    if aggregation.secure == "none":
        yield Refused(
            "aggregation.secure",
            "none opens each update, and divided noise protects nothing but a sum",
            "set aggregation.secure: oneshot, or privacy.noise: local",
        )
    if aggregation.robust != MEAN:
        yield Refused(
            "aggregation.robust",
            f"{aggregation.robust} needs more than the sum of all updates, which is all that is protected",
            "set aggregation.robust: mean, or privacy.noise: local",
        )
    if aggregation.weight_cap is None:
        yield Refused(
            "aggregation.weight_cap",
            "divided noise adds up gradients of all records, and how many a client has bounds their sum",
            f"set aggregation.weight_cap: {EXAMPLE_CAP}, or about as many records as the largest client "
            "declares",
        )
    if honest_survivors(job) < 1:
        fewest = fewest_in_a_sum(job)
        yield Refused(
            "aggregation.malicious",
            f"without {aggregation.malicious} malicious clients and one that only looks, no noise is left "
            f"in a sum over {fewest}",
            f"set aggregation.malicious: {fewest - 2}, or sum over {aggregation.malicious + 2} or more",
        )
    if job.privacy.delta < SMALLEST_DELTA:
        yield Refused(
            "privacy.delta",
            f"exceptions of the analysis of divided noise are not negligible beside {job.privacy.delta:g}",
            f"set privacy.delta: {SMALLEST_DELTA:g}",
        )


def _one_step(job: JobSpecification) -> Iterator[Refused]:
    training = job.training
    if training.local_steps != 1:
        yield Refused(
            "training.local_steps",
            "divided noise is added to a sum over clients, once a round, and a second step would have none",
            "set training.local_steps: 1, and more rounds.count",
        )
    if training.optimizer != "sgd":
        yield Refused(
            "training.optimizer",
            f"divided noise sums gradients, and a client's {training.optimizer} would step without noise",
            "set training.optimizer: sgd",
        )
    elif training.momentum > 0:
        yield Refused(
            "training.momentum",
            "a round is one step of an optimizer that starts fresh",
            "remove training.momentum",
        )
    if job.privacy.clipping == "adaptive":
        yield Refused(
            "privacy.clipping",
            "adaptive clipping releases a count of each client beside the sum",
            "set privacy.clipping: fixed",
        )


def _room(job: JobSpecification) -> Iterator[Refused]:
    """In the integers' range, for what one record moves and for noise that is not cut."""
    if _fits(job):
        return
    reason = f"{job.aggregation.bits} bits are too coarse for divided noise beside a whole client's gradients"
    for rotate in (job.aggregation.rotate, True):
        for bits in range(job.aggregation.bits + (rotate == job.aggregation.rotate), MOST_BITS + 1):
            if _fits(_encoded(job, bits, rotate)):
                also = "" if rotate == job.aggregation.rotate else "; and aggregation.rotate: true"
                yield Refused("aggregation.bits", reason, f"set aggregation.bits: {bits}{also}")
                return
    yield Refused(
        "aggregation.weight_cap", reason, "lower it, or privacy.sampling_rate: fewer records are summed"
    )


def _encoded(job: JobSpecification, bits: int, rotate: bool) -> JobSpecification:
    changed = job.aggregation.model_copy(update={"bits": bits, "rotate": rotate})
    return job.model_copy(update={"aggregation": changed})


def _fits(job: JobSpecification) -> bool:
    from shared.core.secagg.encoding import SMALLEST_SHARE  # noqa: PLC0415 - compiles

    try:
        noise = planned_noise(job)
    except NoiseNotFound:
        return True  # said elsewhere
    plan = divided_noise(job, noise)
    least = plan.least_sensitivity(job.aggregation.bits, planned_bound(job, noise))
    return least >= 1 and noise * least / math.sqrt(plan.shares) >= SMALLEST_SHARE


def divided_over(job: JobSpecification, dimension: int) -> Iterator[Refused]:
    """Whether an update of so many coordinates leaves the range what `_room` asks."""
    if not is_divided(job):
        return
    noise, aggregation = planned_noise(job), job.aggregation
    seed = b"any" if aggregation.rotate else None
    try:
        divided_noise(job, noise).encoding(dimension, aggregation.bits, planned_bound(job, noise), seed)
    except Refused as refused:
        yield refused
