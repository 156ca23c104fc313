"""Rounds of a cell: the worker's training, the encoding of secure sums, the coordinator's step; no bus."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.client.data import TokenRecord
from services.client.trainer import TrainingTask
from services.client.training.adapted_model import AdaptedModel
from services.client.training.self_test import check_gradients
from services.client.training.trainer import LoraTrainer
from services.coordinator.adapter.combining import combined
from services.coordinator.adapter.initial import initial
from services.coordinator.adapter.stepping import Came, Stand, stepped
from shared.core.lora import from_safetensors
from shared.core.lora.methods import METHODS
from shared.core.secagg.encoding import DividedNoise, Encoding, decode_sum, encode
from shared.events.ids import JobId, RoundId
from shared.events.plans import SessionPlan
from shared.events.values import PoissonSampled
from shared.job.plan import weight_of
from shared.job.specification import JobSpecification
from shared.sessions.contents import Contents

JOB = JobId("benchmark")
Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Client:
    """What one trains on.

    Attributes:
        records: its own; it declares as many.
        adapted: a model in its rank.
    """

    records: Sequence[TokenRecord]
    adapted: AdaptedModel


class HeldTrainer(LoraTrainer):
    """The worker's trainer, given models and records instead of files."""

    def __init__(self, clients: Mapping[str, Client]) -> None:
        super().__init__(device="cpu")
        self._clients, self._now = clients, next(iter(clients))
        self._data = {(JOB, Path(name)): list(client.records) for name, client in clients.items()}

    def check(self, job: JobSpecification) -> None:
        """The worker's own self-test of per-record gradients, on the first client. Raises: Refused."""
        first = self._clients[self._now]
        check_gradients(first.adapted, list(first.records), job.model.task)

    def update(self, name: str, task: TrainingTask) -> Vector:
        """(d,): what that client sends, in the federation's rank."""
        self._now = name
        return self.train(task, lambda *_: None, lambda: False).update

    def _model(self, job: JobSpecification, start: bytes = b"") -> AdaptedModel:
        return self._clients[self._now].adapted


def federate(job: JobSpecification, noise: float, clients: Mapping[str, Client]) -> tuple[bytes, bytes]:
    """Safetensors of the adapter after the job's rounds, and of what it adds to frozen weights.

    Args:
        job: of the federation; with one client there is nothing to be summed, and this is central training.
        noise: multiplier.
        clients: by name.
    """
    layout = next(iter(clients.values())).adapted.layout
    trainer, one_by_one = HeldTrainer(clients), not METHODS[job.lora.method].linear
    trainer.check(job)
    stand, base = Stand(initial(job, layout)), b""
    whole = max(client.adapted.rank for client in clients.values())
    ranks = {name: c.adapted.rank for name, c in clients.items() if c.adapted.rank < whole}
    records = {name: len(client.records) for name, client in clients.items()}
    for completed in range(job.rounds.count):
        contents = Contents.of(job, layout, completed, str(completed))
        adapter, moved = from_safetensors(stand.adapter), from_safetensors(base) if base else {}
        updates = {}
        for name, client in sorted(clients.items()):
            task = TrainingTask(
                JOB, RoundId(str(completed)), job, Path(name), adapter, PoissonSampled.of_round(job, noise),
                len(client.records), job.privacy.clip_norm, contents=contents, base=moved,
            )  # fmt: skip
            updates[name] = trainer.update(name, task)
        weights = {name: weight_of(job, count) for name, count in records.items()}
        rows = list(updates.values())
        if not one_by_one:
            rows = [rows[0] if len(rows) == 1 else summed(job, noise, updates, weights)]
        came = Came(
            np.concatenate(rows).astype("<f4").tobytes(), weights, ranks, records, len(clients),
            job.training.local_steps, noise,
        )  # fmt: skip
        if one_by_one:
            adapter_bytes, base = combined(job, layout, came, (stand.adapter, base))
            stand = Stand(adapter_bytes)
        else:
            stand = stepped(job, layout, contents, came, stand)
    return stand.adapter, base


def summed(
    job: JobSpecification, noise: float, updates: Mapping[str, Vector], weights: Mapping[str, float]
) -> Vector:
    """(d,): the weighted mean, of what all add up to as integers; with their noise where it is divided."""
    plan, dimension = SessionPlan.of(job, noise), len(next(iter(updates.values())))
    encoding, scaled = Encoding(dimension, plan.bits, plan.bound), plan.noise is not None
    if plan.noise is not None:
        encoding = DividedNoise(**dict(plan.noise)).encoding(dimension, plan.bits, plan.bound, None)
    total = np.zeros(encoding.length)
    for name, update in updates.items():
        total += encode(encoding, update, 1.0 if scaled else weights[name], os.urandom).values
    mean = decode_sum(encoding, total).astype(np.float64) / sum(weights.values())
    return mean.astype(np.float32)
