"""What a worker does for an evaluation: records held out by a secret of its home, and noise on their sums."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from services.client.policy import Policy
from services.client.stopping import Stopping, ballot, loss_steps
from services.client.trainer import Progress, Trainer, TrainingResult, TrainingTask
from shared.core.noise import KeyStream, noised
from shared.core.randomness import RandomBytes
from shared.core.secagg.sealing import bind
from shared.errors import Refused, Rejected
from shared.events import RoundStarted
from shared.events.values import PoissonSampled
from shared.job.evaluation import DIMENSION, divided_over, evaluates, largest_loss, own_noise, scale
from shared.job.specification import JobSpecification

DOMAIN = b"fedlora/held-out/v1"
WHOLE = 2**64


def hold_out_key(identity: Ed25519PrivateKey) -> bytes:
    """32 bytes that decide which records are held out: nobody else can tell, and it never leaves the home."""
    return hashlib.sha256(bind(DOMAIN, identity.private_bytes_raw())).digest()


@dataclass(frozen=True)
class HoldOut:
    """Which records are never trained on.

    Each record's lot is a keyed hash of its content alone: a record that is added or removed changes no
    other's, and equal records share theirs.

    Attributes:
        key: of `hold_out_key`.
        share: of the records that is held out, on average.
    """

    key: bytes
    share: float

    def lot(self, content: bytes) -> int:
        """Uniform on 0, ..., 2^64 - 1."""
        return int.from_bytes(hashlib.blake2b(content, key=self.key, digest_size=8).digest(), "big")

    def holds(self, content: bytes) -> bool:
        """Whether the record is held out."""
        return self.lot(content) < self.share * WHOLE

    def asked(self, contents: Sequence[bytes], most: int) -> list[int]:
        """Indices of the held-out records that an evaluation reads: the `most` of the lowest lots.

        One record more displaces one at the most, by which sums change by a difference of two vectors in
        [0, 1]^3 of the same count: by less than by one that is added.
        """
        lots = sorted((self.lot(content), index) for index, content in enumerate(contents))
        return [index for lot, index in lots if lot < self.share * WHOLE][:most]


def hold_out_of(job: JobSpecification, identity: Ed25519PrivateKey) -> HoldOut | None:
    """The job's; None where nothing is evaluated, and everything is trained on."""
    return HoldOut(hold_out_key(identity), job.evaluation.share) if evaluates(job) else None


def sums(measured: NDArray[np.float64], job: JobSpecification) -> NDArray[np.float64]:
    """(3,) of what one record changes by a vector in [0, 1]^3: correct, count, and loss over its bound.

    Args:
        measured: (n, 2), of each record what is correct, from 0 to 1, and its loss in nats; what is not a
            number counts as wrong.
        job: for the bound.

    Raises: Rejected for another shape, or for more records than the job asks.
    """
    if measured.ndim != 2 or measured.shape[1] != 2 or len(measured) > job.evaluation.records:
        raise Rejected(f"an evaluation of shape {measured.shape}")
    correct = np.clip(np.nan_to_num(measured[:, 0], nan=0.0), 0, 1)
    loss = np.clip(np.nan_to_num(measured[:, 1] / largest_loss(job), nan=1.0), 0, 1)
    return np.array([correct.sum(), float(len(measured)), loss.sum()])


def evaluate(
    trainer: Trainer,
    task: TrainingTask,
    progress: Progress,
    cancelled: Callable[[], bool],
    random_bytes: RandomBytes,
) -> TrainingResult:
    """What the worker uploads of an evaluation: its sums over `scale`, with its own noise where the session
    adds none.

    Where clients vote, its vote alone; the first one is charged for all.

    Raises: Cancelled when `cancelled()` becomes true; Rejected for what cannot be an evaluation.
    """
    job = task.specification
    if job.evaluation.stop_epsilon is not None:
        return _vote(
            trainer.evaluate(task, progress, cancelled), task, job.evaluation.stop_epsilon, random_bytes
        )
    found, sigma = sums(trainer.evaluate(task, progress, cancelled), job), own_noise(job)
    if sigma:
        found = noised(found, sigma, KeyStream(random_bytes))
    return TrainingResult((found / scale(job)).astype(np.float32), 1, 0.0, task.clip_norm, noised=sigma > 0)


def _vote(
    measured: NDArray[np.float64], task: TrainingTask, stop_epsilon: float, random_bytes: RandomBytes
) -> TrainingResult:
    job, stream = task.specification, KeyStream(random_bytes)
    sums(measured, job)  # of a shape that can be
    before = task.stopping or Stopping.begin(task.job_id, stop_epsilon, stream)
    after = before.after(loss_steps(measured, job), job.evaluation.patience or 1, stream)
    steps = 0 if task.stopping else 1
    return TrainingResult(ballot(after.fired, DIMENSION), steps, 0.0, task.clip_norm, stopping=after)


def announced(started: RoundStarted, job: JobSpecification) -> PoissonSampled | None:
    """What the job announced that an evaluation costs; None for a round of training."""
    return PoissonSampled.of_evaluation(job) if started.kind == "evaluate" else None


def check(job: JobSpecification, policy: Policy) -> Refused | None:
    """Why the owner's policy forbids the job's evaluations, or None."""
    divided = divided_over(job) if evaluates(job) else None
    stop_epsilon = job.evaluation.stop_epsilon
    noise = job.evaluation.noise_multiplier if stop_epsilon is None else 1 / stop_epsilon
    own = noise if divided is None else noise / math.sqrt(divided.shares)
    if not evaluates(job) or own >= policy.least_noise_multiplier:
        return None
    if stop_epsilon is not None:
        return Refused(
            "evaluation.stop_epsilon",
            f"a vote's noise is {own:g}, the owner allows at least {policy.least_noise_multiplier:g}",
            f"set evaluation.stop_epsilon: {1 / policy.least_noise_multiplier:.3g}",
        )
    return Refused(
        "evaluation.noise_multiplier",
        f"{own:g} of a client's own is asked, the owner allows at least {policy.least_noise_multiplier:g}",
        f"raise evaluation.noise_multiplier by a factor of {policy.least_noise_multiplier / own:.3g}",
    )
