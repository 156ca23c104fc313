"""Frozen values that several events carry."""

import hashlib
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from shared.core.privacy import AdaptiveClipping, Mechanism, Skellam
from shared.core.robust.judging import Choice, Mix
from shared.events.ids import ClientId, ReservationId, Sha256
from shared.job.plan import (
    choice_of,
    divided_noise,
    fewest_in_a_sum,
    fewest_selected,
    is_divided,
    judged_singly,
    mechanism_of,
    planned_bound,
)
from shared.job.specification import JobSpecification, SecureProtocol


class Value(BaseModel):
    """A frozen part of an event."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class BlobRef(Value):
    """Content in the blob store, named by what it is."""

    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0)]


class TensorSpec(Value):
    """One tensor of the adapter, under its PEFT state-dict name.

    A frozen tensor (FFA's A) is derived from the job's public seed and never travels.
    """

    name: Annotated[str, Field(max_length=300)]
    shape: tuple[PositiveInt, ...]
    trainable: bool


class Layout(Value):
    """The adapter's tensors in canonical order (sorted by name)."""

    tensors: tuple[TensorSpec, ...]

    @property
    def dimension(self) -> int:
        """Number of trained parameters d: the length of an update."""
        total = 0
        for tensor in self.tensors:
            if tensor.trainable:
                size = 1
                for extent in tensor.shape:
                    size *= extent
                total += size
        return total

    @property
    def trainable(self) -> tuple[TensorSpec, ...]:
        """The tensors that are trained, in the order in which an update is flattened."""
        return tuple(tensor for tensor in self.tensors if tensor.trainable)

    @property
    def sha256(self) -> str:
        """Digest of names, shapes and trainable flags: two clients agree iff these are equal."""
        lines = "".join(f"{t.name} {list(t.shape)} {t.trainable}\n" for t in self.tensors)
        return hashlib.sha256(lines.encode()).hexdigest()


class PoissonGaussian(Value):
    """`steps` releases of a clipped sum over Poisson-sampled records plus noise.

    Attributes:
        kind: `poisson-gaussian`, a client's own; `poisson-skellam`, of a sum over clients, on integers.
        sampling_rate: q, the probability that a record joins a step; the sample is secret.
        noise_multiplier: standard deviation of the noise over the clip norm, or over what a record moves the
            integers by; of everything that a step releases together.
        bits_noise_multiplier: of the clipping bits that adaptive clipping releases beside the sum, which
            then has the noise that is left of `noise_multiplier`; None without.
        l2_sensitivity: for integers: a record moves them by as much as so many steps in L2, at the least.
        steps: compositions.
    """

    kind: Literal["poisson-gaussian", "poisson-skellam"] = "poisson-gaussian"
    sampling_rate: Annotated[float, Field(gt=0, le=1)]
    noise_multiplier: Annotated[float, Field(gt=0)]
    bits_noise_multiplier: Annotated[float | None, Field(gt=0)] = None
    l2_sensitivity: Annotated[float | None, Field(gt=0)] = None
    steps: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        if (self.kind == "poisson-skellam") != (self.l2_sensitivity is not None):
            raise ValueError("a sensitivity in steps belongs to integers, and they need one")
        if self.l2_sensitivity is not None and self.bits_noise_multiplier is not None:
            raise ValueError("no clipping bits are released beside integers")
        return self

    @model_validator(mode="after")
    def _noise_is_left_for_the_sum(self) -> Self:
        bits = self.bits_noise_multiplier
        if bits is not None and bits <= self.noise_multiplier:
            raise ValueError("bits with so little noise leave none for the sum")
        return self

    @classmethod
    def of_round(cls, specification: JobSpecification, noise_multiplier: float) -> Self:
        """What one client releases in one round of the job."""
        return cls.of(mechanism_of(specification, noise_multiplier, specification.training.local_steps))

    @classmethod
    def of(cls, mechanism: Mechanism) -> Self:
        """Inverse of `core`."""
        bits = mechanism.bits_noise_multiplier if isinstance(mechanism, AdaptiveClipping) else None
        moved = mechanism.l2_sensitivity if isinstance(mechanism, Skellam) else None
        return cls(
            kind="poisson-gaussian" if moved is None else "poisson-skellam",
            sampling_rate=mechanism.sampling_rate,
            noise_multiplier=mechanism.noise_multiplier,
            bits_noise_multiplier=bits,
            l2_sensitivity=moved,
            steps=mechanism.steps,
        )

    def core(self) -> Mechanism:
        """As the accountants take it."""
        basics = self.sampling_rate, self.noise_multiplier, self.steps
        if self.l2_sensitivity is not None:
            return Skellam.of_any_dimension(*basics, self.l2_sensitivity)
        if self.bits_noise_multiplier is not None:
            return AdaptiveClipping(*basics, bits_noise_multiplier=self.bits_noise_multiplier)
        return Mechanism(*basics)


class Reservation(Value):
    """What one client may spend in one round, and where it stands if it does.

    Attributes:
        epsilon_after: the client's epsilon at `delta` over this job once the round is spent.
    """

    reservation_id: ReservationId
    client_id: ClientId
    mechanism: PoissonGaussian
    epsilon_after: float
    epsilon_limit: float
    delta: float


class Member(Value):
    """A client of one group, as whoever sums its update must know it.

    Attributes:
        verify_key: Ed25519, of everything that it signs.
        sealing_key: what is sealed to it as a key holder in this job; empty when it holds none.
        sealing_signature: its own, over `sealing.key_message`.
        weight: public factor on its update, in (0, 1].
    """

    verify_key: Annotated[bytes, Field(min_length=32, max_length=32)]
    sealing_key: bytes = b""
    sealing_signature: bytes = b""
    weight: Annotated[float, Field(gt=0, le=1)] = 1.0


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


class Finding(Value):
    """Why one client, or one group, counts for less than its share, or not at all.

    Attributes:
        subject: the client or group.
        figure: what was measured: distance, norm, cosine, likeness, neighbours, zero.
        value: of this one; a distance and a norm are in units of the updates.
        limit: what it was held against.
        weight: what it counts in the update, of 1 in all.
    """

    subject: Annotated[str, Field(max_length=200)]
    figure: Annotated[str, Field(max_length=40)]
    value: float
    limit: float
    weight: float

    @property
    def sentence(self) -> str:
        """For people."""
        if self.figure == "zero":
            return "its update is zero in every coordinate"
        if self.figure == "neighbours":
            return f"it is in {self.value:.0f} of the mixtures that count, where {self.limit:.4g} are even"
        side = "below" if self.figure == "cosine" else "above"
        return f"its {self.figure} of {self.value:.4g} is {side} {self.limit:.4g}"


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
        )


class LeftOut(Value):
    """A client or group without influence on an aggregate, and why.

    Attributes:
        sent_wrong: what it sent could not be taken; not that nothing came, or that a rule gave it no weight.
    """

    client_id: ClientId
    reason: str
    sent_wrong: bool = False


class Standing(Value):
    """How often a client has been left out of a job for what it sent, and whether it is asked at all.

    Attributes:
        score: standard deviations above what is expected of one client among equals.
        judged: rounds that count in the score.
        left_out: of those, rounds in which it was left out.
        finding: why it was left out the last time.
        spared: why it is still asked, though its score says otherwise; empty where that is not so.
        suspended: why it is not asked any more; empty while it is.
        revision: of this client in this job; a higher one is later.
    """

    score: float = 0.0
    judged: int = 0
    left_out: int = 0
    finding: str = ""
    spared: str = ""
    suspended: str = ""
    revision: int = 0
