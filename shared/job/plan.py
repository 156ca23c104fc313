"""What follows from a job's settings: how many steps, with how much noise."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from shared.core.privacy import AdaptiveClipping, Mechanism, Skellam, least_noise
from shared.core.robust.judging import Choice
from shared.job.evaluation import beside_training
from shared.job.specification import JobSpecification

if TYPE_CHECKING:
    from shared.core.secagg.encoding.divided import DividedNoise

# Clipping bits with ten times the noise of a whole step cost the gradient 0.5 % more noise, and tell
# the share of clipped records to within 5 sigma / expected records.
BITS_NOISE = 10.0
QUANTILE_RATE = 0.2  # by which a step of adaptive clipping follows its quantile, in the logarithm
MOST_GROWTH = math.log(16)  # of a clip norm, where the bound is planned: it costs 4 of the bits
LEAST_ROTATED = 2049  # coordinates: those are rotated in blocks of 4096, as are all larger updates
MEAN = "mean"
# The parts of a cohort that `secagg` plans its graph of neighbours for.
SECAGG_LOST, SECAGG_COLLUDING = 0.1, 0.05


def planned_steps(specification: JobSpecification) -> int:
    """Of one client, over all rounds."""
    return specification.training.local_steps * specification.rounds.count


def planned_noise(specification: JobSpecification) -> float:
    """The noise multiplier that all rounds of the job use. Raises: NoiseNotFound."""
    privacy = specification.privacy
    if privacy.noise_multiplier != "auto":
        return privacy.noise_multiplier
    return least_planned_noise(specification)


def least_planned_noise(specification: JobSpecification) -> float:
    """The least noise multiplier that keeps the whole job, its evaluations included, under epsilon.

    Raises: NoiseNotFound.
    """
    privacy, steps = specification.privacy, planned_steps(specification)
    beside = beside_training(specification)
    if is_divided(specification):
        return least_noise(
            privacy.epsilon,
            privacy.delta,
            lambda noise: mechanism_of(specification, noise, steps),
            beside=beside,
        )
    return least_noise(
        privacy.epsilon,
        privacy.delta,
        lambda noise: Mechanism(privacy.sampling_rate, noise, steps),
        beside=beside,
    )


def mechanism_of(specification: JobSpecification, noise_multiplier: float, steps: int) -> Mechanism:
    """What one client's records are exposed to in so many steps, as accountants take it.

    Divided noise is Skellam over the least sensitivity in steps that the encoding can have, rounded down to
    four digits.
    """
    rate = specification.privacy.sampling_rate
    if is_divided(specification):
        aggregation, noise = specification.aggregation, divided_noise(specification, noise_multiplier)
        least = noise.least_sensitivity(aggregation.bits, planned_bound(specification, noise_multiplier))
        return Skellam.of_any_dimension(rate, noise_multiplier, steps, float(f"{least * (1 - 5e-4):.4g}"))
    bits = planned_bits_noise(specification, noise_multiplier)
    if bits is None:
        return Mechanism(rate, noise_multiplier, steps)
    return AdaptiveClipping(rate, noise_multiplier, steps, bits_noise_multiplier=bits)


def is_divided(specification: JobSpecification) -> bool:
    """Whether only a sum has noise enough, of which each client adds a share."""
    return specification.privacy.noise == "divided"


def honest_survivors(specification: JobSpecification) -> int:
    """At least so many clients of an opened sum add noise that nobody knows who looks at it: without those
    that may be malicious, and one more, for each client knows its own."""
    return fewest_in_a_sum(specification) - specification.aggregation.malicious - 1


def noise_on_sum(specification: JobSpecification) -> float:
    """Standard deviation of the noise on the sum of a round's clients, over the clip norm."""
    clients = specification.rounds.clients_per_round or specification.rounds.min_clients
    return planned_noise(specification) * math.sqrt(clients / noise_shares(specification))


def noise_shares(specification: JobSpecification) -> int:
    """How many clients' noise makes up the noise multiplier; 1 where each client's own does."""
    return honest_survivors(specification) if is_divided(specification) else 1


def divided_noise(specification: JobSpecification, noise_multiplier: float) -> "DividedNoise":
    """How one sum's noise is divided; in the units of an update: one record moves one by the learning rate x
    clip norm / expected batch of a client with `weight_cap` records."""
    from shared.core.secagg.encoding.divided import DividedNoise  # noqa: PLC0415 - compiles

    move = specification.training.learning_rate * specification.privacy.clip_norm
    return DividedNoise(noise_multiplier, move / full_batch(specification), honest_survivors(specification))


def full_batch(specification: JobSpecification) -> float:
    """Expected records of a step of a client that declares `weight_cap` of them."""
    return specification.privacy.sampling_rate * (specification.aggregation.weight_cap or 1)


def clients_asked(specification: JobSpecification) -> int | None:
    """By a round: more than it needs, against stragglers; None for all that are ready."""
    rounds = specification.rounds
    if rounds.clients_per_round is None:
        return None
    return math.ceil(rounds.clients_per_round * (1 + rounds.over_selection))


def fewest_in_a_sum(specification: JobSpecification) -> int:
    """No sum of fewer updates is ever opened: `min_clients`, or 1 where rounds are asynchronous; of a group,
    half of it, and at least `smallest_group`, which `none` has no use for."""
    aggregation, rounds = specification.aggregation, specification.rounds
    fewest = 1 if rounds.asynchronous else rounds.min_clients
    if aggregation.group_size is None:
        return fewest
    half = max(2, aggregation.group_size // 2)
    return min(fewest, half) if aggregation.secure == "none" else max(aggregation.smallest_group, half)


def choice_of(specification: JobSpecification) -> Choice:
    """The rule that judges, for how many malicious clients: the mean bears none, and is asked for none."""
    aggregation = specification.aggregation
    return Choice(
        aggregation.robust,
        0 if aggregation.robust == MEAN else aggregation.malicious,
        aggregation.mixing,
        aggregation.bucket,
        aggregation.root or "",
    )


def judged_singly(specification: JobSpecification) -> bool:
    """Whether a rule compares updates one by one, where they are summed; the sums of groups are compared
    after that."""
    aggregation = specification.aggregation
    return aggregation.robust != MEAN and aggregation.group_size is None


def fewest_selected(specification: JobSpecification) -> int:
    """No sum is opened in which fewer updates have a weight.

    Where they are judged one by one that is `smallest_group`, and at least 2 more than may be malicious.
    """
    aggregation, fewest = specification.aggregation, fewest_in_a_sum(specification)
    if not judged_singly(specification):
        return fewest
    return min(fewest, max(aggregation.smallest_group, aggregation.malicious + 2))


def largest_group(specification: JobSpecification, clients: int) -> int:
    """Of a cohort of at most that many clients; a cohort is cut into as many groups as fill up."""
    size = specification.aggregation.group_size
    return clients if size is None else min(clients, 2 * size - 1)


def smallest_group(specification: JobSpecification, clients: int) -> int:
    """Of a cohort of at least that many clients."""
    size = specification.aggregation.group_size
    return clients if size is None else min(clients, size)


def planned_bound(specification: JobSpecification, noise_multiplier: float) -> float:
    """The public bound on one coordinate of an update that is encoded in few bits, in the update's units.

    That of `encoding.bounds`, for expected batches of one record and more; where noise is divided, of a
    client with `weight_cap` records, without noise, for which the encoding makes room itself. Rotated, the
    bound of Adam holds in any dimension; that of SGD from `LEAST_ROTATED` coordinates on, and adapters below
    are refused, as is a clip norm that may grow by more than e^`MOST_GROWTH`.
    Rounded up to four digits, so that machines agree whose sums differ in the last bit.
    """
    aggregation = specification.aggregation
    if aggregation.bound != "auto":
        return aggregation.bound
    from shared.core.secagg.encoding import Adam, Sgd, coordinate_bound  # noqa: PLC0415 - compiles

    training, divided = specification.training, is_divided(specification)
    model: Adam | Sgd = Adam(training.learning_rate, training.local_steps)
    if training.optimizer == "sgd":
        growth = min(clip_norm_growth(specification), MOST_GROWTH)
        model = Sgd(
            training.learning_rate,
            training.local_steps,
            clip_norm=specification.privacy.clip_norm * math.exp(growth),
            noise_multiplier=0.0 if divided else _noise_on_gradients(specification, noise_multiplier),
            expected_batch=full_batch(specification) if divided else 1.0,
            momentum=training.momentum,
        )
    bound = coordinate_bound(model, LEAST_ROTATED if aggregation.rotate else None)
    return float(f"{bound * (1 + 5e-4):.4g}")


def clip_norm_growth(specification: JobSpecification) -> float:
    """By what adaptive clipping multiplies the clip norm at most, as a natural logarithm: rate x quantile a
    step, over all rounds, since a client goes on from where it was. 0 for the other rules."""
    privacy = specification.privacy
    adapts = privacy.clipping == "adaptive"
    return QUANTILE_RATE * privacy.clip_quantile * planned_steps(specification) if adapts else 0.0


def _noise_on_gradients(specification: JobSpecification, noise_multiplier: float) -> float:
    """Of the gradients alone, where clipping bits share the noise: (z^-2 - z_bits^-2)^(-1/2)."""
    if planned_bits_noise(specification, noise_multiplier) is None:
        return noise_multiplier
    return noise_multiplier / math.sqrt(1 - BITS_NOISE**-2)


def weight_of(specification: JobSpecification, records: int) -> float:
    """The public weight of a client that declared so many records, in (0, 1]: nobody gains by declaring more
    than the cap."""
    cap = specification.aggregation.weight_cap
    return 1.0 if cap is None else min(max(records, 1), cap) / cap


def mean_noise_variance(
    specification: JobSpecification, noise_multiplier: float, records: Sequence[int], steps: int
) -> float:
    """Of the noise in a coordinate of a round's mean update, in the adapter's units, before the server steps.

    Known where a client's steps are plain SGD: each adds the learning rate times noise of standard deviation
    noise multiplier x clip norm / expected batch; where noise is divided, that of the sum. 0 stands for what
    is not known: after local Adam or momentum, and with adaptive clipping, whose bound the client keeps.

    Args:
        specification: of the job.
        noise_multiplier: of every client.
        records: declared counts of those in the mean.
        steps: local ones of each.
    """
    training, privacy = specification.training, specification.privacy
    if training.optimizer != "sgd" or training.momentum or privacy.clipping == "adaptive" or not records:
        return 0.0
    weights = [weight_of(specification, count) for count in records]
    move = training.learning_rate * privacy.clip_norm * noise_multiplier
    if is_divided(specification):
        shares = len(records) / honest_survivors(specification)
        return shares * (move / full_batch(specification) / sum(weights)) ** 2
    each = (move / (privacy.sampling_rate * max(count, 1)) for count in records)
    total = sum((weight * deviation) ** 2 for weight, deviation in zip(weights, each, strict=True))
    return steps * total / sum(weights) ** 2


def planned_bits_noise(specification: JobSpecification, noise_multiplier: float) -> float | None:
    """Noise multiplier of the bits that adaptive clipping releases; None for the other rules."""
    return BITS_NOISE * noise_multiplier if specification.privacy.clipping == "adaptive" else None
