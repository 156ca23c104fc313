"""One audited training run: the job's own steps, on its records and canaries, watched from inside."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from services.client.data.tokens import TokenRecord
from services.client.training.adapted_model import AdaptedModel
from services.client.training.auditing.canaries import (
    Canaries,
    Canary,
    CanaryOptimizer,
    dirac_canaries,
    watched,
)
from services.client.training.auditing.reference import clipped_sum
from services.client.training.clipping import clipping_for
from services.client.training.noise import KeyStream
from services.client.training.sampling import poisson_sample
from services.client.training.step import private_step
from services.client.training.trainer import local_optimizer
from shared.core.privacy import epsilon
from shared.core.privacy.audit import (
    Guesses,
    audited_epsilon,
    chi_squared_p_value,
    membership_scores,
    most_audited_epsilon,
)
from shared.events.values import PoissonSampled
from shared.job.plan import planned_noise
from shared.job.specification import JobSpecification

CONFIDENCE = 0.95
NOISE_ERROR = 1e-6  # chance that sound noise fails any of its tests


@dataclass(frozen=True)
class NoiseTest:
    """What a release leaves when the clipped sum is taken off must be the noise claimed, and nothing else.

    Attributes:
        what: the figure, which of all coordinates or in which direction.
        variance: found, over the one claimed; of a drift, its square over its variance.
        p_value: two-sided, of a chi-squared test.
    """

    what: str
    variance: float
    p_value: float


@dataclass(frozen=True)
class AuditReport:
    """What one run showed.

    Attributes:
        claimed_epsilon: of the job's sampling rate and noise over these steps, at the job's delta.
        audited_epsilon: lower bound at `confidence`; the claim is contradicted when it is larger.
        most_audited_epsilon: what the bound would be if every guess had been right.
        guesses: behind the bound.
        parameters: d, trained.
        records: of the job's data, beside the canaries.
    """

    sampling_rate: float
    noise_multiplier: float
    steps: int
    delta: float
    claimed_epsilon: float
    audited_epsilon: float
    most_audited_epsilon: float
    confidence: float
    guesses: Guesses
    noise: tuple[NoiseTest, ...]
    parameters: int
    records: int

    @property
    def refuted(self) -> bool:
        """The canaries contradict the claimed epsilon."""
        return self.audited_epsilon > self.claimed_epsilon

    @property
    def failed_noise(self) -> tuple[NoiseTest, ...]:
        """Tests that the noise fails."""
        return tuple(test for test in self.noise if test.p_value < NOISE_ERROR / len(self.noise))

    @property
    def sound(self) -> bool:
        """Nothing contradicts the claim, which is less than a proof of it."""
        return not self.refuted and not self.failed_noise


def audit(  # noqa: PLR0913 - a run, its size and its randomness
    adapted: AdaptedModel,
    job: JobSpecification,
    records: Sequence[TokenRecord],
    *,
    canaries: int,
    steps: int,
    stream: KeyStream,
) -> AuditReport:
    """Take `steps` private steps of the job on `records` and on each canary with probability 1/2.

    The auditor knows all but the coins: the model, the records and which were sampled, every release. The
    guarantee holds against that, since each record's sampling is independent of the others'.

    Args:
        adapted: of the job; moved by the steps.
        job: whose mechanism, clipping and optimizer are used.
        records: at least one.
        canaries: m >= 1.
        steps: T >= 1.
        stream: of coins, sampling and noise.

    Raises: Refused when there are more canaries than trained parameters; NoiseNotFound.
    Source: Steinke, Nasr, Jagielski 2023, arXiv:2305.08846, Algorithm 1.
    """
    mechanism = PoissonSampled.of_round(job, planned_noise(job)).model_copy(update={"steps": steps})
    planted = dirac_canaries(adapted, canaries, job.privacy.clip_norm, records)
    included = stream.uniform(canaries) <= 0.5
    seen = _watch(adapted, job, mechanism, records, planted, included, stream)
    scores = membership_scores(seen.shares, mechanism.sampling_rate, seen.noise)
    bound, guesses = audited_epsilon(scores, included, job.privacy.delta, CONFIDENCE)
    return AuditReport(
        sampling_rate=mechanism.sampling_rate,
        noise_multiplier=mechanism.noise_multiplier,
        steps=steps,
        delta=job.privacy.delta,
        claimed_epsilon=epsilon([mechanism.core()], job.privacy.delta),
        audited_epsilon=bound,
        most_audited_epsilon=most_audited_epsilon(canaries, job.privacy.delta, CONFIDENCE),
        confidence=CONFIDENCE,
        guesses=guesses,
        noise=seen.tests(),
        parameters=seen.parameters,
        records=len(records),
    )


class _Seen:
    """What T steps showed about m canaries and about the noise."""

    def __init__(self, steps: int, canaries: int, parameters: int) -> None:
        self.parameters = parameters
        self.shares = np.zeros((steps, canaries))
        self.noise = np.zeros((steps, canaries))
        self._squares: list[float] = []
        self._along: dict[str, list[float]] = {}
        self._before = np.zeros(parameters)

    def left_over(
        self, left: NDArray[np.float64], of_records: NDArray[np.float64], of_canaries: NDArray[np.float64]
    ) -> None:
        """`left` (d,) of a release, over the claimed standard deviation, and the two parts of its sum."""
        self._squares.append(float(left @ left))
        directions = {
            "records": of_records,
            "canaries": of_canaries,
            "noise of the step before": self._before,
        }
        for where, direction in directions.items():
            length = float(np.linalg.norm(direction))
            if length > 0:
                self._along.setdefault(where, []).append(float(left @ direction) / length)
        self._before = left

    def tests(self) -> tuple[NoiseTest, ...]:
        """The variance over all coordinates; in each direction the variance, and the sum over all steps."""
        squares = math.fsum(self._squares)
        found = [_test("variance over all coordinates", squares, self.parameters * len(self._squares))]
        for where, along in self._along.items():
            squares, drift = math.fsum(one**2 for one in along), math.fsum(along) ** 2 / len(along)
            found.append(_test(f"variance along the {where}", squares, len(along)))
            found.append(_test(f"drift along the {where}", drift, 1))
        return tuple(found)


def _test(what: str, squares: float, degrees: int) -> NoiseTest:
    return NoiseTest(what, squares / degrees, chi_squared_p_value(squares, degrees))


def _watch(  # noqa: PLR0913, PLR0917 - all that one run is made of
    adapted: AdaptedModel,
    job: JobSpecification,
    mechanism: PoissonSampled,
    records: Sequence[TokenRecord],
    planted: Canaries,
    included: NDArray[np.bool_],
    stream: KeyStream,
) -> _Seen:
    inside = planted.records()
    data = [*records, *(canary for canary in inside if included[canary.number])]
    parameters = list(adapted.trained.values())
    seen = _Seen(mechanism.steps, len(inside), sum(p.numel() for p in parameters))
    stepping, ahead = watched(adapted)
    clipping = clipping_for(job.privacy, job.privacy.clip_norm, mechanism.bits_noise_multiplier)
    expected = mechanism.sampling_rate * (len(records) + len(inside) / 2)
    optimizer = CanaryOptimizer(
        local_optimizer(job.training, parameters),
        noise_multiplier=mechanism.core().gradient_noise_multiplier,
        clipping=clipping,
        expected_batch_size=expected,
        stream=stream,
    )
    optimizer.plant(planted, ahead)
    released = np.zeros(seen.parameters)

    def look(_: CanaryOptimizer) -> None:
        flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        released[:] = flat.cpu().double().numpy() * expected

    optimizer.attach_step_hook(look)
    for step in range(mechanism.steps):
        chosen = poisson_sample(len(data), mechanism.sampling_rate, stream)
        sampled = [data[index] for index in np.unique(chosen)]
        sigma = mechanism.core().gradient_noise_multiplier * clipping.norm
        contributions = planted.contributions(clipping, len(parameters))
        real = [record for record in sampled if not isinstance(record, Canary)]
        of_records = clipped_sum(adapted, real, clipping, job.model.task)
        of_canaries = np.zeros_like(of_records)
        for record in sampled:
            if isinstance(record, Canary):
                of_canaries[planted.coordinates[record.number]] = contributions[record.number]
        private_step(stepping, optimizer, [data[index] for index in chosen], job.model.task, lambda: False)
        seen.left_over((released - of_records - of_canaries) / sigma, of_records, of_canaries)
        seen.shares[step] = (released - of_records)[planted.coordinates] / contributions
        seen.noise[step] = sigma / contributions
    return seen
