"""How a job's updates are summed, noised and judged, as its session's parties compare it."""

from typing import Annotated, Self

from pydantic import Field, PositiveInt

from shared.core.lora.methods import METHODS
from shared.core.robust.judging import Choice, Mix
from shared.events.ids import ClientId
from shared.events.values import Value
from shared.job import evaluation
from shared.job.plan import (
    choice_of,
    divided_noise,
    fewest_in_a_sum,
    fewest_selected,
    is_divided,
    judged_singly,
    planned_bound,
)
from shared.job.specification import JobSpecification, SecureProtocol


class RulePlan(Value):
    """How a round's updates, or the sums of its groups, are judged.

    Attributes:
        name: of the rule.
        malicious: clients that may be hostile.
        mixing: what comes before the rule.
        bucket: how many are averaged, for mixing in buckets.
        root: the client whose update is trusted; empty for none.
        bits: of a coordinate, for rules that look at coordinates.
        bound: on a coordinate of one update, for the same.
        single: whether updates are judged one by one, where they are summed; groups are judged elsewhere.
    """

    name: str = "mean"
    malicious: int = 0
    mixing: str = "none"
    bucket: int = 2
    root: str = ""
    bits: int = 16
    bound: float = 1.0
    single: bool = False

    @classmethod
    def of(cls, specification: JobSpecification, noise_multiplier: float) -> Self:
        """What the job says."""
        choice = choice_of(specification)
        return cls(
            name=choice.name,
            malicious=choice.hostile,
            mixing=choice.mix,
            bucket=choice.bucket,
            root=choice.root,
            bits=specification.aggregation.bits,
            bound=planned_bound(specification, noise_multiplier),
            single=judged_singly(specification),
        )

    def core(self) -> Choice:
        """As the rules take it."""
        return Choice(self.name, self.malicious, Mix(self.mixing), self.bucket, self.root)


class NoisePlan(Value):
    """How a sum's noise is divided over its clients; `encoding.divided` says what it comes to on integers.

    Attributes:
        noise_multiplier: standard deviation of the honest survivors' noise over what a record moves a
            client's integers by in L2.
        sensitivity: what a record moves a client's update by at most in L2, in the update's units.
        shares: honest survivors, at the least.
    """

    noise_multiplier: Annotated[float, Field(gt=0)]
    sensitivity: Annotated[float, Field(gt=0)]
    shares: PositiveInt

    @classmethod
    def of(cls, specification: JobSpecification, noise_multiplier: float) -> Self | None:
        """What the job says; None where each client has noise of its own."""
        if not is_divided(specification):
            return None
        return cls(**vars(divided_noise(specification, noise_multiplier)))


class SessionPlan(Value):
    """How a job's updates are summed: a pure function of what was announced, so that every party can
    compare what it is told in a round with what was agreed.

    Attributes:
        protocol: a name in the table of protocols.
        bits: of one encoded coordinate, sign included.
        bound: on one coordinate of a weighted (and rotated) update; beyond it is clipped.
        rotate: whether updates are rotated by a randomised Hadamard transform first.
        committee: the dedicated key holders by name; empty: the cohort's own workers.
        holders: the largest committee.
        fewest: a group's sum over fewer updates is never opened.
        selected: no sum is opened in which fewer updates have a weight.
        stage_s: how long a stage other than the upload may take.
        rule: what judges the updates.
        noise: what each client must add to its update, which has none of its own then.
        keeps: whether single updates are handed on beside their sum, as some LoRA methods ask.
    """

    protocol: SecureProtocol
    bits: int
    bound: Annotated[float, Field(gt=0)]
    rotate: bool
    committee: tuple[ClientId, ...] = ()
    holders: int = 64
    fewest: int = 2
    selected: int = 2
    stage_s: float = 10.0
    rule: RulePlan = RulePlan()
    noise: NoisePlan | None = None
    keeps: bool = False

    @classmethod
    def of(cls, specification: JobSpecification, noise_multiplier: float) -> Self:
        """What the job says."""
        aggregation = specification.aggregation
        return cls(
            protocol=aggregation.secure,
            bits=aggregation.bits,
            bound=planned_bound(specification, noise_multiplier),
            rotate=aggregation.rotate,
            committee=aggregation.key_holders,
            holders=aggregation.committee,
            fewest=fewest_in_a_sum(specification),
            selected=fewest_selected(specification),
            stage_s=aggregation.stage_s,
            rule=RulePlan.of(specification, noise_multiplier),
            noise=NoisePlan.of(specification, noise_multiplier),
            keeps=not METHODS[specification.lora.method].linear,
        )

    @classmethod
    def evaluating(cls, specification: JobSpecification) -> Self:
        """How an evaluation's sums are added up: by the job's protocol, over at least `min_clients`
        clients that weigh the same, without a rule."""
        aggregation, fewest = specification.aggregation, specification.rounds.min_clients
        noise = evaluation.divided_over(specification)
        return cls(
            protocol=aggregation.secure,
            bits=evaluation.BITS,
            bound=1.0,
            rotate=False,
            committee=aggregation.key_holders,
            holders=aggregation.committee,
            fewest=fewest,
            selected=fewest,
            stage_s=aggregation.stage_s,
            rule=RulePlan(bits=evaluation.BITS),
            noise=None if noise is None else NoisePlan(**vars(noise)),
        )
