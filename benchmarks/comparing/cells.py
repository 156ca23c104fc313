"""What is compared: one training run a cell, and the job that it stands for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from quality import example

from comparing import last_layer
from shared.job.plan import planned_noise
from shared.job.specification import JobSpecification

CLIENTS = 10
NO_NOISE = 1e-6  # moves what has no gradient yet, as the worker wants to see it
RANK, SMALLER_RANKS = 8, (4, 8, 16)  # of all clients; of a third of them each
SECURE = ("ffa", "fedit", "rolora", "fedsb")
ONE_BY_ONE = ("flora", "fedex", "flexlora")
NESTED = ("ffa", "fedsb")  # whose ranks may be mixed
LOCAL, DIVIDED, CENTRAL = "local", "divided", "central"


@dataclass(frozen=True)
class Cell:
    """One training run.

    Attributes:
        data: "bbc" or "chit-chat".
        method: of LoRA.
        epsilon: over all rounds; None adds no noise, and clips as the others do.
        noise: "local", each client's own in each of its steps; "divided", one step a round, whose sum has
            noise; "central", the same trainer on all records in one place, one step a round.
        ranks: "uniform", the same for all clients; "mixed", three.
        split: of classes, "iid" or "dirichlet"; of chit-chat "people".
        rate: of the local optimiser.
        seed: of the deal and of the initial adapter; noise, samples and rounding are secret.
    """

    data: str
    method: str
    epsilon: float | None
    noise: str
    ranks: str
    split: str
    rate: float
    seed: int


@dataclass(frozen=True)
class Scale:
    """How much is trained on a data set, by whatever method.

    Attributes:
        steps: of a client, over all rounds.
        local_steps: of a round with local noise.
        records: of a client.
        sampling_rate: of a record, a step.
    """

    example: str
    model: Mapping[str, Any]
    targets: tuple[str, ...]
    steps: int
    local_steps: int
    records: int
    sampling_rate: float


SCALES = {
    "bbc": Scale("bbc-news.yaml", {"max_length": 256}, last_layer.TARGETS, 100, 5, 164, 0.2),
    "chit-chat": Scale("chit-chat.yaml", {"max_length": 24}, ("q_proj", "v_proj"), 8, 4, 64, 0.1),
}

RATES: dict[tuple[str, str, str], float] = {}


def job_of(cell: Cell) -> JobSpecification:
    """The job that a federation would be given."""
    scale, job = SCALES[cell.data], example(SCALES[cell.data].example)
    steps = scale.local_steps if cell.noise == LOCAL else 1
    mixed = cell.ranks == "mixed"
    job["model"] |= scale.model
    job["lora"] = {
        "method": cell.method,
        "rank": max(SMALLER_RANKS) if mixed else RANK,
        "mixed_ranks": mixed,
        "target_modules": list(scale.targets),
    }
    job["training"] |= {"local_steps": steps, "optimizer": "sgd", "learning_rate": cell.rate}
    job["privacy"] = {
        "epsilon": cell.epsilon or 10,
        "sampling_rate": scale.sampling_rate,
        "clip_norm": 1.0,
        "noise": "divided" if is_divided(cell) else "local",
    }
    job["rounds"] = {"count": scale.steps // steps, "min_clients": CLIENTS}
    job["aggregation"] = {"secure": "none" if cell.method in ONE_BY_ONE else "oneshot"}
    if is_divided(cell):
        job["aggregation"] |= {"weight_cap": scale.records}
    return JobSpecification.model_validate(job | {"seed": cell.seed})


def is_divided(cell: Cell) -> bool:
    """Whether there is noise, and a sum's; without it one step a round is what is left of "divided"."""
    return cell.noise == DIVIDED and cell.epsilon is not None


def noise_of(cell: Cell, job: JobSpecification) -> float:
    """The noise multiplier."""
    return NO_NOISE if cell.epsilon is None else planned_noise(job)


BUDGETS = {"bbc": (8.0, 1.0, None, 3.0), "chit-chat": (8.0, None, 1.0)}
TRIED = {
    "bbc": dict.fromkeys(SECURE, (1.0, 2.0, 4.0)),
    "chit-chat": {"fedit": (1.0, 3.0), "rolora": (1.0, 3.0), "fedsb": (20.0, 80.0), "ffa": (5.0, 20.0)},
}
TRIED_AT = {"bbc": 3.0, "chit-chat": 8.0}
RATES = {
    "bbc": {"ffa": 1.0, "fedit": 1.0, "rolora": 1.0, "fedsb": 2.0},
    "chit-chat": {"ffa": 5.0, "fedit": 1.0, "rolora": 3.0, "fedsb": 20.0},
}
LOCAL_RATES = {"bbc": {}, "chit-chat": {"rolora": 1.0, "fedsb": 5.0}}  # where they differ
SPLITS = {"bbc": "iid", "chit-chat": "people"}
NOISES = (DIVIDED, LOCAL, CENTRAL)


def _cell(data: str, method: str, epsilon: float | None, noise: str, ranks: str, seed: int) -> Cell:
    like = "fedit" if method in ONE_BY_ONE else method
    rate = LOCAL_RATES[data].get(like, RATES[data][like]) if noise == LOCAL else RATES[data][like]
    return Cell(data, method, epsilon, noise, ranks, SPLITS[data], rate, seed)


def secure(data: str, seeds: Sequence[int]) -> Iterator[Cell]:
    """Methods that a secure sum is enough for, at every budget and noise."""
    for epsilon, seed, method, noise in product(BUDGETS[data], seeds, SECURE, NOISES):
        yield _cell(data, method, epsilon, noise, "uniform", seed)


def ranks(data: str, seeds: Sequence[int]) -> Iterator[Cell]:
    """Mixed ranks, of methods whose columns are nested."""
    for epsilon, seed, method, noise in product((8.0, None), seeds, NESTED, (DIVIDED, LOCAL)):
        yield _cell(data, method, epsilon, noise, "mixed", seed)


def single(data: str, seeds: Sequence[int]) -> Iterator[Cell]:
    """Methods that see each client's factors: nothing hides those, and noise can only be local."""
    for epsilon, seed, method in product(BUDGETS[data], seeds, ONE_BY_ONE):
        yield _cell(data, method, epsilon, LOCAL, "uniform", seed)


PARTS = {"secure": secure, "ranks": ranks, "single": single}


def tuning(data: str) -> Iterator[Cell]:
    """Learning rates, on seed 0 and at one budget."""
    for noise, method in product((DIVIDED, LOCAL), TRIED[data]):
        for rate in TRIED[data][method]:
            yield Cell(data, method, TRIED_AT[data], noise, "uniform", SPLITS[data], rate, 0)
