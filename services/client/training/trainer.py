"""The worker's trainer: prepares a job, and trains one round privately."""

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from services.client.data import Record, TokenCache, TokenRecord, read_records, tokenise
from services.client.models import default_cache
from services.client.trainer import Prepared, Progress, TrainingResult, TrainingTask
from services.client.training import corrections, evaluating
from services.client.training.adapted_model import AdaptedModel
from services.client.training.bases import choose_device
from services.client.training.building import build
from services.client.training.clipping import clipping_for
from services.client.training.noise import KeyStream
from services.client.training.optimizer import SecureDPOptimizer
from services.client.training.sampling import poisson_sample
from services.client.training.self_test import check_gradients, check_noise
from services.client.training.step import clipped_sum, private_step
from shared.core.lora import flatten, from_safetensors
from shared.errors import Refused, Rejected
from shared.events.ids import JobId
from shared.job.plan import full_batch, is_divided
from shared.job.specification import JobSpecification, Training

Span = Callable[..., AbstractContextManager[None]]
# One model a process and job: an embedded federation's clients take turns on it.
_MODELS: dict[str, AdaptedModel] = {}
_MODEL_LOCK = threading.Lock()


def _silent(name: str, **attributes: Any) -> AbstractContextManager[None]:  # noqa: ANN401 - span attributes
    return nullcontext()


class LoraTrainer:
    """Trainer with torch.

    Attributes:
        streams: gives each piece of training its noise and its samples; a worker's come from the operating
            system's source, and only a simulation has another.
    """

    def __init__(  # noqa: PLR0913 - the owner's settings
        self,
        *,
        span: Span = _silent,
        cache_dir: Path | None = None,
        device: str = "auto",
        memory_mib: int | None = None,
        max_rank: int | None = None,
        token_cache: TokenCache | None = None,
        streams: Callable[..., KeyStream] = KeyStream,
    ) -> None:
        self._span = span
        self._cache = cache_dir or default_cache()
        self._device = choose_device(device)
        self._budget = None if memory_mib is None else memory_mib << 20
        self._max_rank = max_rank
        self._token_cache = token_cache
        self.streams = streams
        self._data: dict[tuple[JobId, Path], list[TokenRecord]] = {}

    def prepare(
        self,
        job_id: JobId,
        specification: JobSpecification,
        data: Path,
        progress: Progress,
        start: bytes = b"",
    ) -> Prepared:
        """See the port."""
        progress("reading", 0, 1)
        with self._span("load", job=job_id):
            records, skipped = read_records(data, specification.data, specification.model)
            with _MODEL_LOCK:
                progress("loading the model", 0, 1)
                adapted = self._model(specification, start)
                tokens = self._tokens(records, adapted.tokenizer, specification, progress)
                progress("self-test", 0, 1)
                check_noise(KeyStream())
                check_gradients(adapted, tokens, specification.model.task)
        self._data[job_id, data] = tokens
        whole = {tensor.name: tensor.shape for tensor in adapted.layout.tensors}
        same = all(tuple(p.shape) == whole[name] for name, p in adapted.parameters.items())
        return Prepared(adapted.layout, len(records), skipped, None if same else adapted.rank)

    def part(
        self, job_id: JobId, data: Path, rows: Sequence[int], streams: Callable[..., KeyStream]
    ) -> "LoraTrainer":
        """A trainer that has of the prepared `data` only `rows`, numbers from 0 among the usable records.

        Raises: Rejected for data that is not prepared.
        """
        if (job_id, data) not in self._data:
            raise Rejected(f"{data} is not prepared for {job_id}")
        found = copy(self)
        found.streams = streams
        records = self._data[job_id, data]
        found._data = {(job_id, data): [records[row] for row in rows]}
        return found

    def train(self, task: TrainingTask, progress: Progress, cancelled: Callable[[], bool]) -> TrainingResult:
        """See the port."""
        job, mechanism = task.specification, task.mechanism
        expected = "poisson-skellam" if is_divided(job) else "poisson-gaussian"
        if mechanism.kind != expected:
            raise Refused("reservation", f"the job trains with {expected}", "reserve what it announced")
        if (task.job_id, task.data) not in self._data:  # this process has started since
            self.prepare(task.job_id, job, task.data, progress, task.start)
        records = evaluating.trained_on(self._data[task.job_id, task.data], task.hold_out)
        started_s = time.monotonic()
        with _MODEL_LOCK:
            adapted = self._at(task)
            stream = self.streams()
            if is_divided(job):
                progress("training", 0, 1)
                chosen = poisson_sample(len(records), mechanism.sampling_rate, stream)
                with self._span("train", steps=1):
                    update = _sum(task, adapted, [records[index] for index in chosen], cancelled)
                progress("training", 1, 1)
                seconds = time.monotonic() - started_s
                return TrainingResult(update, 1, seconds, task.clip_norm, noised=False)
            clipping = clipping_for(job.privacy, task.clip_norm, mechanism.bits_noise_multiplier)
            optimizer = SecureDPOptimizer(
                local_optimizer(job.training, list(adapted.trained.values())),
                noise_multiplier=mechanism.core().gradient_noise_multiplier,
                clipping=clipping,
                expected_batch_size=mechanism.sampling_rate * task.declared_records,
                stream=stream,
                correct=corrections.of(task, adapted),
            )
            before = adapted.trainable()
            with self._span("train", steps=mechanism.steps):
                for step in range(mechanism.steps):
                    progress("training", step, mechanism.steps)
                    with self._span("local step", step=step + 1):
                        chosen = poisson_sample(len(records), mechanism.sampling_rate, stream)
                        sample = [records[index] for index in chosen]
                        private_step(adapted, optimizer, sample, job.model.task, cancelled)
                    if step == 0:
                        _expect_movement(task, adapted, before)
            update = moved_by(adapted, task, before)
        progress("training", mechanism.steps, mechanism.steps)
        return TrainingResult(update, mechanism.steps, time.monotonic() - started_s, clipping.norm)

    def evaluate(
        self, task: TrainingTask, progress: Progress, cancelled: Callable[[], bool]
    ) -> NDArray[np.float64]:
        """See the port."""
        job = task.specification
        if task.hold_out is None:
            raise Refused("evaluation.every", "no records are held out", "set evaluation.every")
        if (task.job_id, task.data) not in self._data:
            self.prepare(task.job_id, job, task.data, progress, task.start)
        records = self._data[task.job_id, task.data]
        asked = evaluating.asked(records, task.hold_out, job.evaluation.records)
        with _MODEL_LOCK, self._span("evaluate"):
            progress("evaluating", 0, 1)
            adapted = self._at(task)
            return evaluating.measure_each(adapted, asked, job.model.task, cancelled)

    def _tokens(
        self,
        records: Sequence[Record],
        tokenizer: Any,  # noqa: ANN401 - transformers' tokenizers share no public type
        job: JobSpecification,
        progress: Progress,
    ) -> list[TokenRecord]:
        def make() -> list[TokenRecord]:
            return tokenise(records, tokenizer, job, progress)

        cache = self._token_cache
        return make() if cache is None else cache.tokens(records, tokenizer, job, make)

    def _at(self, task: TrainingTask) -> AdaptedModel:
        """The job's model where the round begins, ready to train what the round trains."""
        adapted = self._model(task.specification, task.start)
        adapted.train_only(trained_names(task, adapted))
        adapted.load(task.adapter)
        adapted.shift(task.base)
        return adapted

    def _model(self, job: JobSpecification, start: bytes = b"") -> AdaptedModel:
        lora, privacy = job.lora.model_dump_json(), job.privacy.model_dump_json()
        shape = privacy + job.rounds.model_dump_json() + job.training.model_dump_json()
        # Rank auto follows from noise and steps too.
        key = f"{self._device}{self._cache}{self._budget}{job.model.model_dump_json()}{lora}{job.seed}"
        key += shape if job.lora.rank == "auto" else ""
        key += f"{self._max_rank}{hashlib.sha256(start).hexdigest()}"
        if key not in _MODELS:
            _MODELS.clear()  # one at a time: a base model is most of a machine's memory
            given = from_safetensors(start) if start else None
            _MODELS[key] = build(
                job, self._cache, self._device, self._budget, max_rank=self._max_rank, start=given
            )
        return _MODELS[key]


def _sum(
    task: TrainingTask, adapted: AdaptedModel, sample: Sequence[TokenRecord], cancelled: Callable[[], bool]
) -> NDArray[np.float32]:
    """(d,): one step of SGD without its noise, scaled so that clients' weights, which are their declared
    records over `weight_cap`, make of all sums one gradient over all records."""
    job, mechanism = task.specification, task.mechanism
    if mechanism.steps != 1:
        raise Refused("reservation.steps", f"{mechanism.steps} steps without noise", "reserve one")
    clipping = clipping_for(job.privacy, task.clip_norm, None)
    total = clipped_sum(adapted, clipping, sample, job.model.task, cancelled)
    batch = max(full_batch(job), mechanism.sampling_rate * task.declared_records)
    factor = -job.training.learning_rate / batch
    scaled = {name: (factor * part).astype(np.float32) for name, part in total.items()}
    return flatten(adapted.padded(scaled), trained_names(task, adapted))


def trained_names(task: TrainingTask, adapted: AdaptedModel) -> list[str]:
    """What the round trains, in the order in which its update is flattened."""
    tensors = adapted.layout.trainable if task.contents is None else task.contents.tensors
    return [tensor.name for tensor in tensors]


def moved_by(
    adapted: AdaptedModel, task: TrainingTask, before: Mapping[str, NDArray[np.float32]]
) -> NDArray[np.float32]:
    """(d,): what training did since `before`, in the federation's rank."""
    names, after = trained_names(task, adapted), adapted.trainable()
    return flatten(adapted.padded({name: after[name] - before[name] for name in names}), names)


def local_optimizer(training: Training, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The job's, fresh, for what is trained."""
    if training.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=training.learning_rate, momentum=training.momentum)
    return torch.optim.Adam(parameters, lr=training.learning_rate)


def _expect_movement(
    task: TrainingTask, adapted: AdaptedModel, before: Mapping[str, NDArray[np.float32]]
) -> None:
    """Noise alone moves every trained tensor: one that stands still is not being trained."""
    after = adapted.trainable()
    for name in trained_names(task, adapted):
        if (after[name] == before[name]).all():
            raise Refused("lora", f"{name} did not move in training", "report this model as unsupported")
