"""The worker's trainer: prepares a job, and trains one round privately."""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from services.client.data import TokenRecord, read_records, tokenise
from services.client.models import default_cache
from services.client.trainer import Prepared, Progress, TrainingResult, TrainingTask
from services.client.training.adapted_model import AdaptedModel, build, choose_device
from services.client.training.noise import KeyStream
from services.client.training.optimizer import SecureDPOptimizer
from services.client.training.sampling import poisson_sample
from services.client.training.self_test import check_gradients, check_noise
from services.client.training.step import private_step
from shared.core.lora import flatten
from shared.errors import Refused
from shared.events.ids import JobId
from shared.job.specification import JobSpecification, Training

Span = Callable[..., AbstractContextManager[None]]
# One model a process and job: an embedded federation's clients take turns on it.
_MODELS: dict[str, AdaptedModel] = {}
_MODEL_LOCK = threading.Lock()


def _silent(name: str, **attributes: Any) -> AbstractContextManager[None]:  # noqa: ANN401 - span attributes
    return nullcontext()


class LoraTrainer:
    """Trainer with torch. Noise and sampling come from the operating system's source."""

    def __init__(self, *, span: Span = _silent, cache_dir: Path | None = None, device: str = "auto") -> None:
        self._span = span
        self._cache = cache_dir or default_cache()
        self._device = choose_device() if device == "auto" else torch.device(device)
        self._data: dict[tuple[JobId, Path], list[TokenRecord]] = {}

    def prepare(self, job_id: JobId, specification: JobSpecification, data: Path) -> Prepared:
        """See the port."""
        with self._span("load", job=job_id):
            records, skipped = read_records(data, specification.data, specification.model)
            with _MODEL_LOCK:
                adapted = self._model(specification)
                tokens = tokenise(records, adapted.tokenizer, specification)
                check_noise(KeyStream())
                check_gradients(adapted, tokens, specification.model.task)
        self._data[job_id, data] = tokens
        return Prepared(adapted.layout, len(records), skipped)

    def train(self, task: TrainingTask, progress: Progress, cancelled: Callable[[], bool]) -> TrainingResult:
        """See the port."""
        job, mechanism = task.specification, task.mechanism
        if (task.job_id, task.data) not in self._data:  # this process has started since
            self.prepare(task.job_id, job, task.data)
        records = self._data[task.job_id, task.data]
        started_s = time.monotonic()
        with _MODEL_LOCK:
            adapted = self._model(job)
            adapted.load(task.adapter)
            stream = KeyStream()
            parameters = [p for p in adapted.parameters.values() if p.requires_grad]
            optimizer = SecureDPOptimizer(
                _optimizer(job.training, parameters),
                noise_multiplier=mechanism.noise_multiplier,
                clip_norm=job.privacy.clip_norm,
                expected_batch_size=mechanism.sampling_rate * task.declared_records,
                stream=stream,
            )
            with self._span("train", steps=mechanism.steps):
                for step in range(mechanism.steps):
                    progress("training", step, mechanism.steps)
                    with self._span("local step", step=step + 1):
                        chosen = poisson_sample(len(records), mechanism.sampling_rate, stream)
                        sample = [records[index] for index in chosen]
                        private_step(adapted, optimizer, sample, job.model.task, cancelled)
            names = [tensor.name for tensor in adapted.layout.trainable]
            after = adapted.trainable()
        _expect_movement(task, after)
        update = flatten(after, names) - flatten(task.adapter, names)
        progress("training", mechanism.steps, mechanism.steps)
        return TrainingResult(update, mechanism.steps, time.monotonic() - started_s)

    def _model(self, job: JobSpecification) -> AdaptedModel:
        key = f"{job.model.model_dump_json()}{job.lora.model_dump_json()}{job.seed}"
        if key not in _MODELS:
            _MODELS.clear()  # one at a time: a base model is most of a machine's memory
            _MODELS[key] = build(job, self._cache, self._device)
        return _MODELS[key]


def _optimizer(training: Training, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    if training.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=training.learning_rate, momentum=training.momentum)
    return torch.optim.Adam(parameters, lr=training.learning_rate)


def _expect_movement(task: TrainingTask, after: dict[str, Any]) -> None:
    """Noise alone moves every trained tensor: one that stands still is not being trained."""
    for name, before in task.adapter.items():
        if task.mechanism.steps and (after[name] == before).all():
            raise Refused("lora", f"{name} did not move in training", "report this model as unsupported")
