"""What follows from a job's settings: how many steps, with how much noise."""

from shared.core.privacy import noise_multiplier_for
from shared.job.specification import JobSpecification

# Clipping bits with ten times the noise of a whole step cost the gradient 0.5 % more noise, and tell
# the share of clipped records to within 5 sigma / expected records.
BITS_NOISE = 10.0
ADAM_REACH = 3.2  # (1 - beta1) / sqrt(1 - beta2), the most by which a step moves over the learning rate


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


def fewest_in_a_sum(specification: JobSpecification) -> int:
    """No sum of fewer updates is ever opened: `min_clients`, or half a group where there are groups."""
    size = specification.aggregation.group_size
    fewest = specification.rounds.min_clients
    return fewest if size is None else min(fewest, max(2, size // 2))


def planned_bound(specification: JobSpecification, noise_multiplier: float) -> float:
    """The public bound on one coordinate of an update that is encoded in few bits."""
    if specification.aggregation.bound != "auto":
        return specification.aggregation.bound
    training = specification.training
    reach = training.learning_rate * training.local_steps
    if training.optimizer == "adam":
        return ADAM_REACH * reach
    return reach * specification.privacy.clip_norm * (1 + 6 * noise_multiplier) / (1 - training.momentum)


def planned_bits_noise(specification: JobSpecification, noise_multiplier: float) -> float | None:
    """Noise multiplier of the bits that adaptive clipping releases; None for the other rules."""
    return BITS_NOISE * noise_multiplier if specification.privacy.clipping == "adaptive" else None
