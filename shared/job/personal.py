"""What a client does whose owner allows a smaller epsilon than the job's: the same noise, over a smaller clip
norm.

Its noise multiplier sigma_k is planned as the job's sigma is, for its own epsilon_k, and its clip norm is
C_k = C sigma / sigma_k: sigma_k C_k = sigma C. It is the `Scale` method of Boenisch et al. 2023 ("Have it
your way", arXiv:2303.17046) with one budget a client; without sampling C_k is C mu_k / mu in terms of
Gaussian differential privacy.
"""

from shared.core.privacy import Mechanism, Skellam, least_noise
from shared.job.evaluation import beside_training
from shared.job.plan import divided_noise, is_divided, mechanism_of, planned_bound, planned_steps
from shared.job.specification import JobSpecification

ANY_SEED = b"length"  # an encoding's length is that of every seed


def own_mechanism(
    specification: JobSpecification, noise_multiplier: float, own_noise: float, steps: int
) -> Mechanism:
    """What the client's records are exposed to in so many steps, as accountants take it.

    Divided noise is the same number of integer steps for all: for a client whose records move the integers by
    sigma / sigma_k of what others' move them by, it is sigma_k times that. Its sensitivity in steps is
    rounded down to four digits, which only costs more.

    Args:
        specification: the job's.
        noise_multiplier: the job's sigma.
        own_noise: sigma_k.
        steps: compositions.
    """
    whole = mechanism_of(specification, noise_multiplier, steps)
    if own_noise == noise_multiplier:
        return whole
    rate = specification.privacy.sampling_rate
    if isinstance(whole, Skellam):
        least = whole.l2_sensitivity * noise_multiplier / own_noise
        return Skellam.of_any_dimension(rate, own_noise, steps, float(f"{least * (1 - 5e-4):.4g}"))
    return Mechanism(rate, own_noise, steps)


def planned_own_noise(specification: JobSpecification, noise_multiplier: float, epsilon: float) -> float:
    """sigma_k >= sigma: the least that keeps the whole job, its evaluations included, under `epsilon`.

    Raises: NoiseNotFound, also where the evaluations alone cost more.
    """
    delta, steps = specification.privacy.delta, planned_steps(specification)
    least = least_noise(
        epsilon,
        delta,
        lambda noise: own_mechanism(specification, noise_multiplier, noise, steps),
        beside=beside_training(specification),
    )
    return max(noise_multiplier, least)


def own_clip_norm(
    specification: JobSpecification, noise_multiplier: float, own_noise: float, dimension: int
) -> float:
    """C_k <= C, the L2 bound on one record's gradient.

    C sigma / sigma_k; where noise is divided it is less, for rounding moves the integers as far as it does
    other clients': what counts is what a record moves them by after rounding.

    Args:
        specification: the job's.
        noise_multiplier: the job's sigma.
        own_noise: sigma_k.
        dimension: d, uploaded values of the round.

    Raises: Refused where rounding alone moves the integers too far.
    """
    clip_norm, ratio = specification.privacy.clip_norm, noise_multiplier / own_noise
    if not is_divided(specification) or ratio >= 1:
        return clip_norm * min(ratio, 1.0)
    aggregation = specification.aggregation
    factor = divided_noise(specification, noise_multiplier).lessened(
        ratio,
        dimension,
        aggregation.bits,
        planned_bound(specification, noise_multiplier),
        ANY_SEED if aggregation.rotate else None,
    )
    return clip_norm * factor
