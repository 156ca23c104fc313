"""A smaller epsilon of this worker's owner: its noise multiplier, its clip norm, and its ledger."""

from services.client.ledger import Ledger
from services.client.policy import Policy, own_epsilon
from services.client.state import LocalJob
from shared.core.privacy import NoiseNotFound
from shared.errors import Refused
from shared.events.values import Layout, PoissonSampled
from shared.job.personal import own_clip_norm, own_mechanism, planned_own_noise
from shared.sessions.contents import Contents


def planned(job: LocalJob, policy: Policy) -> LocalJob:
    """The job with the owner's epsilon and the noise multiplier for it, where the job lets it be less.

    Takes a second or more. Raises: Refused where no noise is enough.
    """
    epsilon = own_epsilon(job.specification, policy)
    if epsilon is None:
        return job
    try:
        noise = planned_own_noise(job.specification, job.noise_multiplier, epsilon)
    except NoiseNotFound as error:
        raise Refused("privacy.epsilon", str(error), "plan fewer rounds; or the owner allows more") from None
    return job.replace(epsilon=epsilon, own_noise=noise)


def new_ledger(job: LocalJob) -> Ledger:
    """An empty ledger on the terms that the job announced, or on the owner's own."""
    privacy = job.specification.privacy
    return Ledger(
        job_id=job.job_id,
        epsilon=job.epsilon or privacy.epsilon,
        delta=privacy.delta,
        announced=PoissonSampled.of(
            own_mechanism(
                job.specification,
                job.noise_multiplier,
                job.own_noise or job.noise_multiplier,
                job.specification.training.local_steps,
            )
        ),
    )


def clip_norm(job: LocalJob, noise_multiplier: float, contents: Contents | None) -> float:
    """What a round begins with: the own one, so that its noise is everyone's; or where adaptive clipping has
    brought the job's.

    Args:
        job: the worker's.
        noise_multiplier: that is reserved for the round.
        contents: of the round; None for an evaluation, which clips no gradients.

    Raises: Refused where rounding alone costs more than the own budget.
    """
    if job.own_noise is None or contents is None:
        return job.clip_norm or job.specification.privacy.clip_norm
    return own_clip_norm(job.specification, job.noise_multiplier, noise_multiplier, contents.uploaded)


def check_layout(job: LocalJob, layout: Layout) -> None:
    """Raises: Refused where the job's first round is too large for the own budget."""
    if job.own_noise is not None:
        clip_norm(job, job.own_noise, Contents.of(job.specification, layout, 0, ""))
