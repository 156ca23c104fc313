"""Which ways of asking clients, of evaluating and of spending go with each other."""

import math
from collections.abc import Iterator

from shared.core.lora.methods import METHODS
from shared.errors import Refused
from shared.job.plan import MEAN, SECAGG_LOST, clients_asked
from shared.job.specification import JobSpecification


def _selection(job: JobSpecification) -> Iterator[Refused]:
    rounds = job.rounds
    if rounds.clients_per_round is None and rounds.selection != "uniform":
        yield Refused(
            "rounds.selection",
            "every client that is ready is asked, so nothing is selected",
            "set rounds.selection: uniform, or rounds.clients_per_round",
        )
    if rounds.clients_per_round is None and rounds.over_selection > 0:
        yield Refused(
            "rounds.over_selection",
            "every client that is ready is asked, and more there are not",
            "set rounds.over_selection: 0, or rounds.clients_per_round",
        )


def _over_selection(job: JobSpecification) -> Iterator[Refused]:
    """Clients whose uploads are not waited for are lost to the protocol."""
    rounds, asked = job.rounds, clients_asked(job)
    if rounds.clients_per_round is None or asked is None or job.aggregation.secure != "secagg":
        return
    if asked - rounds.clients_per_round > math.ceil(SECAGG_LOST * asked):
        yield Refused(
            "rounds.over_selection",
            f"{asked - rounds.clients_per_round} of {asked} clients are not waited for, and secagg's masks "
            f"bear {SECAGG_LOST:.0%} of them lost",
            "set rounds.over_selection: 0.1, or aggregation.secure: oneshot",
        )


def _asynchronous(job: JobSpecification) -> Iterator[Refused]:
    """Updates that come alone, one by one, with clients that began from different adapters."""
    rounds, aggregation = job.rounds, job.aggregation
    if not rounds.asynchronous:
        if rounds.buffer != type(rounds).model_fields["buffer"].default:
            yield Refused(
                "rounds.buffer",
                "rounds are synchronous",
                "remove rounds.buffer, or set rounds.asynchronous: true",
            )
        return
    if aggregation.secure != "none":
        yield Refused(
            "rounds.asynchronous",
            "updates come one by one, and a sum of one hides nothing",
            "set rounds.asynchronous: false, or aggregation.secure: none, which shows single updates to the "
            "aggregator",
        )
    if rounds.buffer > rounds.min_clients:
        yield Refused(
            "rounds.buffer",
            f"noise is planned for rounds.count rounds of a client, and {rounds.min_clients} clients that "
            f"take them all give {rounds.min_clients} updates a step",
            f"set rounds.buffer: {rounds.min_clients}, or rounds.min_clients: {rounds.buffer}",
        )
    for field, there, remedy in (
        ("privacy.noise", job.privacy.noise == "divided", "set privacy.noise: local"),
        ("privacy.clipping", job.privacy.clipping == "adaptive", "set privacy.clipping: fixed"),
        ("aggregation.robust", aggregation.robust != MEAN, "set aggregation.robust: mean"),
        ("aggregation.group_size", aggregation.group_size is not None, "remove aggregation.group_size"),
        ("rounds.over_selection", rounds.over_selection > 0, "set rounds.over_selection: 0"),
        ("evaluation.every", job.evaluation.every is not None, "remove evaluation.every"),
        (
            "lora.method",
            job.lora.method == "rolora" or METHODS[job.lora.method].one_by_one is not None,
            "set lora.method: ffa",
        ),
        ("server.optimizer", job.server.optimizer == "scaffold", "set server.optimizer: fedavg"),
        ("lora.mixed_ranks", job.lora.mixed_ranks, "set lora.mixed_ranks: false"),
        ("compression.kind", job.compression.kind == "random-k", "set compression.kind: none"),
    ):
        if there:
            yield Refused(
                field,
                "it needs the clients of a round together, and asynchronous clients are not",
                f"{remedy}, or rounds.asynchronous: false",
            )


def _evaluation(job: JobSpecification) -> Iterator[Refused]:
    evaluation = job.evaluation
    if evaluation.every is None:
        for name, field in type(evaluation).model_fields.items():
            if getattr(evaluation, name) != field.default:
                yield Refused(
                    f"evaluation.{name}",
                    "nothing is evaluated",
                    f"remove evaluation.{name}, or set evaluation.every: 1",
                )
        return
    if evaluation.stop_epsilon is not None:
        if evaluation.patience is None:
            yield Refused(
                "evaluation.patience",
                "clients compare their loss with that of some evaluations ago, and it is not said how many",
                "set evaluation.patience: 2",
            )
        if evaluation.stop_epsilon >= job.privacy.epsilon:
            yield Refused(
                "evaluation.stop_epsilon",
                f"{evaluation.stop_epsilon:g} leaves nothing of epsilon {job.privacy.epsilon:g} to training",
                f"set evaluation.stop_epsilon: {job.privacy.epsilon / 10:g}",
            )


def _personal_budgets(job: JobSpecification) -> Iterator[Refused]:
    if job.privacy.personal_budgets and job.privacy.clipping == "adaptive":
        yield Refused(
            "privacy.personal_budgets",
            "adaptive clipping moves the clip norm that a smaller budget must stay below",
            "set privacy.clipping: fixed, or privacy.personal_budgets: false",
        )


ROUND_RULES = (_selection, _over_selection, _asynchronous, _evaluation, _personal_budgets)
