"""The sparse vector technique: any number of questions, of which only the first that is above costs."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from shared.core.noise import DiscreteLaplace, KeyStream


@dataclass(frozen=True)
class AboveThreshold:
    """One run, (epsilon, 0)-private as a whole: whether each integer query, in turn, is at least 0.

    The first noisy query at or above the noisy threshold ends it: from there on the answer is yes, whatever
    is asked. Source: Dwork and Roth 2014, The Algorithmic Foundations of Differential Privacy, Algorithm 1
    and Theorem 3.23, with noise on integers, where the proof's shifts by the sensitivity are whole numbers.
    It holds for one run from its beginning: who loses the noisy threshold must not draw a second one.

    Attributes:
        query_scale: of the Laplace noise on a query, 4 x sensitivity / epsilon.
        threshold: noisy; secret, as `fired` is until it is told.
        fired: whether a query was above.
    """

    query_scale: float
    threshold: int
    fired: bool = False

    @classmethod
    def begin(cls, noise_multiplier: float, sensitivity: int, stream: KeyStream) -> Self:
        """Draw the threshold's noise, once.

        Args:
            noise_multiplier: 1 / epsilon, as of `Pure`.
            sensitivity: what adding or removing one unit changes any query by at most.
            stream: of cryptographic randomness.

        Raises: ValueError where noise of so large a scale has no table.
        """
        noise = DiscreteLaplace(2 * sensitivity * noise_multiplier)
        return cls(4 * sensitivity * noise_multiplier, _noised(0, noise, stream))

    def asked(self, query: int, stream: KeyStream) -> Self:
        """The run after one more query; its answer is `fired`."""
        if self.fired:
            return self
        above = _noised(query, DiscreteLaplace(self.query_scale), stream) >= self.threshold
        return replace(self, fired=above)


def _noised(value: int, noise: DiscreteLaplace, stream: KeyStream) -> int:
    return int(noise.add(np.array([value], np.int64), stream)[0])
