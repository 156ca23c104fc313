"""What is private without a delta, however it is made."""

from dataclasses import dataclass

from shared.core.privacy.mechanisms.gaussian import Mechanism


@dataclass(frozen=True)
class Pure(Mechanism):
    """`steps` releases that are (epsilon, 0)-private each, such as one whole run of AboveThreshold.

    Attributes:
        sampling_rate: 1.
        noise_multiplier: 1 / epsilon: the scale of Laplace noise over the sensitivity, of that epsilon.

    Raises: ValueError for another sampling rate.
    """

    def __post_init__(self) -> None:
        if self.sampling_rate != 1:
            raise ValueError(f"no sampling amplifies it: not a rate of {self.sampling_rate}")

    @property
    def epsilon(self) -> float:
        """Of one release."""
        return 1 / self.noise_multiplier
