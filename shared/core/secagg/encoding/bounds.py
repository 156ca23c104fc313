"""Public defaults for an encoding's bound: how far honest training can move one coordinate.

A bound that is too small clips, which biases; one that is too large only widens the step. So these are
near-certain bounds, computed from a job's settings and never from data.
"""

import math
from dataclasses import dataclass

import numpy as np

from shared.core.secagg.encoding.rotation import block_for

REACH = 6.0  # standard deviations: a coordinate of Gaussian noise is beyond with a probability of 2e-9
ADAM_BETAS = (0.9, 0.999)


@dataclass(frozen=True)
class Adam:
    """So many steps of Adam; neither clipping nor noise changes how far it can go.

    The bound of a coordinate is `reach` and always holds. All coordinates may reach it at once, so that a
    rotation, where the bound is 6 times as much, buys nothing.
    """

    learning_rate: float
    steps: int

    def reach(self) -> float:
        """The largest move of a coordinate, whatever the gradients.

        The sum over t of sqrt(sum_k w_k^2 / u_k), w and u the weights of the gradients in the bias-corrected
        first and second moment at step t: Cauchy and Schwarz on |m| / sqrt(v). It is 1.02 learning rates a
        step for 10 steps and comes close to 7.3 for thousands; (1 - b1) / sqrt(1 - b2) = 3.2, often quoted,
        is for a lone gradient after zeros, and growing ones exceed it.
        Source: Kingma, Ba 2015, arXiv:1412.6980, Algorithm 1.
        """
        first, second = ADAM_BETAS
        t = np.arange(1.0, self.steps + 1)
        decay = first**2 / second
        moments = ((1 - first) / (1 - first**t)) ** 2 * (1 - second**t) / (1 - second)
        return self.learning_rate * float(np.sqrt(moments * (1 - decay**t) / (1 - decay)).sum())

    def bound(self, block: int) -> float:
        """Of a coordinate, rotated in blocks of that size; 1 where there is no rotation."""
        return self.reach() * min(REACH, math.sqrt(block))


@dataclass(frozen=True)
class Sgd:
    """So many steps of SGD on gradients (sum of clipped + N(0, (z c)^2)) / b.

    A coordinate is within c sum_k w_k + 6 c sqrt(sum_k w_k^2 / b) for the records, drawn by Poisson sampling,
    if all had one and the same gradient along one axis, plus 6 z c sqrt(sum_k w_k^2) / b for the noise;
    w_k = (1 - m^k) / (1 - m), k = 1 to `steps`, all times the learning rate. After a rotation the records'
    part is 6 / sqrt(block) as much, the noise's the same.

    Attributes:
        clip_norm: L2 bound c on one record's gradient; the largest, where it adapts.
        noise_multiplier: z.
        expected_batch: b, sampling rate times records; of the client that has fewest.
        momentum: m, without dampening.
    """

    learning_rate: float
    steps: int
    clip_norm: float = 1.0
    noise_multiplier: float = 0.0
    expected_batch: float = 1.0
    momentum: float = 0.0

    def bound(self, block: int) -> float:
        """Of a coordinate, rotated in blocks of that size; 1 where there is no rotation."""
        weights = (1 - self.momentum ** np.arange(1.0, self.steps + 1)) / (1 - self.momentum)
        root = math.sqrt(float(weights @ weights))
        records = float(weights.sum()) + REACH * root / math.sqrt(self.expected_batch)
        noise = REACH * self.noise_multiplier * root / self.expected_batch
        return self.learning_rate * self.clip_norm * (rotated_bound(records, block) + noise)


def coordinate_bound(training: Adam | Sgd, rotated_dimension: int | None = None) -> float:
    """What a coordinate of one round's update is within, in its units, for weights of at most 1.

    Args:
        training: of the client, from an optimiser that starts the round fresh.
        rotated_dimension: d where the encoding rotates, None where it does not.
    """
    return training.bound(1 if rotated_dimension is None else block_for(rotated_dimension))


def rotated_bound(norm: float, block: int) -> float:
    """What a rotated coordinate of a vector of that L2 norm is within, but for a probability of 3e-8.

    min(1, 6 / sqrt(block)) norm: the coordinate is a sum of the block's values with random signs, over
    sqrt(block), so P(beyond t norm / sqrt(block)) <= 2 exp(-t^2 / 2) (Hoeffding 1963, Theorem 2), as long as
    the values do not depend on the signs.
    """
    return norm * min(1.0, REACH / math.sqrt(block))
