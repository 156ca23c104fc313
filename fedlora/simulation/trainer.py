"""Training in a pool of processes: each has the model and the records once, and clients are row numbers."""

import os
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlora.simulation.randomness import SeededRandom
from services.client.trainer import Prepared, Progress, TrainingResult, TrainingTask
from shared.errors import Rejected
from shared.job.specification import JobSpecification

MILLION = 1_000_000


@dataclass(frozen=True)
class Plan:
    """What every process of the pool is told once.

    Attributes:
        data: the one file with everybody's records.
        drop: the share of (client, round) pairs that drops out.
    """

    data: Path
    parts: Mapping[str, NDArray[np.intp]]
    seed: int
    drop: float

    def drops(self, client: str, round_id: str) -> bool:
        """Whether the client drops out of the round; it follows from the seed alone."""
        drawn = int.from_bytes(SeededRandom(self.seed, "drop", client, round_id).bytes(8), "big")
        return drawn % MILLION < self.drop * MILLION


class SimulatedTrainer:
    """One client's trainer, which hands its work to the pool."""

    def __init__(self, client: str, plan: Plan, pool: Executor, layouts: dict[str, Prepared]) -> None:
        self._client, self._plan, self._pool, self._layouts = client, plan, pool, layouts

    def prepare(
        self,
        job_id: str,
        specification: JobSpecification,
        data: Path,
        progress: Progress,
        start: bytes = b"",
    ) -> Prepared:
        """See the port. The first client's preparation serves all."""
        if job_id not in self._layouts:
            self._layouts[job_id] = self._pool.submit(_prepare, job_id, specification, start).result()
        whole = self._layouts[job_id]
        return replace(whole, records=len(self._plan.parts[self._client]), skipped=())

    def train(self, task: TrainingTask, progress: Progress, cancelled: Callable[[], bool]) -> TrainingResult:
        """See the port. Raises: Rejected for a client that the seed lets drop out."""
        if self._plan.drops(self._client, task.round_id):
            raise Rejected("it dropped out, as --drop asks")
        return self._pool.submit(_train, self._client, task).result()

    def evaluate(
        self, task: TrainingTask, progress: Progress, cancelled: Callable[[], bool]
    ) -> NDArray[np.float64]:
        """See the port. Whoever drops out of training drops out of an evaluation."""
        if self._plan.drops(self._client, task.round_id):
            raise Rejected("it dropped out, as --drop asks")
        return self._pool.submit(_evaluate, self._client, task).result()


_OWN: dict[str, Any] = {}  # of a process of the pool


def start_process(plan: Plan) -> None:
    """What a process of the pool does first."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    os.environ["OMP_NUM_THREADS"] = "1"  # the pool is the parallelism, and sums keep their order
    _OWN["plan"] = plan


def _prepare(job_id: str, specification: JobSpecification, start: bytes) -> Prepared:
    return _trainer_for(job_id, specification, start)[1]


def _trainer_for(job_id: str, specification: JobSpecification, start: bytes) -> tuple[Any, Prepared]:
    from services.client.training.trainer import LoraTrainer  # noqa: PLC0415 - torch, in the pool alone

    if job_id not in _OWN:
        trainer = LoraTrainer()
        data: Path = _OWN["plan"].data
        whole = trainer.prepare(job_id, specification, data, _silent, start)
        _OWN[job_id] = trainer, whole
    found: tuple[Any, Prepared] = _OWN[job_id]
    return found


def _train(client: str, task: TrainingTask) -> TrainingResult:
    """Train on the client's rows, with sampling and noise that follow from seed, client and round."""
    found: TrainingResult = _part(client, task).train(_of_all(task), _silent, _never)
    return found


def _evaluate(client: str, task: TrainingTask) -> NDArray[np.float64]:
    found: NDArray[np.float64] = _part(client, task).evaluate(_of_all(task), _silent, _never)
    return found


def _part(client: str, task: TrainingTask) -> Any:  # noqa: ANN401 - a LoraTrainer
    from services.client.training.noise import KeyStream  # noqa: PLC0415 - torch, in the pool alone

    plan: Plan = _OWN["plan"]
    trainer, _ = _trainer_for(task.job_id, task.specification, task.start)
    random = SeededRandom(plan.seed, "train", client, task.round_id)
    return trainer.part(task.job_id, plan.data, plan.parts[client], lambda: KeyStream(random.bytes))


def _of_all(task: TrainingTask) -> TrainingTask:
    plan: Plan = _OWN["plan"]
    return replace(task, data=plan.data)


def _silent(phase: str, done: int, of: int) -> None:
    """No progress is shown of one client among many."""


def _never() -> bool:
    return False
