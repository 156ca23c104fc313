"""What follows from a job's settings: how many steps, with how much noise."""

from shared.core.privacy import noise_multiplier_for
from shared.job.specification import JobSpecification

# Clipping bits with ten times the noise of a whole step cost the gradient 0.5 % more noise, and tell
# the share of clipped records to within 5 sigma / expected records.
BITS_NOISE = 10.0


def planned_steps(specification: JobSpecification) -> int:
    """Of one client, over all rounds."""
    return specification.training.local_steps * specification.rounds.count


def planned_noise(specification: JobSpecification) -> float:
    """The noise multiplier that all rounds of the job use. Raises: NoiseNotFound."""
    privacy = specification.privacy
    if privacy.noise_multiplier != "auto":
        return privacy.noise_multiplier
    return noise_multiplier_for(
        privacy.epsilon, privacy.delta, privacy.sampling_rate, planned_steps(specification)
    )


def planned_bits_noise(specification: JobSpecification, noise_multiplier: float) -> float | None:
    """Noise multiplier of the bits that adaptive clipping releases; None for the other rules."""
    return BITS_NOISE * noise_multiplier if specification.privacy.clipping == "adaptive" else None
