"""One step of every client at once, on the last layer's value matrix and the classifier.

The lower layers are frozen, and so are the last layer's queries and keys: what it attends to never changes,
and of its output a classifier reads the first position alone. Kept is, for each record and head, the attended
mean of the layer's input; the rest of the layer and the classifier are the model's own modules. Gradients of
all clients' records come from one pass; clipping, noise and the optimiser's move are the worker's.
`compare` holds one client's step against the worker's own.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from attacking.attended import kept
from services.client.data import Record, tokenise
from services.client.models import default_cache
from services.client.training.batching import Batching
from services.client.training.building import build
from services.client.training.clipping import clipping_for
from services.client.training.noise import KeyStream
from services.client.training.optimizer import SecureDPOptimizer
from services.client.training.sampling import poisson_sample
from services.client.training.step import losses, private_step
from services.client.training.trainer import local_optimizer
from shared.core.lora import flatten, unflatten
from shared.job.specification import JobSpecification, Task

Vector = NDArray[np.float64]
TOLERANCE, RECORDS_AT_ONCE = 1e-5, 512
TASK = Task.SEQUENCE_CLASSIFICATION


class SeededBytes:
    """SHAKE-256 of a seed, cut into consecutive pieces: for figures that can be made again."""

    def __init__(self, *seed: object) -> None:
        self._seed, self._position = repr(seed).encode(), 0

    def __call__(self, count: int) -> bytes:
        """The next `count` bytes."""
        self._position += count
        return hashlib.shake_256(self._seed).digest(self._position)[-count:]


@dataclass(frozen=True)
class Setting:
    """How a client trains in one step.

    Attributes:
        job: with its clipping rule, sampling rate and optimiser.
        noise: multiplier.
    """

    job: JobSpecification
    noise: float

    def optimizer(self, parameters: list[Any], records: int, stream: KeyStream) -> SecureDPOptimizer:
        """The worker's, fresh, as at the start of a round."""
        privacy = self.job.privacy
        return SecureDPOptimizer(
            local_optimizer(self.job.training, parameters),
            noise_multiplier=self.noise,
            clipping=clipping_for(privacy, privacy.clip_norm, None),
            expected_batch_size=privacy.sampling_rate * records,
            stream=stream,
        )


class LastLayer:
    """The model with what is kept of every record."""

    def __init__(self, job: JobSpecification, records: Sequence[Record]) -> None:
        self.adapted = build(job, default_cache(), torch.device("cpu"), None)
        self.tokens = tokenise(records, self.adapted.tokenizer, job)
        self.labels = np.array([record.label for record in records])
        self._trained = list(self.adapted.trained.values())
        self._shapes = [(tensor.name, tensor.shape) for tensor in self.adapted.layout.trainable]
        base = self.adapted.model.get_base_model()
        self._bert, self._layer = base.bert, base.bert.encoder.layer[-1]
        self._value = self._layer.attention.self.value
        self._head = base.classifier.modules_to_save["default"]
        self._out = self._value.lora_B["default"].weight
        attended, self._first = kept(self.adapted, self.tokens)
        heads, width = attended.shape[1], self._value.base_layer.weight.shape[0]
        weight = self._value.base_layer.weight.view(heads, width // heads, -1)
        with torch.no_grad():
            context = torch.einsum("nhi,hoi->nho", attended, weight).flatten(1)
            self._context = context + self._value.base_layer.bias
            self._low = attended @ self._value.lora_A["default"].weight.T * self._value.scaling["default"]

    @property
    def dimension(self) -> int:
        """Of an update."""
        return sum(int(np.prod(shape)) for _, shape in self._shapes)

    @property
    def start(self) -> NDArray[np.float32]:
        """(d,) before round 1."""
        return np.zeros(self.dimension, np.float32)

    def load(self, vector: NDArray[np.float32]) -> None:
        """Set what is trained."""
        self.adapted.load(unflatten(vector, self._shapes))

    def vector(self) -> NDArray[np.float32]:
        """(d,) of what is trained."""
        return flatten(self.adapted.trainable(), [name for name, _ in self._shapes])

    def accuracy(self, vector: NDArray[np.float32], rows: Sequence[int]) -> float:
        """The share of `rows` whose class is found."""
        self.load(vector)
        with torch.no_grad():
            _, logits = self._forward(np.asarray(rows))
        return float((logits.argmax(dim=1).numpy() == self.labels[list(rows)]).mean())

    def updates(
        self,
        vector: NDArray[np.float32],
        clients: Sequence[NDArray[np.int64]],
        labels: Sequence[NDArray[np.int64]],
        setting: Setting,
        streams: Sequence[KeyStream],
    ) -> Vector:
        """(n, d): what n clients send after one step.

        Args:
            vector: where they start.
            clients: for each, the rows of its records.
            labels: for each, the classes that it learns.
            setting: of the step.
            streams: for each, where its sample and noise come from.
        """
        self.load(vector)
        rate = setting.job.privacy.sampling_rate
        chosen = [poisson_sample(len(r), rate, s) for r, s in zip(clients, streams, strict=True)]
        rows = np.concatenate([r[c] for r, c in zip(clients, chosen, strict=True)])
        wanted = np.concatenate([r[c] for r, c in zip(labels, chosen, strict=True)])
        gradients = self._gradients(rows, wanted)
        ends = np.cumsum([len(c) for c in chosen])
        before = [p.detach().clone() for p in self._trained]
        result = np.empty((len(clients), self.dimension))
        for number, (end, stream) in enumerate(zip(ends, streams, strict=True)):
            optimizer = setting.optimizer(self._trained, len(clients[number]), stream)
            optimizer.zero_grad(set_to_none=True)
            for parameter, gradient in zip(self._trained, gradients, strict=True):
                parameter.grad_sample = gradient[end - len(chosen[number]) : end].clone()  # type: ignore[attr-defined] # Opacus' name
            optimizer.step()
            result[number] = self.vector().astype(np.float64) - vector
            with torch.no_grad():
                for parameter, old in zip(self._trained, before, strict=True):
                    parameter.copy_(old)
                    parameter.grad_sample = None  # type: ignore[attr-defined] # Opacus' name
        return result

    def compare(self, setting: Setting, rows: NDArray[np.int64], seed: int) -> float:
        """How far one client's update is from that of the worker's own step, relative to its largest value;
        and the same of logits. Sample and noise are the same.

        Raises: AssertionError beyond 1e-5.
        """
        rng = np.random.default_rng(seed)
        vector = rng.normal(0, 0.05, self.dimension).astype(np.float32)
        streams = [KeyStream(SeededBytes(seed)) for _ in range(2)]
        fast = self.updates(vector, [rows], [self.labels[rows]], setting, streams[:1])[0]
        self.load(vector)
        chosen = poisson_sample(len(rows), setting.job.privacy.sampling_rate, streams[1])
        optimizer = setting.optimizer(self._trained, len(rows), streams[1])
        sample = [self.tokens[row] for row in rows[chosen]]
        private_step(self.adapted, optimizer, sample, TASK, lambda: False)
        slow = self.vector().astype(np.float64) - vector
        off = float(np.abs(fast - slow).max() / np.abs(slow).max())
        with torch.no_grad():
            own = functional.cross_entropy(self._forward(rows)[1], self._classes(rows), reduction="none")
            batches = [Batching().split([self.tokens[row]]) for row in rows]
            worker = torch.cat([losses(self.adapted, next(batch), TASK) for batch in batches])
        off = max(off, float((own - worker).abs().max() / worker.abs().max()))
        assert off <= TOLERANCE, f"{off:.1e} beside the worker's step"
        return off

    def _classes(self, rows: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(self.labels[rows])

    def _forward(self, rows: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """What attention adds up, (n, width), and logits, (n, classes)."""
        low = self._low[rows]
        lifted = torch.einsum("nhr,hor->nho", low, self._out.view(low.shape[1], -1, low.shape[2]))
        context = (self._context[rows] + lifted.flatten(1)).detach().requires_grad_(True)
        attended = self._layer.attention.output(context, self._first[rows])
        hidden = self._layer.output(self._layer.intermediate(attended), attended)
        self._pooled = self._bert.pooler(hidden[:, None])
        return context, functional.linear(self._pooled, self._head.weight, self._head.bias)

    def _gradients(self, rows: NDArray[np.int64], wanted: NDArray[np.int64]) -> list[torch.Tensor]:
        """For each trained tensor, in the optimiser's order, (n, *shape)."""
        parts: list[list[torch.Tensor]] = []
        for at in range(0, len(rows), RECORDS_AT_ONCE):
            some = rows[at : at + RECORDS_AT_ONCE]
            context, logits = self._forward(some)
            targets = torch.from_numpy(wanted[at : at + RECORDS_AT_ONCE])
            total = functional.cross_entropy(logits, targets, reduction="sum")
            by_context, by_logits = torch.autograd.grad(total, [context, logits])
            low = self._low[some]
            by_head = by_context.view(len(some), low.shape[1], -1)
            found = {
                id(self._out): torch.einsum("nho,nhr->nhor", by_head, low).flatten(1, 2),
                id(self._head.weight): torch.einsum("no,ni->noi", by_logits, self._pooled.detach()),
                id(self._head.bias): by_logits,
            }
            parts.append([found[id(parameter)] for parameter in self._trained])
        if not parts:
            return [torch.zeros((0, *parameter.shape)) for parameter in self._trained]
        return [torch.cat(part) for part in zip(*parts, strict=True)]
