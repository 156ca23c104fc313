"""What the worker needs from training; services/client/training fulfils it with torch, tests with fakes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from shared.errors import FedloraError
from shared.events.coordinator import RoundKind
from shared.events.ids import JobId, RoundId
from shared.events.values import Layout, PoissonSampled
from shared.job.specification import JobSpecification
from shared.sessions.contents import Contents

if TYPE_CHECKING:
    from services.client.evaluating import HoldOut
    from services.client.stopping import Stopping


class Cancelled(FedloraError):
    """The round or the job ended while training was going on; nothing was released."""


@dataclass(unsafe_hash=True)  # not frozen: Python sets __traceback__ on what is raised
class DataError(FedloraError):
    """The data cannot be trained on; `row` counts from 1 (0: the file as a whole)."""

    row: int
    column: str
    reason: str

    def __str__(self) -> str:
        place = f"row {self.row}" if self.row else "the file"
        return f"{place}{f', column {self.column!r}' if self.column else ''}: {self.reason}"


@dataclass(frozen=True)
class Prepared:
    """The model is loaded and the data is valid.

    Attributes:
        layout: the adapter's tensors, in the federation's rank.
        rank: that this machine trains, where it is less.
        records: usable records, counted on this machine; private until the owner declares them.
        skipped: rows that were left out, with reasons; stays on this machine.
    """

    layout: Layout
    records: int
    skipped: tuple[DataError, ...]
    rank: int | None = None


@dataclass(frozen=True)
class TrainingTask:
    """One round's work.

    Attributes:
        adapter: trainable tensors at the start, float32, by PEFT name.
        mechanism: sampling rate, noise and number of steps; neither more nor less is done.
        declared_records: the public record count that the mean gradient is divided by (with q); where noise
            is divided, `weight_cap` where that is more, so that one record moves all clients' sums alike.
        clip_norm: to start with; adaptive clipping moves it from round to round.
        kind: whether the adapter is trained or evaluated.
        hold_out: which records are never trained on; None where nothing is evaluated.
        contents: what the round trains; None for all that is trainable.
        base: layer -> (m, n) that is added to its frozen weight, times LoRA's scale.
        start: safetensors of tensors in place of the public seed's; empty for none.
        control: (d,), SCAFFOLD's c - c_k, that is added to each noised gradient.
        stopping: where the worker's votes are; None before the first, and where nobody votes.
    """

    job_id: JobId
    round_id: RoundId
    specification: JobSpecification
    data: Path
    adapter: Mapping[str, NDArray[np.float32]]
    mechanism: PoissonSampled
    declared_records: int
    clip_norm: float
    kind: RoundKind = "train"
    hold_out: "HoldOut | None" = None
    contents: Contents | None = None
    base: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    start: bytes = b""
    control: NDArray[np.float64] | None = None
    stopping: "Stopping | None" = None


@dataclass(frozen=True)
class TrainingResult:
    """What a round gave.

    Attributes:
        update: new minus old trainable tensors, flattened in layout order, (d,) float32.
        noised: whether `update` has noise of its own. Where noise is divided it has none: it is for a session
            that adds some, and for nobody else.
        steps: that ran; all of them.
        clip_norm: at the end.
        stopping: where the worker's votes are with this one; None for what is no vote.
    """

    update: NDArray[np.float32]
    steps: int
    seconds: float
    clip_norm: float
    noised: bool = True
    stopping: "Stopping | None" = None


Progress = Callable[[str, int, int], None]  # phase, done, of


class Trainer(Protocol):
    """Blocking; the worker calls it in a thread, one call at a time for each trainer."""

    def prepare(
        self,
        job_id: JobId,
        specification: JobSpecification,
        data: Path,
        progress: Progress,
        start: bytes = b"",
    ) -> Prepared:
        """Load model and data; `start` is as in a task. Raises: Refused, DataError."""
        ...

    def train(self, task: TrainingTask, progress: Progress, cancelled: Callable[[], bool]) -> TrainingResult:
        """Train privately, without records that are held out. Raises: Cancelled when `cancelled()` becomes
        true."""
        ...

    def evaluate(
        self, task: TrainingTask, progress: Progress, cancelled: Callable[[], bool]
    ) -> NDArray[np.float64]:
        """Measure the adapter on records that are held out, at most `evaluation.records` of them.

        Returns: (n, 2), secret: of each record the share of what it asks that is right, and its mean loss in
            nats, neither of which depends on another record.
        Raises: Cancelled when `cancelled()` becomes true.
        """
        ...
