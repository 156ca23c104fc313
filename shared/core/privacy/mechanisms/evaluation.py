"""Noisy answers about the data that leave beside training."""

from dataclasses import dataclass

from shared.core.privacy.mechanisms.gaussian import Mechanism


@dataclass(frozen=True)
class EvaluationQueries(Mechanism):
    """`steps` Gaussian queries over all units, such as a noisy sum of clipped losses.

    Attributes:
        sampling_rate: 1, for every unit is asked.
        noise_multiplier: noise standard deviation / L2 sensitivity of one query.
        steps: queries.

    Raises: ValueError for another sampling rate.
    """

    def __post_init__(self) -> None:
        if self.sampling_rate != 1:
            raise ValueError(f"an evaluation query asks every unit: not a rate of {self.sampling_rate}")
