"""A worker's votes on when its job stops: one run of AboveThreshold over held-out losses, for a whole job."""

from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from services.client.ledger import Ledger
from shared.core.noise import KeyStream
from shared.core.privacy.above_threshold import AboveThreshold
from shared.errors import Refused
from shared.events import RoundStarted
from shared.job.evaluation import largest_loss, votes
from shared.job.specification import JobSpecification
from shared.ports import State

GRID = 64  # integer steps of one record's loss over its bound
NO_MORE = "ask no more votes of it in this job"
SENSITIVITY = 2 * GRID  # a record moves a difference of losses by 1, and may displace another that is read


class Stopping(State):
    """Where a job's run of AboveThreshold is. Secret, never leaves the client, and is never begun again.

    Attributes:
        threshold: noisy, in steps of `GRID`.
        losses: of the held-out records at each evaluation so far, summed, in the same steps.
        fired: whether the worker votes to stop, from now on.
    """

    kind: ClassVar[str] = "stopping"

    job_id: str
    query_scale: float
    threshold: int
    losses: tuple[int, ...] = ()
    fired: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        """The job."""
        return (self.job_id,)

    @classmethod
    def begin(cls, job_id: str, stop_epsilon: float, stream: KeyStream) -> Self:
        """Draw the threshold, once in a job."""
        run = AboveThreshold.begin(1 / stop_epsilon, SENSITIVITY, stream)
        return cls(job_id=job_id, query_scale=run.query_scale, threshold=run.threshold)

    def after(self, loss: int, patience: int, stream: KeyStream) -> Self:
        """One more evaluation, in which held-out losses sum up to `loss` steps: is it above that of
        `patience` of the worker's evaluations ago? The first `patience` ask nothing."""
        losses, fired = (*self.losses, loss), self.fired
        if len(losses) > patience:
            run = AboveThreshold(self.query_scale, self.threshold, fired)
            fired = run.asked(loss - losses[-1 - patience], stream).fired
        return self.replace(losses=losses, fired=fired)


def loss_steps(measured: NDArray[np.float64], job: JobSpecification) -> int:
    """Of (n, 2) what is right and the loss in nats of each record: losses over their bound, each rounded to
    0, ..., `GRID` steps, summed; what is not a number counts as the bound."""
    part = np.clip(np.nan_to_num(measured[:, 1] / largest_loss(job), nan=1.0), 0, 1)
    return int(np.rint(part * GRID).astype(np.int64).sum())


def check(started: RoundStarted, job: JobSpecification, stopping: Stopping | None, ledger: Ledger) -> None:
    """Whether the worker may vote in this round.

    Raises: Refused for a vote that nothing was charged for, or where the run was lost: a second one would
        cost as much again.
    """
    if started.kind != "evaluate" or not votes(job):
        return
    charged = any(
        entry.mechanism.kind == "pure" and entry.mechanism.steps and entry.phase == "spent"
        for entry in ledger.entries
    )
    if stopping is None and charged:
        raise Refused("job_id", "the state of this worker's votes is lost", NO_MORE)
    if stopping is not None and not charged:
        raise Refused("job_id", "this worker's votes are not in its ledger", NO_MORE)
    if stopping is None and started.reservation.mechanism.steps < 1:
        raise Refused("reservation", "nothing is charged for a first vote", "reserve evaluation.stop_epsilon")


def ballot(fired: bool, size: int) -> NDArray[np.float32]:
    """(size,): the vote; 1, since no protocol takes what is all 0; and nothing beside them."""
    values = np.zeros(size, np.float32)
    values[:2] = float(fired), 1
    return values
