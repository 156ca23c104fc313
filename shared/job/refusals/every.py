"""Combinations of settings that cannot work, each with its reason and the nearest setting that does."""

import math
from collections.abc import Callable, Iterator

from shared.core.privacy import epsilon
from shared.core.privacy.accountants import FIGURE_TOLERANCE
from shared.core.privacy.limits import UNRAISED
from shared.errors import FedloraError, Refused
from shared.job.evaluation import beside_training
from shared.job.plan import least_planned_noise, mechanism_of, planned_steps
from shared.job.refusals.aggregation import AGGREGATION_RULES
from shared.job.refusals.cohort import known_cohorts
from shared.job.refusals.divided import divided
from shared.job.refusals.evaluation import evaluations
from shared.job.refusals.learning import LEARNING_RULES
from shared.job.refusals.rounds import ROUND_RULES
from shared.job.specification import JobSpecification, Privacy, Task

DEFAULT_QUANTILE = Privacy.model_fields["clip_quantile"].default
Rule = Callable[[JobSpecification], Iterator[Refused]]


def refusals(
    specification: JobSpecification,
    records: int | None = None,
    delta_times_records: float = UNRAISED["delta-times-records"],
) -> tuple[Refused, ...]:
    """Everything that makes the job impossible; empty when it can run.

    Pure: the command line, the gateway and the coordinator ask the same question.

    Args:
        specification: the job, each setting valid by itself.
        records: the smallest declared record count of a client, where it is known.
        delta_times_records: what delta times that count may be.
    """
    found = [refusal for rule in RULES for refusal in rule(specification)]
    if records is not None:
        found += _delta_for(specification, records, delta_times_records)
    return tuple(found)


def _labels(job: JobSpecification) -> Iterator[Refused]:
    labels = job.model.labels
    if job.model.task is Task.CAUSAL_LM:
        if labels:
            yield Refused("model.labels", "causal-lm has no classes", "remove model.labels")
        return
    if len(labels) < 2:
        yield Refused(
            "model.labels",
            f"sequence-classification needs at least 2 class names, there are {len(labels)}",
            "list them, for example labels: [ham, spam]",
        )
    repeated = sorted({label for label in labels if labels.count(label) > 1})
    if repeated:
        yield Refused("model.labels", f"{', '.join(repeated)} is listed twice", "list each class once")


def _columns(job: JobSpecification) -> Iterator[Refused]:
    data = job.data
    if job.model.task is Task.SEQUENCE_CLASSIFICATION:
        for column in ("text", "label"):
            if getattr(data, column) is None:
                yield Refused(
                    f"data.{column}",
                    f"sequence-classification reads a {column} column and none is named",
                    f"set data.{column}: {column}",
                )
        for column in ("prompt", "response"):
            if getattr(data, column) is not None:
                yield Refused(
                    f"data.{column}",
                    f"sequence-classification has no {column}",
                    f"remove data.{column}",
                )
        return
    yield from _language_columns(job)


def _language_columns(job: JobSpecification) -> Iterator[Refused]:
    data = job.data
    if data.label is not None:
        yield Refused(
            "data.label",
            "causal-lm has no label",
            "remove data.label, or set model.task: sequence-classification",
        )
    pair = (data.prompt is not None, data.response is not None)
    if data.text is None and not any(pair):
        yield Refused(
            "data",
            "no column holds the text",
            "set data.text: text, or data.prompt: prompt and data.response: response",
        )
    if any(pair) and not all(pair):
        missing = "response" if pair[0] else "prompt"
        yield Refused(
            f"data.{missing}",
            "prompt and response come together and one is missing",
            f"set data.{missing}: {missing}",
        )
    if data.text is not None and any(pair):
        yield Refused(
            "data.text",
            "a record is either text, or prompt and response",
            "remove data.text, or data.prompt and data.response",
        )


def _cohort(job: JobSpecification) -> Iterator[Refused]:
    rounds = job.rounds
    if rounds.clients_per_round is not None and rounds.min_clients > rounds.clients_per_round:
        yield Refused(
            "rounds.min_clients",
            f"{rounds.min_clients} updates are needed and only {rounds.clients_per_round} clients "
            "are asked in a round",
            f"set rounds.clients_per_round: {rounds.min_clients}",
        )


def _lora(job: JobSpecification) -> Iterator[Refused]:
    if job.lora.rank == "auto" and job.lora.records is None:
        yield Refused(
            "lora.records",
            "rank auto weighs the noise against the number of records, and none is given",
            "set lora.records: the records of all clients of a round, roughly; or lora.rank: 8",
        )


def _clipping(job: JobSpecification) -> Iterator[Refused]:
    if job.privacy.clipping != "adaptive" and job.privacy.clip_quantile != DEFAULT_QUANTILE:
        yield Refused(
            "privacy.clip_quantile",
            f"{job.privacy.clipping} clipping follows no quantile",
            "remove privacy.clip_quantile, or set privacy.clipping: adaptive",
        )


def _optimizer(job: JobSpecification) -> Iterator[Refused]:
    if job.training.optimizer == "adam" and job.training.momentum > 0:
        yield Refused(
            "training.momentum",
            "adam keeps its own moments",
            "remove training.momentum, or set training.optimizer: sgd",
        )


def _noise(job: JobSpecification) -> Iterator[Refused]:
    """The whole plan, every round in full, must fit under epsilon (composed by PLD, integers by RDP)."""
    privacy = job.privacy
    steps = planned_steps(job)
    if any(divided(job)):
        return  # what is planned there is not what will be asked
    plan = f"{job.rounds.count} rounds of {job.training.local_steps} steps at rate {privacy.sampling_rate:g}"
    try:
        needed = least_planned_noise(job)
    except (FedloraError, ValueError, ArithmeticError) as error:
        yield Refused(
            "privacy.epsilon",
            f"no noise meets epsilon {privacy.epsilon:g} over {plan}: {error}",
            "lower rounds.count, training.local_steps or privacy.sampling_rate",
        )
        return
    if privacy.noise_multiplier == "auto" or privacy.noise_multiplier >= needed:
        return
    whole = [mechanism_of(job, privacy.noise_multiplier, steps), *beside_training(job)]
    spent = epsilon(whole, privacy.delta)
    if spent <= privacy.epsilon - FIGURE_TOLERANCE:  # as `noise_multiplier_for` plans
        return
    yield Refused(
        "privacy.noise_multiplier",
        f"{privacy.noise_multiplier:g} spends epsilon {spent:.2f} over {plan}, "
        f"and {privacy.epsilon:g} is allowed",
        f"set privacy.noise_multiplier: {needed:g}, or auto",
    )


def _delta_for(job: JobSpecification, records: int, product: float) -> Iterator[Refused]:
    """delta well below 1/n, or publishing a few records outright would count as private."""
    limit = product / max(records, 1)
    if job.privacy.delta > limit * (1 + 1e-9):
        nearest = 10.0 ** math.floor(math.log10(limit))
        yield Refused(
            "privacy.delta",
            f"{job.privacy.delta:g} is above 1 / ({1 / product:g} x {records} records) = {limit:.2g}",
            f"set privacy.delta: {nearest:g}",
        )


RULES: tuple[Rule, ...] = (
    _labels,
    _columns,
    _cohort,
    _lora,
    _optimizer,
    _clipping,
    _noise,
    divided,
    *LEARNING_RULES,
    *ROUND_RULES,
    evaluations,
    *AGGREGATION_RULES,
    known_cohorts,
)
