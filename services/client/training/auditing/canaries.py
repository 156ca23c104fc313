"""Canaries: records that leave the model with a gradient of the auditor's own choice."""

import copy
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from services.client.data.tokens import TokenRecord
from services.client.training.adapted_model import AdaptedModel
from services.client.training.batching import Batching, MicroBatch
from services.client.training.clipping import Clipping
from services.client.training.optimizer import SecureDPOptimizer
from shared.errors import Refused

TIMES_CLIP_NORM = 10.0  # a canary's gradient before it is clipped: clipping is audited with the rest


@dataclass(frozen=True)
class Canary(TokenRecord):
    """A record that runs through the model as any other; `number` says which gradient it then gets."""

    number: int


@dataclass(frozen=True)
class Canaries:
    """m Dirac canaries: each one's gradient is zero but in one coordinate of its own.

    Source: Nasr et al. 2023, arXiv:2302.07956, Section 4; as used in Steinke et al. 2023, arXiv:2305.08846.

    Attributes:
        coordinates: (m,), of the trained tensors laid end to end; all different.
        tensors: (m,), the tensor that each is in.
        offsets: (m,), where in that tensor.
        norm: of each gradient.
        carrier: the record whose tokens they all have.
    """

    coordinates: NDArray[np.intp]
    tensors: NDArray[np.intp]
    offsets: NDArray[np.intp]
    norm: float
    carrier: TokenRecord

    def records(self) -> list[Canary]:
        """All m."""
        ids, targets = self.carrier.ids, self.carrier.targets
        return [Canary(ids, targets, number) for number in range(len(self.coordinates))]

    def contributions(self, clipping: Clipping, tensors: int) -> NDArray[np.float64]:
        """(m,) of each, clipped, in its coordinate; `clipping` learns nothing of them."""
        norms = torch.zeros((tensors, len(self.coordinates)))
        everyone = torch.arange(len(self.coordinates))
        at = torch.from_numpy(self.tensors)
        norms[at, everyone] = self.norm
        factors = copy.copy(clipping).factors(norms)[at, everyone]
        return np.asarray(factors.double().numpy() * self.norm, np.float64)


def dirac_canaries(
    adapted: AdaptedModel, count: int, clip_norm: float, records: Sequence[TokenRecord]
) -> Canaries:
    """Canaries spread evenly over the trained tensors, carried by the shortest of `records`.

    Raises: Refused when there are more canaries than coordinates.
    """
    sizes = np.array([parameter.numel() for parameter in adapted.trained.values()])
    if count > sizes.sum():
        raise Refused(
            "canaries",
            f"{count} canaries do not fit in the {sizes.sum()} trained parameters of this model",
            f"take at most {sizes.sum()}",
        )
    coordinates = np.arange(count) * int(sizes.sum()) // count
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    tensors = np.searchsorted(starts, coordinates, side="right") - 1
    carrier = min(records, key=lambda record: len(record.ids))
    return Canaries(coordinates, tensors, coordinates - starts[tensors], TIMES_CLIP_NORM * clip_norm, carrier)


@dataclass(frozen=True)
class WatchedBatching(Batching):
    """Batching that tells the optimizer which records each micro-batch will hold."""

    ahead: deque[MicroBatch] = field(default_factory=deque)

    def split(self, records: Sequence[TokenRecord]) -> Iterator[MicroBatch]:
        """See `Batching`."""
        for batch in super().split(records):
            self.ahead.append(batch)
            yield batch


def watched(adapted: AdaptedModel) -> tuple[AdaptedModel, deque[MicroBatch]]:
    """The same model, and the micro-batches of the step that it is about to take."""
    batching = WatchedBatching(**vars(adapted.batching))
    return replace(adapted, batching=batching), batching.ahead


class CanaryOptimizer(SecureDPOptimizer):
    """The optimizer that training uses, handed the canaries' gradients before it clips."""

    _canaries: Canaries
    _ahead: deque[MicroBatch]

    def plant(self, canaries: Canaries, ahead: deque[MicroBatch]) -> None:
        """Before the first step; `ahead` is filled by `watched`."""
        self._canaries, self._ahead = canaries, ahead

    def clip_and_accumulate(self) -> None:
        """Replaces the rows of canaries, then does what training does."""
        if self._ahead:  # none for an empty sample
            self._replace_rows(self._ahead.popleft())
        super().clip_and_accumulate()

    def _replace_rows(self, batch: MicroBatch) -> None:
        gradients = [p.grad_sample for p in self.params]
        for row, record in enumerate(batch.records):
            if isinstance(record, Canary):
                for gradient in gradients:
                    gradient[row] = 0.0
                chosen = gradients[self._canaries.tensors[record.number]]
                chosen[row].view(-1)[self._canaries.offsets[record.number]] = self._canaries.norm
