"""Which settings of aggregation go with each other, before anyone knows the cohort."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from shared.core.robust.judging import Needs, kind_of, names
from shared.core.secagg.oneshot.packed_shamir import FEWEST_HOLDERS, MOST_HOLDERS
from shared.errors import Refused
from shared.job.plan import MOST_GROWTH, clip_norm_growth, fewest_in_a_sum, judged_singly, planned_bound
from shared.job.refusals.robust import known_rule
from shared.job.specification import Aggregation, JobSpecification

AFTER_DEADLINE_S = 25.0  # of the 30 s that a coordinator waits for sums; the rest is for the aggregate
LARGEST_BOUND, SMALLEST_BOUND = 1e30, 1e-30


class Stages(NamedTuple):
    """Exchanges of `stage_s` each, before and after the upload."""

    before: int
    after: int


STAGES = {"none": Stages(0, 0), "oneshot": Stages(0, 1), "secagg": Stages(2, 2), "mpc3": Stages(0, 2)}


def _without_effect(job: JobSpecification) -> Iterator[Refused]:
    aggregation = job.aggregation
    secure = aggregation.secure
    if secure == "none":
        unused = ("rotate",) if _counts_coordinates(job) else ("bits", "bound", "rotate")
        for name in unused:
            if _is_set(aggregation, name):
                yield _no_use(name, "none sums 64-bit fixed point", "aggregation.secure: oneshot")
    if secure != "oneshot":
        for name in ("key_holders", "committee"):
            if _is_set(aggregation, name):
                yield _no_use(name, f"{secure} has no key holders", "aggregation.secure: oneshot")
    elif aggregation.key_holders and _is_set(aggregation, "committee"):
        yield _no_use("committee", "aggregation.key_holders already names them all", "")
    in_shares = judged_singly(job) and secure == "mpc3"
    if aggregation.group_size is None and not in_shares and _is_set(aggregation, "smallest_group"):
        least = max(aggregation.smallest_group, 2)
        yield _no_use("smallest_group", "there are no groups", f"aggregation.group_size: {least}")


def _counts_coordinates(job: JobSpecification) -> bool:
    """Whether a rule looks at the coordinates of single updates, as small integers."""
    name = job.aggregation.robust
    return judged_singly(job) and name in names() and kind_of(name).needs is Needs.COORDINATES


def _is_set(aggregation: Aggregation, name: str) -> bool:
    return bool(getattr(aggregation, name) != Aggregation.model_fields[name].default)


def _no_use(name: str, reason: str, instead: str) -> Refused:
    remedy = f"remove aggregation.{name}" + (f", or set {instead}" if instead else "")
    return Refused(f"aggregation.{name}", reason, remedy)


def _key_holders(job: JobSpecification) -> Iterator[Refused]:
    names = job.aggregation.key_holders
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        yield Refused(
            "aggregation.key_holders", f"{', '.join(repeated)} is listed twice", "list each key holder once"
        )
    elif names and not FEWEST_HOLDERS <= len(names) <= MOST_HOLDERS:
        yield Refused(
            "aggregation.key_holders",
            f"a committee of {len(names)}: the secrets of all updates need {FEWEST_HOLDERS} to "
            f"{MOST_HOLDERS} key holders",
            f"name {FEWEST_HOLDERS if len(names) < FEWEST_HOLDERS else MOST_HOLDERS}, or none: "
            "then the cohort's own workers hold them",
        )


def _groups(job: JobSpecification) -> Iterator[Refused]:
    aggregation, rounds = job.aggregation, job.rounds
    size, floor = aggregation.group_size, aggregation.smallest_group
    if size is None:
        return
    if rounds.clients_per_round is not None and size > rounds.clients_per_round:
        yield Refused(
            "aggregation.group_size",
            f"groups of {size}, and only {rounds.clients_per_round} clients are asked in a round",
            f"set aggregation.group_size: {rounds.clients_per_round}, or remove it",
        )
    if aggregation.secure != "none" and size < floor:
        yield Refused(
            "aggregation.group_size",
            f"a sum over {size} updates tells much of each: the privacy floor is {floor}",
            f"set aggregation.group_size: {floor}, or give privacy up: aggregation.smallest_group: {size}",
        )
        return
    fewest = fewest_in_a_sum(job)
    if rounds.min_clients < fewest:
        yield Refused(
            "rounds.min_clients",
            f"a round may end with {rounds.min_clients} updates, and no group's sum over fewer than "
            f"{fewest} is opened",
            f"set rounds.min_clients: {fewest}",
        )


def _stages(job: JobSpecification) -> Iterator[Refused]:
    secure, stage_s = job.aggregation.secure, job.aggregation.stage_s
    stages = STAGES[secure]
    if stages.after * stage_s > AFTER_DEADLINE_S:
        yield Refused(
            "aggregation.stage_s",
            f"{secure} has {stages.after} of them after the last upload, and a round is given up "
            f"when its sums take longer than {AFTER_DEADLINE_S:g} s",
            f"set aggregation.stage_s: {AFTER_DEADLINE_S / stages.after:g}",
        )
    elif stages.before and stages.before * stage_s > job.rounds.deadline_s / 2:
        yield Refused(
            "aggregation.stage_s",
            f"{secure} has {stages.before} of them before the upload, which leaves less than half of "
            f"rounds.deadline_s: {job.rounds.deadline_s:g} for training",
            f"set aggregation.stage_s: {job.rounds.deadline_s / 2 / stages.before:g}",
        )


def _bound(job: JobSpecification) -> Iterator[Refused]:
    clear = job.aggregation.secure == "none" and not _counts_coordinates(job)
    if clear or job.aggregation.bound != "auto":
        return
    if job.training.optimizer == "sgd" and clip_norm_growth(job) > MOST_GROWTH:
        yield Refused(
            "aggregation.bound",
            "adaptive clipping may raise the clip norm more than 16 times over all rounds, so that no "
            "bound follows from the settings",
            "set aggregation.bound: a coordinate's largest change in a round; or privacy.clipping: fixed",
        )
        return
    noise = job.privacy.noise_multiplier
    planned = planned_bound(job, 0.0 if noise == "auto" else noise)
    if not SMALLEST_BOUND <= planned <= LARGEST_BOUND:
        yield Refused(
            "aggregation.bound",
            f"training moves a coordinate by up to {planned:g}",
            "set privacy.clip_norm and training.learning_rate to ordinary values",
        )


AGGREGATION_RULES = (known_rule, _without_effect, _key_holders, _groups, _stages, _bound)
