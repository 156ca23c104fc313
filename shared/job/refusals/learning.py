"""Which LoRA methods, optimisers and compression go with each other."""

from collections.abc import Iterator

from shared.core.lora.methods import METHODS, Method, Ranks, refuse_under_secure_sums
from shared.core.optimisers import OPTIMISERS, Optimiser
from shared.errors import Refused
from shared.job.plan import MEAN, is_divided
from shared.job.specification import JobSpecification, Server

LONGEST_STEP = 0.5  # of fedadam and fedyogi, in the adapter's units
REASONS = {
    "top-k": "top-k lets data choose the coordinates: each client's are others, no sum hides which, and the "
    "choice is paid for by no noise",
    "sign": "a sum of signs is no mean of updates, and encodings of 8 bits and more sum integers as they are",
}


def method_of(job: JobSpecification) -> Method:
    """The job's line of the table of methods."""
    return METHODS[job.lora.method]


def optimiser_of(job: JobSpecification) -> Optimiser:
    """The job's line of the table of optimisers."""
    return OPTIMISERS[job.server.optimizer]


def _one_by_one(job: JobSpecification) -> Iterator[Refused]:
    """Methods that multiply each client's factors see single updates, whole, and step by themselves."""
    method, name = method_of(job), job.lora.method
    if method.one_by_one is None:
        return
    if job.aggregation.secure != "none":
        try:
            refuse_under_secure_sums(name, method)
        except Refused as refused:
            yield refused
        return
    whole = f"{name} makes the new adapter of each client's factors"
    if job.aggregation.robust != MEAN:
        yield Refused("aggregation.robust", whole, "set aggregation.robust: mean, or lora.method: fedit")
    if job.aggregation.group_size is not None:
        yield Refused(
            "aggregation.group_size", f"{whole}, and groups give sums", "remove aggregation.group_size"
        )
    if job.server.optimizer != "fedavg" or job.server.learning_rate != 1:
        yield Refused(
            "server.optimizer",
            f"{whole}, and no mean update is left to step with",
            "set server.optimizer: fedavg and server.learning_rate: 1, or lora.method: fedit",
        )
    if job.compression.kind != "none":
        yield Refused(
            "compression.kind",
            f"{whole}, and parts of them multiply to nothing",
            "set compression.kind: none",
        )
    if method.changes_base and job.model.quantisation != "none":
        yield Refused(
            "model.quantisation",
            f"{name} changes the base model's weights, which are frozen in {job.model.quantisation}",
            "set model.quantisation: none, or lora.method: ffa",
        )


def _mixed_ranks(job: JobSpecification) -> Iterator[Refused]:
    if not job.lora.mixed_ranks:
        return
    if method_of(job).ranks is Ranks.EQUAL:
        nested = ", ".join(name for name, method in METHODS.items() if method.ranks is not Ranks.EQUAL)
        yield Refused(
            "lora.mixed_ranks",
            f"{job.lora.method} needs the same rank of every client",
            f"set lora.mixed_ranks: false, or lora.method to one of {nested}",
        )
    if job.aggregation.robust != MEAN:
        yield Refused(
            "lora.mixed_ranks",
            f"{job.aggregation.robust} would take an update of a smaller rank for an outlier",
            "set lora.mixed_ranks: false, or aggregation.robust: mean",
        )


def _server(job: JobSpecification) -> Iterator[Refused]:
    optimiser, server = optimiser_of(job), job.server
    name = server.optimizer
    used = {"proximal": ("fedprox",), "momentum": ("fedavgm", "fedadam", "fedyogi")}
    used |= dict.fromkeys(("memory", "floor"), ("fedadam", "fedyogi"))
    for setting, names in used.items():
        if name not in names and getattr(server, setting) != Server.model_fields[setting].default:
            yield Refused(
                f"server.{setting}",
                f"{name} has none",
                f"remove server.{setting}, or set server.optimizer: {names[0]}",
            )
    if optimiser.steps and job.training.local_steps == 1:
        yield Refused(
            "server.optimizer",
            f"with one local step a round {name} is fedavg",
            "set server.optimizer: fedavg, or more training.local_steps",
        )
    if optimiser.noise and server.learning_rate > LONGEST_STEP:
        yield Refused(
            "server.learning_rate",
            f"{name} moves every coordinate by about {server.learning_rate:g} in each round",
            "set server.learning_rate: 0.01",
        )
    if name == "fedprox" and server.proximal == 0:
        yield Refused("server.proximal", "without a pull fedprox is fedavg", "set server.proximal: 0.01")
    if optimiser.moments and job.lora.method == "rolora":
        yield Refused(
            "server.optimizer",
            f"{name} remembers past updates, and rolora trains another factor in each round",
            "set server.optimizer: fedavg, or lora.method: fedit",
        )
    if (optimiser.noise or name == "scaffold") and job.compression.kind == "random-k":
        yield Refused(
            "compression.kind",
            f"{name} remembers each coordinate, and a round of random-k leaves most of them out",
            "set compression.kind: none, or server.optimizer: fedavgm",
        )


def _scaffold(job: JobSpecification) -> Iterator[Refused]:
    """What the derivation of c from the mean update takes for granted."""
    if job.server.optimizer != "scaffold":
        return
    training, aggregation = job.training, job.aggregation
    if training.optimizer != "sgd" or training.momentum > 0:
        yield Refused(
            "training.optimizer",
            "scaffold corrects the steps of plain SGD",
            "set training.optimizer: sgd, without training.momentum",
        )
    for field, there, remedy in (
        ("aggregation.robust", aggregation.robust != MEAN, "set aggregation.robust: mean"),
        ("aggregation.weight_cap", aggregation.weight_cap is not None, "remove aggregation.weight_cap"),
        ("training.adaptive_steps", training.adaptive_steps, "set training.adaptive_steps: false"),
        ("lora.mixed_ranks", job.lora.mixed_ranks, "set lora.mixed_ranks: false"),
    ):
        if there:
            yield Refused(
                field,
                "scaffold's control variate follows from the plain mean of updates of equal steps alone",
                f"{remedy}, or set server.optimizer: fedavg",
            )
    if is_divided(job):
        yield Refused(
            "privacy.noise",
            "a client's own control variate would steer later uploads without noise",
            "set privacy.noise: local",
        )


def _compression(job: JobSpecification) -> Iterator[Refused]:
    kind = job.compression.kind
    if kind in REASONS:
        yield Refused("compression.kind", REASONS[kind], "set compression.kind: random-k")
    elif kind == "none" and job.compression.keep != type(job.compression).model_fields["keep"].default:
        yield Refused("compression.keep", "nothing is left out", "set compression.kind: random-k")


def _adaptive_steps(job: JobSpecification) -> Iterator[Refused]:
    if not job.training.adaptive_steps:
        return
    if job.training.local_steps == 1:
        yield Refused(
            "training.adaptive_steps",
            "one step a round is the fewest",
            "set training.adaptive_steps: false, or more training.local_steps",
        )
    if job.rounds.asynchronous:
        yield Refused(
            "training.adaptive_steps",
            "there are no rounds in common whose steps could be chosen",
            "set training.adaptive_steps: false, or rounds.asynchronous: false",
        )


LEARNING_RULES = (
    _one_by_one,
    _mixed_ranks,
    _server,
    _scaffold,
    _compression,
    _adaptive_steps,
)
